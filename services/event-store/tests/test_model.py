"""The log against a model of it: whatever is appended and read in whatever order, both say the same."""

import asyncio
import uuid
from dataclasses import dataclass, field

from almagest.eventstore.v1 import event_store_pb2
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
    answers: dict[str, tuple[str, bytes, int, int]] = field(default_factory=dict)

    def append(self, append_id, stream, expected, payloads, fingerprint):
        """The outcome of an append: its name, and the first and last revision or the actual one."""
        if append_id in self.answers:
            original, print_, first, last = self.answers[append_id]
            return ("replayed", first, last) if (original, print_) == (stream, fingerprint) else ("APPEND_ID_REUSED",)
        events = self.streams.get(stream, [])
        actual = len(events) - 1
        holds = {"any": True, "no_stream": actual < 0, "stream_exists": actual >= 0}.get(expected, expected == actual)
        if not holds:
            return ("REVISION_CONFLICT", actual)
        self.streams[stream] = events + payloads
        self.answers[append_id] = (stream, fingerprint, actual + 1, actual + len(payloads))
        return ("appended", actual + 1, actual + len(payloads))


items = st.lists(
    st.tuples(
        # Few ids per stream, so that replays and reuses are frequent; an id belongs to one shard, as command ids do.
        st.integers(0, 5),
        st.sampled_from(STREAMS),
        st.sampled_from(EXPECTED),
        st.lists(st.binary(max_size=20), min_size=1, max_size=3),
        st.sampled_from([b"one", b"one", b"one", b"two"]),
    ),
    min_size=1,
    max_size=6,
)


def outcome_of(result):
    """The outcome of an append in the model's form."""
    if result.HasField("appended"):
        answer = result.appended
        return ("replayed" if answer.replayed else "appended", answer.first_revision, answer.last_revision)
    if result.problem.reason == "REVISION_CONFLICT":
        return ("REVISION_CONFLICT", int(result.problem.metadata["actual_revision"]))
    return (result.problem.reason,)


async def test_the_log_does_as_its_model(store):
    """Appends in any combination, replays and refusals among them, then reads of every kind."""
    client = store.command
    loop = asyncio.get_running_loop()

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=30)

    class Log(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            # Each example has names of its own in the one log.
            self.name = uuid.uuid4().hex[:8]
            self.model = Model()
            self.before = dict(run(heads(client)))

        def real(self, stream):
            return f"{stream}.{self.name}"

        def append_id(self, number, stream):
            return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.name}/{number}/{stream.partition('-')[2]}"))

        @rule(wanted=items)
        def append(self, wanted):
            appends = [
                client.item(
                    self.real(stream),
                    payloads,
                    expected=expected,
                    append_id=self.append_id(number, stream),
                    fingerprint=fingerprint,
                    partition_key=stream.partition("-")[2],
                )
                for number, stream, expected, payloads, fingerprint in wanted
            ]
            results = run(client.append(*appends))
            expectations = [
                self.model.append(self.append_id(number, stream), stream, expected, payloads, fingerprint)
                for number, stream, expected, payloads, fingerprint in wanted
            ]
            assert [outcome_of(result) for result in results] == expectations

        @rule(
            stream=st.sampled_from(STREAMS),
            start=st.none() | st.integers(0, 6),
            limit=st.integers(0, 4),
            back=st.booleans(),
        )
        def read(self, stream, start, limit, back):
            fields = {} if start is None else {"from_revision": start}
            events = run(
                client.read(
                    self.real(stream),
                    partition_key=stream.partition("-")[2],
                    limit=limit,
                    direction=2 if back else 1,
                    **fields,
                )
            )
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
            for event in events:
                streams.setdefault(event.stream.partition(".")[0], []).append(event.payload)
            assert streams == self.model.streams
            for shard, position in self.before.items():
                positions = [e.position for e in events if e.shard == shard]
                assert positions == list(range(position + 1, position + 1 + len(positions)))

    await asyncio.to_thread(
        run_state_machine_as_test,
        Log,
        settings=settings(
            max_examples=25,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )


async def heads(client):
    """The head of each shard."""
    answer = await client.stub.GetShardMap(event_store_pb2.GetShardMapRequest())
    return [(shard.shard, shard.head) for shard in answer.shards]
