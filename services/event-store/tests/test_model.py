"""The log against a model of it: whatever is appended and read in whatever order, both say the same."""

import asyncio
import uuid
from dataclasses import dataclass, field

import asyncpg
import pytest
from almagest.eventstore.v1 import event_store_pb2
from chassis.buckets import BucketMap, bucket_of
from chassis.errors import RemoteProblem
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

KEYS = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(6)]
STREAMS = [f"{category}-{key}" for category in ("product", "review") for key in KEYS[:3]]
EXPECTED = ["any", "no_stream", "stream_exists", 0, 1, 3]


@dataclass
class Model:
    """What the log must be."""

    streams: dict[str, list[bytes]] = field(default_factory=dict)
    answers: dict[str, tuple[str, bytes, tuple[tuple[str, int, int], ...]]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    not_held: set[str] = field(default_factory=set)

    def append(self, append_id, fingerprint, parts):
        """The outcome of an append to one or several streams: its name, and the revisions written or the actual one."""
        if append_id in self.answers:
            original, print_, written = self.answers[append_id]
            same = (original, print_) == (parts[0][0], fingerprint)
            return ("replayed", *written) if same else ("APPEND_ID_REUSED",)
        home = shard_of(key_of(parts[0][0]))
        for stream, _, _ in parts:
            if key_of(stream) in self.not_held:
                return ("BUCKET_MOVED", stream)
            if shard_of(key_of(stream)) != home:
                return ("DIFFERENT_SHARDS",)
        for stream, expected, _ in parts:
            if refusal := self.refusal(stream, expected):
                return refusal
        written = []
        for stream, _, payloads in parts:
            events = self.streams.get(stream, [])
            if payloads:
                self.streams[stream] = events + payloads
                written.append((stream, len(events), len(events) + len(payloads) - 1))
        self.answers[append_id] = (parts[0][0], fingerprint, tuple(written))
        return ("appended", *written)

    def refusal(self, stream, expected):
        """Why nothing may be written to a stream, if so."""
        if stream in self.ended:
            return ("STREAM_TOMBSTONED", stream)
        actual = len(self.streams.get(stream, [])) - 1
        holds = {"any": True, "no_stream": actual < 0, "stream_exists": actual >= 0}.get(expected, expected == actual)
        return None if holds else ("REVISION_CONFLICT", stream, actual)


def key_of(stream):
    """The partition key of a stream."""
    return stream.partition("-")[2]


expectations = st.sampled_from(EXPECTED)
payloads = st.lists(st.binary(max_size=20), min_size=1, max_size=3)
items = st.lists(
    st.tuples(
        # Few ids per stream, so that replays and reuses are frequent; an id belongs to one shard, as command ids do.
        st.integers(0, 5),
        st.sampled_from(STREAMS),
        expectations,
        payloads,
        st.sampled_from([b"one", b"one", b"one", b"two"]),
        # Further streams: the other one of the same key, and one of another key that may be on the other shard.
        st.none() | st.tuples(expectations, st.just([]) | payloads),
        st.none() | st.tuples(st.sampled_from(STREAMS), expectations, st.just([]) | payloads),
    ),
    min_size=1,
    max_size=6,
)


def outcome_of(result, plain):
    """The outcome of an append in the model's form; `plain` strips what makes names unique."""
    if result.HasField("appended"):
        answer = result.appended
        own = (answer.first_revision, answer.last_revision)
        also = [(plain(a.stream), a.first_revision, a.last_revision) for a in answer.also]
        return ("replayed" if answer.replayed else "appended", own, *also)
    problem = result.problem
    stream = (plain(problem.metadata["stream"]),) if "stream" in problem.metadata else ()
    if problem.reason == "REVISION_CONFLICT":
        return (problem.reason, *stream, int(problem.metadata["actual_revision"]))
    return (problem.reason, *stream)


def told(outcome):
    """What the model says in the form of an answer, where the main stream goes without its name."""
    if outcome[0] in {"appended", "replayed"}:
        (_, first, last), *also = outcome[1:]
        return (outcome[0], (first, last), *also)
    return outcome


@pytest.fixture
async def store(databases, replica):
    """A replica that hardly waits for a bucket that no shard holds."""
    async with replica(databases, move_wait_seconds=0.02) as running:
        yield running


async def test_the_log_does_as_its_model(store, databases, transaction_tokens):
    """Appends in any combination, replays and refusals among them, then reads of every kind."""
    client = store.command
    loop = asyncio.get_running_loop()

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=30)

    class Log(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            # A token lives for a minute, which all examples together may not.
            client.token = transaction_tokens()
            # Each example has names of its own in the one log.
            self.name = uuid.uuid4().hex[:8]
            self.model = Model()
            self.before = dict(run(heads(client)))
            self.settings = 0

        def real(self, stream):
            return f"{stream}.{self.name}"

        def plain(self, stream):
            return stream.removesuffix(f".{self.name}")

        def append_id(self, number, stream):
            return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.name}/{number}/{stream.partition('-')[2]}"))

        def parts(self, stream, expected, written, sibling, further):
            """The streams of an append, each named once."""
            found = [(stream, expected, written)]
            if sibling is not None:
                category = "review" if stream.startswith("product") else "product"
                found.append((f"{category}-{key_of(stream)}", *sibling))
            if further is not None and further[0] not in [part[0] for part in found]:
                found.append(further)
            return found

        @rule(wanted=items)
        def append(self, wanted):
            appends, expectations = [], []
            for number, stream, expected, written, fingerprint, sibling, further in wanted:
                parts = self.parts(stream, expected, written, sibling, further)
                append_id = self.append_id(number, stream)
                appends.append(
                    client.item(
                        self.real(stream),
                        written,
                        expected=expected,
                        append_id=append_id,
                        fingerprint=fingerprint,
                        partition_key=key_of(stream),
                        also=[further_part(client, self.real(name), key_of(name), *rest) for name, *rest in parts[1:]],
                    )
                )
                expectations.append(self.allowed(told(self.model.append(append_id, fingerprint, parts)), parts))
            results = run(client.append(*appends))
            for result, allowed in zip(results, expectations, strict=True):
                assert outcome_of(result, self.plain) in allowed

        def allowed(self, outcome, parts):
            """What may be answered. Of streams that are apart, one of which nobody holds, either may be said first."""
            apart = len({shard_of(key_of(part[0])) for part in parts}) > 1
            if not apart or outcome[0] not in {"DIFFERENT_SHARDS", "BUCKET_MOVED"}:
                return [outcome]
            moved = [("BUCKET_MOVED", part[0]) for part in parts if key_of(part[0]) in self.model.not_held]
            return [("DIFFERENT_SHARDS",), *moved]

        @rule(stream=st.sampled_from(STREAMS))
        def end(self, stream):
            request = event_store_pb2.SetStreamMetadataRequest(
                append_id=str(uuid.uuid4()), stream=self.real(stream), partition_key=key_of(stream)
            )
            request.metadata.tombstoned = True
            reason = run(ended(client, request))
            if key_of(stream) in self.model.not_held:
                assert reason == "BUCKET_MOVED"
            elif stream in self.model.ended:
                assert reason == "STREAM_TOMBSTONED"
            else:
                assert reason is None
                self.model.ended.add(stream)
                self.settings += 1

        @rule(key=st.sampled_from(KEYS[:3]), held=st.booleans())
        def hold(self, key, held):
            run(hold(databases, key, held=held))
            (self.model.not_held.discard if held else self.model.not_held.add)(key)

        def teardown(self):
            for key in self.model.not_held:
                run(hold(databases, key, held=True))

        @rule(
            stream=st.sampled_from(STREAMS),
            start=st.none() | st.integers(0, 6),
            limit=st.integers(0, 4),
            back=st.booleans(),
        )
        def read(self, stream, start, limit, back):
            fields = {} if start is None else {"from_revision": start}
            reading = client.read(
                self.real(stream), partition_key=key_of(stream), limit=limit, direction=2 if back else 1, **fields
            )
            over = stream in self.model.ended
            if key_of(stream) in self.model.not_held or over:
                with pytest.raises(RemoteProblem) as refused:
                    run(reading)
                # An end is final, wherever the stream is by now.
                assert refused.value.reason == ("STREAM_TOMBSTONED" if over else "BUCKET_MOVED")
                return
            events = run(reading)
            numbered = list(enumerate(self.model.streams.get(stream, [])))
            if back:
                wanted = [e for e in reversed(numbered) if start is None or e[0] <= start]
            else:
                wanted = numbered[start or 0 :]
            assert [(e.revision, e.payload) for e in events] == (wanted[:limit] if limit else wanted)

        @invariant()
        def the_whole_log_is_all_streams(self):
            after = [{"shard": s, "position": p} for s, p in self.before.items()]
            events = run(client.read_all(after=after))
            streams = {}
            settings = [event for event in events if event.stream.startswith("metadata-")]
            assert len(settings) == self.settings
            for event in events:
                if event in settings:
                    continue
                streams.setdefault(event.stream.partition(".")[0], []).append(event.payload)
            assert streams == self.model.streams
            for shard, position in self.before.items():
                positions = [e.position for e in events if e.shard == shard]
                assert positions == list(range(position + 1, position + 1 + len(positions)))

    await asyncio.to_thread(
        run_state_machine_as_test,
        Log,
        settings=settings(
            max_examples=12,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )


def shard_of(key):
    """Where a key lives."""
    return BucketMap(2).shard_of(bucket_of(key))


def further_part(client, stream, key, expected, written):
    """A further stream of an append."""
    message = event_store_pb2.StreamAppend(
        stream=stream, partition_key=key, events=[client.event(payload) for payload in written]
    )
    if isinstance(expected, int):
        message.exact_revision = expected
    else:
        getattr(message, expected).SetInParent()
    return message


async def ended(client, request):
    """End a stream, and answer why it could not be, if so."""
    try:
        await client.stub.SetStreamMetadata(request, timeout=20)
    except RemoteProblem as problem:
        return problem.reason
    return None


async def hold(databases, key, *, held):
    """Let the shard of a key hold its bucket, or not."""
    connection = await asyncpg.connect(databases.owner[shard_of(key)])
    try:
        await connection.execute("UPDATE head SET held = set_bit(held, $1, $2)", bucket_of(key), int(held))
    finally:
        await connection.close()


async def heads(client):
    """The head of each shard."""
    answer = await client.stub.GetShardMap(event_store_pb2.GetShardMapRequest())
    return [(shard.shard, shard.head) for shard in answer.shards]
