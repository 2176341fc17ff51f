"""Clients of the event store itself: they speak mutual TLS with the identities of its callers, each call through a relay."""

import asyncio
import contextlib
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.buckets import bucket_of
from chassis.errors import RemoteProblem
from google.protobuf import empty_pb2

from chaos import history
from chaos.history import CATEGORY, FAIL, OK, UNKNOWN, Record, Writer
from chaos.streams import ANY, NO_STREAM, STREAM_EXISTS

_TYPE: Final = "almagest.chaos.v1.Written"
_CALL_SECONDS: Final = 8.0
_LIVE_GROUPS: Final = 150
_EVENTS_PER_GROUP: Final = 120
_UNKNOWN_REASONS: Final = frozenset({"OUTCOME_UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED", "UNAVAILABLE"})
_REMEMBERED: Final = 5_000
_CATCH_UP_SECONDS: Final = 20

Stub: TypeAlias = Any
"""Of the event store; the generated types know stubs of synchronous channels only."""


@dataclass(eq=False)
class Group:
    """Two streams that live in one bucket, so that one append can write to both."""

    key: str
    events: int = 0
    known: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def streams(self) -> tuple[str, str]:
        """The names of both."""
        return f"{CATEGORY}-{self.key}", f"{CATEGORY}-{self.key}.b"


@dataclass(frozen=True)
class Wanted:
    """An append as it is asked for, as often as it is."""

    append_id: str
    group: Group
    parts: tuple[tuple[str, int, int], ...]
    """Stream, expectation and number of events of each part."""

    def message(self, token: str, *, altered: bool = False) -> event_store_pb2.Append:
        """The append on the wire. Altered: the same id with other content."""
        shift = 100 if altered else 0
        (stream, expectation, count), *others = self.parts
        return event_store_pb2.Append(
            append_id=self.append_id,
            stream=stream,
            partition_key=self.group.key,
            events=self._events(shift, count),
            fingerprint=b"altered" if altered else b"genuine",
            transaction_token=token,
            also=[
                event_store_pb2.StreamAppend(
                    stream=further,
                    partition_key=self.group.key,
                    events=self._events(shift + part, number),
                    **_expected(wanted),
                )
                for part, (further, wanted, number) in enumerate(others, 1)
            ],
            **_expected(expectation),
        )

    def _events(self, part: int, count: int) -> list[event_pb2.NewEvent]:
        ids = [history.event_id(self.append_id, part, index) for index in range(count)]
        return [
            event_pb2.NewEvent(event_id=str(identifier), type=_TYPE, payload=history.payload(identifier))
            for identifier in ids
        ]


def _expected(expectation: int) -> dict[str, Any]:
    names = {NO_STREAM: "no_stream", STREAM_EXISTS: "stream_exists", ANY: "any"}
    name = names.get(expectation)
    return {"exact_revision": expectation} if name is None else {name: empty_pb2.Empty()}


@dataclass(eq=False)
class Cancellation:
    """Ends calls at random awaits, as clients do that go away."""

    chance: random.Random
    counts: Counter[str]
    share: float = 0.02

    async def maybe(self, call: Any) -> Any:
        """The answer of a call, unless it is cancelled before."""
        task = asyncio.ensure_future(call)
        if self.chance.random() >= self.share:
            return await task
        done, _ = await asyncio.wait([task], timeout=self.chance.expovariate(1 / 0.01))
        if done:
            return await task
        task.cancel()
        self.counts["client cancelled"] += 1
        return await task


