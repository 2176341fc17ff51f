"""The checks of directly written streams: what was answered against what the log holds.

They look at one part of the buckets at a time, so that memory stays small; a stream's rows and operations, and all that
one append writes, are in one bucket.
"""

import base64
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from chaos import findings, history
from chaos.findings import Findings
from chaos.history import FAIL, OK, Record

NO_STREAM: Final = -1
STREAM_EXISTS: Final = -2
ANY: Final = -3

_FOREVER: Final = float("inf")
_APPEND: Final = "append"
_CONFLICT: Final = "conflict"


class Event(NamedTuple):
    """A row of the log, as these checks need it."""

    shard: int
    position: int
    revision: int
    event_id: bytes
    kind: str
    payload: bytes
    original: tuple[int, int] | None


class Streams:
    """The streams of one part, by name, each with its events in the order of their revisions."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.copies: dict[str, list[Event]] = defaultdict(list)

    def add(self, row: Record) -> None:
        """Take a row of the log."""
        original = None if row["original_shard"] is None else (row["original_shard"], row["original_position"])
        event = Event(
            row["shard"],
            row["position"],
            row["revision"],
            uuid.UUID(row["event_id"]).bytes,
            row["type"].rpartition(".")[2],
            base64.b64decode(row["payload"]),
            original,
        )
        (self.events if original is None else self.copies)[row["stream"]].append(event)

    def check(self, found: Findings) -> None:
        """Each stream's revisions are 0, 1, 2 and so on, in the order of positions, and copies are copies."""
        for stream, events in self.events.items():
            order = [event.revision for event in events]
            events.sort(key=lambda event: event.revision)
            shards = {event.shard for event in events}
            found.expect(
                findings.DENSE,
                [event.revision for event in events] == list(range(len(events)))
                and (len(shards) > 1 or order == sorted(order)),
                f"{stream}: revisions {order[:20]}",
            )
            places = {(event.shard, event.position): event for event in events}
            for copy in self.copies.get(stream, ()):
                of = places.get(copy.original or (-1, -1))
                found.expect(
                    findings.DENSE,
                    of is not None
                    and (of.event_id, of.revision, of.payload) == (copy.event_id, copy.revision, copy.payload),
                    f"{stream}: the copy at {copy.shard}:{copy.position} is not what it was copied from",
                )


class Observation(NamedTuple):
    """Somebody learnt between two times that a stream's last revision was at least this one."""

    invoked: float
    completed: float
    revision: int


def check_direct(streams: Streams, operations: Sequence[Record], found: Findings) -> None:
    """Check the operations on streams of the direct clients."""
    by_id: dict[str, list[Record]] = defaultdict(list)
    reads: list[Record] = []
    for operation in operations:
        (by_id[operation["id"]] if operation["kind"] == "append" else reads).append(operation)
    where: dict[bytes, list[tuple[str, Event]]] = defaultdict(list)
    copies: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for copied in streams.copies.values():
        for event in copied:
            copies[event.event_id].append((event.shard, event.position))
    for stream, events in streams.events.items():
        if stream.startswith(f"{history.CATEGORY}-"):
            for event in events:
                where[event.event_id].append((stream, event))
    claimed: set[bytes] = set()
    began: dict[tuple[str, int], float] = {}
    for attempts in by_id.values():
        _check_append(attempts, where, copies, claimed, began, found)
    for identifier, places in where.items():
        stream, event = places[0]
        found.expect(
            findings.ABSENT,
            identifier in claimed,
            f"{stream}, revision {event.revision} ({event.shard}:{event.position}): nobody wrote this",
        )
        found.expect(
            findings.ABSENT,
            event.payload == history.payload(uuid.UUID(bytes=identifier)),
            f"{stream}, revision {event.revision}: another payload than was written",
        )
        found.expect(findings.ONCE, len(places) == 1, f"{stream}, revision {event.revision}: {len(places)} times")
    _check_reads(reads, streams, began, found)
    _check_order(operations, found)


