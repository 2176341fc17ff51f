"""Appends over mTLS: what is written, what is refused, and that nothing is written twice."""

import uuid

import pytest
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.buckets import BucketMap, stream_bucket


def reason(result):
    """The reason of a refused append."""
    assert result.WhichOneof("outcome") == "problem", result
    return result.problem.reason


async def test_events_are_read_back_as_they_were_written(store):
    """Positions begin at 1, revisions at 0, and payloads come back byte by byte."""
    stream = store.command.stream()
    [answer] = await store.command.appended(store.command.item(stream, [b"one", b"\0two"], expected="no_stream"))
    assert (answer.first_revision, answer.last_revision, answer.position.position) == (0, 1, 2)
    events = await store.command.read(stream)
    assert [(e.position, e.revision, e.payload, e.stream) for e in events] == [
        (1, 0, b"one", stream),
        (2, 1, b"\0two", stream),
    ]


async def test_the_answer_says_where_the_last_event_stands(store):
    """The consistency token carries epoch, bucket, shard and position, and the shard map agrees."""
    stream = store.command.stream()
    [answer] = await store.command.appended(store.command.item(stream, 3))
    bucket = stream_bucket(stream)
    assert answer.position == event_pb2.ConsistencyToken(
        epoch=1, bucket=bucket, shard=BucketMap(2).shard_of(bucket), position=3
    )
    shards = (await store.command.stub.GetShardMap(event_store_pb2.GetShardMapRequest())).shards
    [home] = [shard for shard in shards if any(r.first <= bucket <= r.last for r in shard.buckets)]
    assert (home.shard, home.head) == (answer.position.shard, 3)
    assert sum(r.last - r.first + 1 for shard in shards for r in shard.buckets) == 1024


async def test_a_partition_key_decides_the_shard(store):
    """Streams with the same partition key live together, whatever their own ids."""
    for _ in range(8):
        key = str(uuid.uuid4())
        review = store.command.stream("review")
        [own] = await store.command.appended(store.command.item(f"product-{key}"))
        [other] = await store.command.appended(store.command.item(review, partition_key=key))
        assert (own.position.bucket, own.position.shard) == (other.position.bucket, other.position.shard)
        assert len(await store.command.read(review, partition_key=key)) == 1


@pytest.mark.parametrize(
    ("existing", "expected", "actual"),
    [
        (0, "no_stream", None),
        (0, "any", None),
        (0, "stream_exists", -1),
        (0, 0, -1),
        (2, 1, None),
        (2, "any", None),
        (2, "stream_exists", None),
        (2, "no_stream", 1),
        (2, 0, 1),
        (2, 2, 1),
        (2, 2**63 - 1, 1),
    ],
)
async def test_an_append_is_written_exactly_when_its_expectation_holds(store, existing, expected, actual):
    """A conflict names the actual revision, and nothing of it is written."""
    stream = store.command.stream()
    if existing:
        await store.command.appended(store.command.item(stream, existing))
    [result] = await store.command.append(store.command.item(stream, 2, expected=expected))
    if actual is None:
        assert (result.appended.first_revision, result.appended.last_revision) == (existing, existing + 1)
    else:
        assert reason(result) == "REVISION_CONFLICT"
        assert result.problem.metadata["actual_revision"] == str(actual)
    assert len(await store.command.read(stream)) == existing + (2 if actual is None else 0)


async def test_the_same_append_id_gets_the_original_answer(store):
    """Also when the expectation no longer holds, and when the stream has gone on meanwhile."""
    stream = store.command.stream()
    item = store.command.item(stream, 2, expected="no_stream")
    [original] = await store.command.appended(item)
    await store.command.appended(store.command.item(stream, 1, expected=1))
    [again] = await store.command.appended(item)
    assert not original.replayed
    assert again.replayed
    again.replayed = False
    assert again == original
    assert len(await store.command.read(stream)) == 3


@pytest.mark.parametrize("change", ["fingerprint", "stream"])
async def test_an_append_id_is_refused_for_something_else(store, change):
    """Another fingerprint, or another stream, under a used append id is refused by name."""
    key = str(uuid.uuid4())
    item = store.command.item(store.command.stream(), partition_key=key)
    await store.command.appended(item)
    other = event_store_pb2.Append()
    other.CopyFrom(item)
    if change == "fingerprint":
        other.fingerprint = b"another"
    else:
        other.stream = store.command.stream()
    [result] = await store.command.append(other)
    assert reason(result) == "APPEND_ID_REUSED"
    assert result.problem.metadata["append_id"] == item.append_id
    assert len(await store.command.read(other.stream, partition_key=key)) == (1 if change == "fingerprint" else 0)


async def test_appends_of_one_request_see_the_effects_of_those_before(store):
    """A chain on one stream is decided in order: what follows a refused one stands on what was written before it."""
    stream = store.command.stream()
    item = store.command.item
    results = await store.command.append(
        item(stream, 2, expected="no_stream"),
        item(stream, 1, expected="no_stream"),
        item(stream, 3, expected=1),
        item(stream, 1, expected=1),
        item(stream, 1, expected="stream_exists"),
        item(stream, 1, expected=5),
    )
    outcomes = [result.appended.last_revision if result.HasField("appended") else reason(result) for result in results]
    assert outcomes == [1, "REVISION_CONFLICT", 4, "REVISION_CONFLICT", 5, 6]
    assert [results[i].problem.metadata["actual_revision"] for i in (1, 3)] == ["1", "4"]
    events = await store.command.read(stream)
    assert [(e.revision, e.position) for e in events] == [(n, n + 1) for n in range(7)]


