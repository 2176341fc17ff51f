"""The tables beside the events: that they say what the events say.

Nearly all of `streams`, `appends` and `stream_metadata`, and of what is known of archives, follows from the events,
which the chain of hashes proves. What is read and answered goes by these tables, so a changed byte of theirs would lie
as well as one of an event. Two things are looked for: along the chain, that every event is told of rightly; and when
the end is reached, that the tables tell of nothing else.

The events of an append stand together in the log, and every event is of one append, so appends and events must tile
each other. A copy, of a bucket that moved here, is of an append whose own row is in the shard where it was written:
that row is compared. What no event tells is the id and the fingerprint of an append that was made here: of these it
can only be said that every append has one row.
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

from almagest.eventstore.v1.event_store_pb2 import StreamMetadataSet
from google.protobuf.message import DecodeError

from event_store.domain.chain import StoredEvent
from event_store.domain.stream import METADATA_CATEGORY

ROWS: Final = 1000
LONGEST: Final = 100_000
"""More events than one append can have."""


class Unreadable(Exception):
    """The database or a file cannot give a piece of the log, because what is on the disk is no longer what it was."""


class Fault(NamedTuple):
    """The first thing that does not hold: the position (0: none tells), what is wrong, the table and the row."""

    position: int
    detail: str
    table: str = "events"
    row: str = ""


class StreamRow(NamedTuple):
    """A row of `streams`."""

    stream: str
    origin: int
    revision: int
    bucket: int


class StreamEnds(NamedTuple):
    """A row of `streams`, whether there is a first event of it where it says so, and whether its last one is the last
    that there is; at one moment.
    """

    row: StreamRow
    begins: bool
    ends: bool


class AppendRow(NamedTuple):
    """A row of `appends`: `parts` are stream, first and last revision, of its main stream and then of further ones."""

    append_id: str
    fingerprint: bytes
    parts: tuple[tuple[str, int, int], ...]
    position: int


class SettingRow(NamedTuple):
    """A row of `stream_metadata`."""

    stream: str
    bucket: int
    revision: int
    max_count: int | None
    max_age: timedelta | None
    tombstoned: bool


class SettingEnds(NamedTuple):
    """A row of `stream_metadata`, its bucket and last revision by its stream of metadata (None: there is none), and
    whether the shard holds the bucket; at one moment.
    """

    row: SettingRow
    bucket: int | None
    last_revision: int | None
    held: bool


class Copy(NamedTuple):
    """An event that is a copy, and where it was written."""

    stream: str
    revision: int
    position: int


class Tables(Protocol):
    """The tables of one shard beside its events. Every method but those that return nothing raises `Unreadable`."""

    async def streams_of(self, names: Collection[str]) -> Mapping[str, StreamRow]:
        """The rows of streams, by name."""
        ...

    async def stream_ends(self, *, after: str, limit: int) -> Sequence[StreamEnds]:
        """The next streams by name, and whether they begin and end where they say."""
        ...

    async def doubled(self) -> StreamRow | None:
        """A stream that begins at an event at which another one begins."""
        ...

    async def appends_at(self, *, after: int, until: int) -> Sequence[AppendRow]:
        """The appends after a position up to another, in order."""
        ...

    async def appends_by_id(self, append_ids: Collection[str]) -> Mapping[str, AppendRow]:
        """The appends with these ids."""
        ...

    async def appends_of(self, copies: Sequence[Copy]) -> Sequence[str]:
        """The ids of the appends, made here, whose main streams end at these events of here, by where they are here."""
        ...

    async def append_astray(self) -> AppendRow | None:
        """An append that says to be where the log is not."""
        ...

    async def settings_of(self, streams: Collection[str]) -> Mapping[str, SettingRow]:
        """What is said of streams, by name."""
        ...

    async def setting_ends(self, *, after: str, limit: int) -> Sequence[SettingEnds]:
        """What is said of the next streams by name, and what their streams of metadata say of it."""
        ...

    async def held_of(self, buckets: Collection[int]) -> Collection[int]:
        """Which of these buckets the shard holds."""
        ...

    async def misplaced(self, events: Sequence[StoredEvent]) -> int | None:
        """The position of an archived event whose place in its file is not what is said of it."""
        ...

    def archive_faults(self) -> AsyncGenerator[tuple[int, Fault | None], None]:
        """How many rows about archives were compared with the files so far, and what is wrong with one, if any."""
        ...


class Beside:
    """Checks the tables of one shard while its log is read from one end to the other. It holds a page, and the events
    of one append.
    """

    def __init__(self, shards: Sequence[Tables], shard: int, *, begun: bool) -> None:
        """Check a shard. `begun`: the log is not read from its beginning, so it may begin within an append."""
        self._shards = shards
        self._tables = shards[shard]
        self._open: list[tuple[str, int, int]] = []
        self._begun = begun
        self._streams = 0
        self._until = 0
        self.rows = 0

    async def agree(self, events: Sequence[StoredEvent]) -> Fault | None:
        """What is said wrongly of the next events, which hold."""
        if not events:
            return None
        self._until = events[-1].position
        for table, check in (
            ("streams", self._check_streams),
            ("stream_metadata", self._check_settings),
            ("appends", self._check_appends),
            ("archived_streams", self._check_places),
        ):
            try:
                fault = await check(events)
            except Unreadable as error:
                fault = Fault(events[0].position, f"it cannot be read: {error}", table)
            if fault is not None:
                return fault
        return None

    async def _check_streams(self, events: Sequence[StoredEvent]) -> Fault | None:
        rows = await self._tables.streams_of({event.stream for event in events})
        for event in events:
            row = rows.get(event.stream)
            if row is None:
                return Fault(event.position, "this stream has an event and no row", "streams", event.stream)
            if (row.origin, row.bucket) != (event.origin, event.bucket):
                detail = (
                    f"it begins at {row.origin} in bucket {row.bucket},"
                    f" and its event at {event.origin} in bucket {event.bucket}"
                )
                return Fault(event.position, detail, "streams", event.stream)
            if row.revision < event.revision:
                detail = f"it ends with revision {row.revision}, and there is revision {event.revision}"
                return Fault(event.position, detail, "streams", event.stream)
            self._streams += not event.revision
        return None

    async def _check_settings(self, events: Sequence[StoredEvent]) -> Fault | None:
        said = {e.stream.partition("-")[2]: e for e in events if e.category == METADATA_CATEGORY}
        if not said:
            return None
        rows = await self._tables.settings_of(said)
        for stream, event in said.items():
            row = rows.get(stream)
            if row is None or row.revision < event.revision:
                detail = f"it does not tell of revision {event.revision} of {event.stream}"
                return Fault(event.position, detail, "stream_metadata", stream)
            if row.revision == event.revision and row != told(event):
                detail = f"it is not what revision {event.revision} of {event.stream} says"
                return Fault(event.position, detail, "stream_metadata", stream)
        return None

    async def _check_appends(self, events: Sequence[StoredEvent]) -> Fault | None:
        rows: dict[int, list[AppendRow]] = {}
        for row in await self._tables.appends_at(after=events[0].position - 1, until=events[-1].position):
            rows.setdefault(row.position, []).append(row)
        copied: dict[int, list[AppendRow]] = {}
        for event in events:
            if event.original_shard is None:
                self._open.append((event.stream, event.revision, event.position))
                if len(self._open) > LONGEST:
                    return self._of_none()
            for row in rows.get(event.position, ()):
                self.rows += 1
                if event.original_shard is None:
                    fault = self._written(row)
                    if fault is not None:
                        return fault
                elif (event.stream, event.revision) in {(stream, last) for stream, _, last in row.parts}:
                    copied.setdefault(event.original_shard, []).append(row)
                else:
                    detail = f"it says to end at position {event.position}, which is of another append"
                    return Fault(event.position, detail, "appends", row.append_id)
        return await self._of_source(copied) or await self._missing(events)

    def _written(self, row: AppendRow) -> Fault | None:
        """What is wrong between an append and the events since the one before it."""
        sizes = [last - first + 1 for _, first, last in row.parts]
        found = [(stream, revision) for stream, revision, _ in self._open]
        if min(sizes) > 0 and sum(sizes) <= LONGEST:
            said = [(stream, n) for stream, first, last in row.parts for n in range(first, last + 1)]
            if found and (said == found or (self._begun and said[-len(found) :] == found)):
                self._begun = False
                self._open.clear()
                return None
            if said == found[-len(said) :]:
                return self._of_none()
        detail = "the events that end at its position are not those that it says to have written"
        return Fault(row.position, detail, "appends", row.append_id)

    def _of_none(self) -> Fault:
        stream, revision, position = self._open[0]
        detail = f"revision {revision} of {stream}, at position {position}, is of no append"
        return Fault(position, detail, "appends")

    async def _of_source(self, copied: Mapping[int, Sequence[AppendRow]]) -> Fault | None:
        """What is wrong with the appends of copies, by what is said where they were made."""
        for shard, rows in copied.items():
            sources = await self._shards[shard].appends_by_id({row.append_id for row in rows})
            for row in rows:
                source = sources.get(row.append_id)
                if source is None or source._replace(position=row.position) != row:
                    detail = f"shard {shard}, where it was made, " + (
                        "does not know of it" if source is None else "says otherwise"
                    )
                    return Fault(row.position, detail, "appends", row.append_id)
        return None

    async def _missing(self, events: Sequence[StoredEvent]) -> Fault | None:
        """An append of copies that is not here, although the shard holds its bucket and so all of it."""
        copies = [event for event in events if event.original_shard is not None]
        if not copies:
            return None
        held = await self._tables.held_of({event.bucket for event in copies})
        by_shard: dict[int, list[Copy]] = {}
        for event in copies:
            if event.bucket in held and event.original_shard is not None:
                copy = Copy(event.stream, event.revision, event.original_position or 0)
                by_shard.setdefault(event.original_shard, []).append(copy)
        for shard, of_shard in by_shard.items():
            wanted = await self._shards[shard].appends_of(of_shard)
            known = await self._tables.appends_by_id(wanted)
            missing = [append_id for append_id in wanted if append_id not in known]
            if missing:
                detail = f"it was made in shard {shard}, its events are here, and it is not"
                return Fault(events[0].position, detail, "appends", missing[0])
        return None

    async def _check_places(self, events: Sequence[StoredEvent]) -> Fault | None:
        position = await self._tables.misplaced(events)
        if position is None:
            return None
        event = next(event for event in events if event.position == position)
        detail = f"revision {event.revision} of {event.stream} is not where it says, in the file that holds it"
        return Fault(position, detail, "archived_streams", f"{event.origin}")

    async def end(self) -> AsyncGenerator[Fault | None, None]:
        """What the tables tell of that is not in the log; now and then nothing, so that it is seen how far it is."""
        table = "appends"
        try:
            if self._open:
                yield self._of_none()
                return
            astray = await self._tables.append_astray()
            if astray is not None:
                detail = f"it says to end at position {astray.position}, where the log is not"
                yield Fault(0, detail, "appends", astray.append_id)
                return
            # By what is known of the files, the streams are checked whose events are there.
            table = "archives"
            async for fault in self._rest_of_archives():
                yield fault
            table = "streams"
            async for fault in self._rest_of_streams():
                yield fault
            table = "stream_metadata"
            async for fault in self._rest_of_settings():
                yield fault
        except Unreadable as error:
            yield Fault(0, f"it cannot be read: {error}", table)

    async def _rest_of_streams(self) -> AsyncGenerator[Fault | None, None]:
        after, begun = "", 0
        while page := await self._tables.stream_ends(after=after, limit=ROWS):
            for row, begins, ends in page:
                if not (begins and ends):
                    detail = (
                        f"there is no event at {row.origin} that begins it"
                        if not begins
                        else f"it ends with revision {row.revision}, and its events do not"
                    )
                    yield Fault(row.origin, detail, "streams", row.stream)
                    return
                begun += row.origin <= self._until
            after = page[-1].row.stream
            self.rows += len(page)
            yield None
        if begun != self._streams:
            row = await self._tables.doubled()
            detail = f"{begun} streams begin up to {self._until}, and {self._streams} events there begin one"
            yield Fault(0 if row is None else row.origin, detail, "streams", "" if row is None else row.stream)

    async def _rest_of_settings(self) -> AsyncGenerator[Fault | None, None]:
        after = ""
        while page := await self._tables.setting_ends(after=after, limit=ROWS):
            for row, bucket, last_revision, held in page:
                # What is said comes with the first of the events that say it, while a bucket is being moved here.
                ahead = not held and row.revision > (-1 if last_revision is None else last_revision)
                if not ahead and (row.bucket, row.revision) != (bucket, last_revision):
                    detail = "it tells of another revision or bucket than its stream of metadata has"
                    yield Fault(0, detail, "stream_metadata", row.stream)
                    return
            after = page[-1].row.stream
            self.rows += len(page)
            yield None

    async def _rest_of_archives(self) -> AsyncGenerator[Fault | None, None]:
        before = self.rows
        async for rows, fault in self._tables.archive_faults():
            self.rows = before + rows
            yield fault


def told(event: StoredEvent) -> SettingRow | None:
    """What an event says of a stream, as its row must say it."""
    try:
        said = StreamMetadataSet.FromString(event.payload)
    except DecodeError:
        return None
    wanted = said.metadata
    age = None
    if wanted.HasField("max_age"):
        age = timedelta(seconds=wanted.max_age.seconds, microseconds=wanted.max_age.nanos // 1000)
    count = wanted.max_count if wanted.HasField("max_count") else None
    return SettingRow(said.stream, event.bucket, event.revision, count, age, wanted.tombstoned)