def _check_append(
    attempts: Sequence[Record],
    where: Mapping[bytes, list[tuple[str, Event]]],
    copies: Mapping[bytes, list[tuple[int, int]]],
    claimed: set[bytes],
    began: dict[tuple[str, int], float],
    found: Findings,
) -> None:
    """All that was done with one append id, its one variant of other content included."""
    genuine = [attempt for attempt in attempts if not attempt["altered"]]
    for attempt in attempts:
        if attempt["altered"]:
            # Whatever was first under this id, the other is refused; which was first is seen by which is there.
            found.expect(
                findings.SAME,
                attempt["outcome"] != OK,
                f"append {attempt['id']}: came with other content, and was answered that it is written",
            )
    if not genuine:
        return
    first = genuine[0]
    name = f"append {first['id']} to {first['parts'][0][0]}"
    answers = [attempt["answer"] for attempt in genuine if attempt["outcome"] == OK]
    there: list[list[tuple[str, Event]]] = []
    expected = 0
    for part, (stream, _, count) in enumerate(first["parts"]):
        ids = [history.event_id(first["id"], part, index).bytes for index in range(count)]
        expected += count
        at = [place for identifier in ids for place in where.get(identifier, ())]
        claimed.update(ids)
        there.append(at)
        for place, event in at:
            began.setdefault((place, event.revision), min(attempt["invoked"] for attempt in genuine))
            found.expect(findings.ABSENT, place == stream, f"{name}: in {place}, not in {stream}")
    present = sum(map(len, there))
    if not answers:
        if all(attempt["outcome"] == FAIL for attempt in genuine):
            found.expect(findings.ABSENT, present == 0, f"{name}: was refused, and {present} of its events are there")
        else:
            found.expect(
                findings.UNKNOWN, present in {0, expected}, f"{name}: {present} of its {expected} events are there"
            )
            _check_places(name, first, there, found)
        return
    answer = answers[0]
    for other in answers[1:]:
        found.expect(
            findings.SAME,
            other["revisions"] == answer["revisions"],
            f"{name}: answered {answer}, then {other}",
        )
    if found.expect(findings.ONCE, present == expected, f"{name}: {present} of its {expected} events are there"):
        _check_places(name, first, there, found)
        last = max((event for part in there for _, event in part), key=lambda event: event.position)
        spans = [[part[0][1].revision, part[-1][1].revision] for part in there if part]
        found.expect(
            findings.ONCE, spans == answer["revisions"], f"{name}: answered {answer['revisions']}, is at {spans}"
        )
        for attempt in genuine:
            if attempt["outcome"] == OK:
                # Where its buckets have moved since, a repeated append is answered the place of the copy.
                places = [(last.shard, last.position)]
                places += copies.get(last.event_id, ()) if attempt["replayed"] else ()
                told = (attempt["answer"]["shard"], attempt["answer"]["position"])
                found.expect(
                    findings.SAME if attempt["replayed"] else findings.ONCE,
                    told in places,
                    f"{name}: answered to be at {told}, is at {places}",
                )
    fresh = [attempt for attempt in genuine if attempt["outcome"] == OK and not attempt["replayed"]]
    found.expect(findings.SAME, len(fresh) <= 1, f"{name}: was answered {len(fresh)} times that it is written only now")


def _check_places(name: str, append: Record, there: list[list[tuple[str, Event]]], found: Findings) -> None:
    """What is there is in one piece, and where the writer expected."""
    for part, (_, expectation, _) in zip(there, append["parts"], strict=True):
        if not part:
            continue
        revisions = [event.revision for _, event in part]
        found.expect(
            findings.ONCE,
            revisions == list(range(revisions[0], revisions[0] + len(revisions))),
            f"{name}: at revisions {revisions}",
        )
        right = {NO_STREAM: revisions[0] == 0, STREAM_EXISTS: revisions[0] > 0, ANY: True}
        found.expect(
            findings.ORDER,
            right.get(expectation, revisions[0] == expectation + 1),
            f"{name}: expected {expectation}, and is at revision {revisions[0]}",
        )


def _check_reads(
    reads: Sequence[Record], streams: Streams, began: Mapping[tuple[str, int], float], found: Findings
) -> None:
    for operation in reads:
        if operation["outcome"] != OK:
            continue
        stream, last = operation["stream"], operation["last"]
        events = streams.events.get(stream, [])
        name = f"read of {stream} at {operation['invoked']:.3f}"
        if found.expect(findings.READS, last < len(events), f"{name}: revision {last} is not in the log"):
            right = history.digest([event.event_id for event in events[: last + 1]])
            found.expect(findings.READS, right == operation["digest"], f"{name}: other events than the log holds")
            found.expect(
                findings.READS,
                last < 0 or began.get((stream, last), 0.0) <= operation["completed"],
                f"{name}: answered revision {last} before anybody wrote it",
            )


def _check_order(operations: Sequence[Record], found: Findings) -> None:
    """What is called after something was answered sees it: appends come behind it, reads and conflicts include it."""
    seen: dict[str, list[Observation]] = defaultdict(list)
    behind: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    for operation in operations:
        for stream, completed, revision, own in _learnt(operation):
            seen[stream].append(Observation(operation["invoked"], completed, revision))
            if own is not None:
                behind[stream].append((operation["invoked"], own, _word(operation)))
    for stream, later in behind.items():
        later.sort()
        answered = sorted(seen[stream], key=lambda one: one.completed)
        latest, at = -1, 0
        for invoked, revision, kind in later:
            while at < len(answered) and answered[at].completed < invoked:
                latest = max(latest, answered[at].revision)
                at += 1
            found.expect(
                findings.ORDER,
                revision > latest if kind == _APPEND else revision >= latest,
                f"{stream}: {kind} called at {invoked:.6f} is at {revision}, after {latest} was answered",
            )


def _word(operation: Record) -> str:
    return _CONFLICT if operation["kind"] == _APPEND and operation["outcome"] != OK else str(operation["kind"])


def _learnt(operation: Record) -> list[tuple[str, float, int, int | None]]:
    """Per stream: when the answer came, which revision it shows to exist, and what must be behind all that was answered
    before: the first revision written, or the last one seen (None: the answer may be of old).
    """
    completed = operation["completed"] if operation["completed"] is not None else _FOREVER
    if operation["kind"] == "read":
        return (
            [(operation["stream"], completed, operation["last"], operation["last"])]
            if operation["outcome"] == OK
            else []
        )
    if operation["conflict"] is not None:
        stream, actual = operation["conflict"]
        return [(stream, completed, actual, actual)]
    if operation["outcome"] == OK:
        written = [part[0] for part in operation["parts"] if part[2]]
        return [
            (stream, completed, last, None if operation["replayed"] else first)
            for stream, (first, last) in zip(written, operation["answer"]["revisions"], strict=True)
        ]
    return []