async def test_an_append_id_twice_in_one_request_is_written_once(store):
    """The second is a replay of the first; one with another fingerprint is refused; one whose first was refused has
    its own chance.
    """
    item = store.command.item
    stream, other = store.command.stream(), store.command.stream()
    twice, retried = str(uuid.uuid4()), str(uuid.uuid4())
    results = await store.command.append(
        item(stream, [b"a"], append_id=twice),
        item(stream, [b"a"], append_id=twice),
        item(stream, [b"b"], append_id=twice, fingerprint=b"another"),
        item(other, [b"c"], append_id=retried, expected=0),
        item(other, [b"c"], append_id=retried, expected="no_stream"),
    )
    assert [r.appended.replayed for r in results[:2]] == [False, True]
    assert reason(results[2]) == "APPEND_ID_REUSED"
    assert reason(results[3]) == "REVISION_CONFLICT"
    assert results[4].HasField("appended")
    assert [e.payload for e in await store.command.read(stream)] == [b"a"]
    assert [e.payload for e in await store.command.read(other)] == [b"c"]


async def test_a_refused_append_leaves_no_gap(store):
    """Positions stay gapless over conflicts, replays and refusals in one batch, on both shards."""
    item = store.command.item
    written = item(store.command.stream(), 2)
    for _ in range(5):
        await store.command.append(
            *(item(store.command.stream(), 2) for _ in range(5)),
            item(store.command.stream(), 3, expected=7),
            written,
            item(store.command.stream(), 1),
        )
    for shard in (0, 1):
        positions = [e.position for e in await store.command.read_all(shards=[shard])]
        assert positions == list(range(1, len(positions) + 1))
    assert len(await store.command.read_all()) == 2 + 5 * 11


async def test_each_append_of_a_request_succeeds_or_fails_alone(store):
    """A malformed item and one with a bad token do not touch their neighbours, and answers keep the order of the
    request.
    """
    item = store.command.item
    stream = store.command.stream()
    results = await store.command.append(
        item("nonsense"),
        item(stream),
        item(store.command.stream(), token="forged"),
        item(stream),
        item(stream, append_id="x"),
    )
    assert [r.WhichOneof("outcome") for r in results] == ["problem", "appended", "problem", "appended", "problem"]
    assert [reason(results[i]) for i in (0, 2, 4)] == ["INVALID_REQUEST", "TOKEN_INVALID", "INVALID_REQUEST"]
    assert [v.field for v in results[0].problem.violations] == ["stream"]


async def test_who_wrote_is_what_was_proven_not_what_was_claimed(store, transaction_tokens):
    """Actor, transaction and workload come from the token and the certificate; the rest from the writer."""
    token = transaction_tokens(subject="0190-subject", claims={"txn": "txn-1"})
    stream = store.command.stream()
    claimed = store.command.event(
        b"x",
        actor="somebody else",
        workload="spiffe://almagest.internal/auth",
        transaction_id="made up",
        command_id="command",
        job_id="job",
        import_line=7,
        reason="because",
    )
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    await store.command.appended(store.command.item(stream, [claimed], token=token, traceparent=traceparent))
    [event] = await store.command.read(stream)
    assert event.metadata == event_pb2.EventMetadata(
        actor="0190-subject",
        workload="spiffe://almagest.internal/catalog-command",
        transaction_id="txn-1",
        command_id="command",
        traceparent=traceparent,
        job_id="job",
        import_line=7,
        reason="because",
    )
    assert event.event_id == claimed.event_id
    assert event.recorded_at.seconds > 1_700_000_000


async def test_an_earlier_append_can_be_asked_for_by_its_id(store):
    """GetAppend answers the original answer and its fingerprint, and nothing for an id that was never committed."""
    stream = store.command.stream()
    item = store.command.item(stream, 2, fingerprint=b"print")
    request = event_store_pb2.GetAppendRequest(append_id=item.append_id, stream=stream)
    assert not (await store.command.stub.GetAppend(request)).HasField("appended")
    [original] = await store.command.appended(item)
    found = await store.command.stub.GetAppend(request)
    assert (found.appended, found.fingerprint) == (original, b"print")


async def test_an_append_whose_time_is_over_is_not_begun(store):
    """An item with no time left is refused and never written, while its neighbour is."""
    stream = store.command.stream()
    late, early = await store.command.append(
        store.command.item(stream, [b"late"], timeout=0), store.command.item(stream, [b"early"], timeout=20)
    )
    assert reason(late) == "TOO_LATE"
    assert late.problem.metadata["begun"] == "false"
    assert early.HasField("appended")
    assert [e.payload for e in await store.command.read(stream)] == [b"early"]


async def test_recorded_times_never_go_back(store):
    """Within a shard, time orders like position."""
    for _ in range(20):
        await store.command.appended(store.command.item(store.command.stream()))
    for shard in (0, 1):
        times = [e.recorded_at.ToNanoseconds() for e in await store.command.read_all(shards=[shard])]
        assert times == sorted(times)