class Direct:
    """All direct writers and readers of a run."""

    def __init__(
        self,
        stubs: Sequence[Stub],
        *,
        token: Callable[[], str],
        record: Writer,
        chance: random.Random,
        cancellation: Cancellation,
        rate: float,
        several: bool,
    ) -> None:
        self._stubs = stubs
        self._token = token
        self._record = record
        self._chance = chance
        self._cancellation = cancellation
        self._rate = rate
        self._several = several
        self._groups: list[Group] = [self._new_group() for _ in range(_LIVE_GROUPS)]
        self._acknowledged: deque[Wanted] = deque(maxlen=_REMEMBERED)
        self._open: dict[str, Wanted] = {}
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def _new_group(self) -> Group:
        return Group(uuid.UUID(int=self._chance.getrandbits(128), version=4).hex)

    async def write(self, name: str, stop: asyncio.Event, writers: int) -> None:
        """Append and read until it is told to stop, at its share of the rate."""
        chance = self._chance
        due = time.monotonic()
        while not stop.is_set():
            if chance.random() < 0.2:
                await self._read(name, chance.choice(chance.choice(self._groups).streams))
                operations = 1
            else:
                wanted = [self._some() for _ in range(min(60, 1 + int(chance.expovariate(1 / 10))))]
                await self._append(name, [(one, altered) for one, altered in wanted])
                operations = len(wanted)
            # What a fault kept from being done is done after it.
            due = max(due + operations * writers / self._rate, time.monotonic() - _CATCH_UP_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await stop.wait()

    def _some(self) -> tuple[Wanted, bool]:
        """The next append: mostly a new one, sometimes one that was sent before."""
        chance = self._chance
        dice = chance.random()
        if dice < 0.05 and self._open:
            return self._open[chance.choice(list(self._open)[:200])], False
        if dice < 0.08 and self._acknowledged:
            return chance.choice(self._acknowledged), False
        if dice < 0.09 and self._acknowledged:
            return chance.choice(self._acknowledged), True
        at = chance.randrange(len(self._groups))
        group = self._groups[at]
        if group.events > _EVENTS_PER_GROUP:
            group = self._groups[at] = self._new_group()
        streams = list(group.streams)
        chance.shuffle(streams)
        several = self._several and chance.random() < 0.15
        parts = [
            (streams[0], self._expectation(group, streams[0]), 1 if chance.random() < 0.8 else chance.randint(2, 6))
        ]
        if several:
            parts.append((streams[1], self._expectation(group, streams[1]), chance.randint(0, 3)))
        wanted = Wanted(str(uuid.UUID(int=chance.getrandbits(128), version=4)), group, tuple(parts))
        group.events += sum(count for _, _, count in parts)
        return wanted, False

    def _expectation(self, group: Group, stream: str) -> int:
        chance, last = self._chance, group.known.get(stream)
        if last is None:
            return chance.choice((NO_STREAM, ANY, ANY, STREAM_EXISTS))
        return chance.choices(
            (ANY, last, max(0, last - chance.randint(1, 3)), STREAM_EXISTS, NO_STREAM), (40, 40, 8, 8, 4)
        )[0]

    async def _append(self, client: str, appends: Sequence[tuple[Wanted, bool]]) -> None:
        token = self._token()
        request = event_store_pb2.AppendRequest(
            appends=[wanted.message(token, altered=altered) for wanted, altered in appends]
        )
        records = [self._begun(client, wanted, altered) for wanted, altered in appends]
        for wanted, altered in appends:
            if not altered:
                self._open.setdefault(wanted.append_id, wanted)
        answer = await self._call(self._chance.choice(self._stubs).Append, request)
        now = time.monotonic()
        for at, (record, (wanted, _)) in enumerate(zip(records, appends, strict=True)):
            record["completed"] = now
            if isinstance(answer, str):
                record["reason"] = answer
            else:
                self._take(record, wanted, answer.results[at])
            self._done(record, wanted)

    async def _call(self, method: Any, request: Any) -> Any:
        """The answer, or in a word why there is none."""
        try:
            return await self._cancellation.maybe(method(request, timeout=_CALL_SECONDS))
        except RemoteProblem as problem:
            return problem.reason
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return "CANCELLED"
        except (OSError, TimeoutError) as error:
            return type(error).__name__

    def _begun(self, client: str, wanted: Wanted, altered: bool) -> Record:  # noqa: FBT001 - of a pair
        return {
            "kind": "append",
            "client": client,
            "id": wanted.append_id,
            "altered": altered,
            "bucket": bucket_of(wanted.group.key),
            "parts": wanted.parts,
            "invoked": time.monotonic(),
            "completed": None,
            "outcome": UNKNOWN,
            "replayed": False,
            "answer": None,
            "reason": None,
            "conflict": None,
        }

    def _take(self, record: Record, wanted: Wanted, result: event_store_pb2.AppendResult) -> None:
        if result.HasField("appended"):
            self._answered(record, wanted, result.appended)
            return
        problem = result.problem
        record["reason"] = problem.reason
        begun = problem.reason == "TOO_LATE" and problem.metadata.get("begun") != "false"
        if problem.reason not in _UNKNOWN_REASONS and not begun:
            record["outcome"] = FAIL
        if problem.reason == "REVISION_CONFLICT":
            stream, actual = problem.metadata["stream"], int(problem.metadata["actual_revision"])
            record["conflict"] = [stream, actual]
            if actual >= 0:
                wanted.group.known[stream] = max(actual, wanted.group.known.get(stream, -1))

    def _answered(self, record: Record, wanted: Wanted, appended: event_store_pb2.Appended) -> None:
        spans = {one.stream: [one.first_revision, one.last_revision] for one in appended.also}
        spans[wanted.parts[0][0]] = [appended.first_revision, appended.last_revision]
        record |= {
            "outcome": OK,
            "replayed": appended.replayed,
            "answer": {
                "revisions": [spans.get(stream) for stream, _, count in wanted.parts if count],
                "shard": appended.position.shard,
                "position": appended.position.position,
            },
        }
        for stream, (_, last) in spans.items():
            wanted.group.known[stream] = max(last, wanted.group.known.get(stream, -1))

    def _done(self, record: Record, wanted: Wanted) -> None:
        self._record.write(record)
        self.outcomes[f"append {record['outcome']}"] += 1
        if record["reason"]:
            self.reasons[record["reason"]] += 1
        if record["altered"]:
            return
        if record["outcome"] == OK and self._open.pop(wanted.append_id, None) is not None:
            self._acknowledged.append(wanted)
        elif record["outcome"] == FAIL:
            # An earlier attempt of unknown outcome is answered by the log alone.
            self._open.pop(wanted.append_id, None)

    async def _read(self, client: str, stream: str) -> None:
        key = stream.partition("-")[2].removesuffix(".b")
        record: Record = {
            "kind": "read",
            "client": client,
            "stream": stream,
            "bucket": bucket_of(key),
            "invoked": time.monotonic(),
            "completed": None,
            "outcome": UNKNOWN,
            "last": -1,
            "digest": "",
        }
        request = event_store_pb2.ReadStreamRequest(stream=stream, partition_key=key)
        answer = await self._call(self._whole, request)
        record["completed"] = time.monotonic()
        if not isinstance(answer, str):
            record["outcome"] = OK
            record["last"], record["digest"] = answer
        self._record.write(record)
        self.outcomes[f"read {record['outcome']}"] += 1

    async def _whole(self, request: event_store_pb2.ReadStreamRequest, timeout: float) -> tuple[int, str]:
        """The last revision of a stream, and what stands for its events."""
        ids: list[bytes] = []
        stub = self._chance.choice(self._stubs)
        async for message in stub.ReadStream(request, timeout=timeout):
            ids += [uuid.UUID(event.event_id).bytes for event in message.events]
        return len(ids) - 1, history.digest(ids)

    @property
    def unresolved(self) -> int:
        """How many appends are of unknown outcome."""
        return len(self._open)

    async def resolve(self, client: str, *, within: float = 120) -> int:
        """Repeat two of three appends of unknown outcome, ask after the third; answers how many stay unresolved."""
        until = time.monotonic() + within
        repeat = [one for at, one in enumerate(self._open.values()) if at % 3]
        self._cancellation.share = 0
        while repeat and time.monotonic() < until:
            await self._append(client, [(one, False) for one in repeat[:50]])
            repeat = [one for one in repeat if one.append_id in self._open]
        for wanted in list(self._open.values()):
            await self._ask(client, wanted)
        return len(repeat)

    async def _ask(self, client: str, wanted: Wanted) -> None:
        """Ask what became of an append. That nothing did is no answer that needs to be recorded: the log says it."""
        record = self._begun(client, wanted, altered=False)
        request = event_store_pb2.GetAppendRequest(
            append_id=wanted.append_id, stream=wanted.parts[0][0], partition_key=wanted.group.key
        )
        answer = await self._call(self._stubs[0].GetAppend, request)
        record["completed"] = time.monotonic()
        if not isinstance(answer, str) and answer.HasField("appended"):
            self._answered(record, wanted, answer.appended)
            record["replayed"] = True
        self._done(record, wanted)
