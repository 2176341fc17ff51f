"""Memory is bounded in every stream, at any size: what a reader has not taken waits in the database."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_pb2, event_store_pb2
from event_store.adapters.postgres import PostgresLog

FILE = 50
BACKWARDS = event_store_pb2.DIRECTION_BACKWARDS
EVENTS = 400
PAYLOAD = 100_000
WHOLE = EVENTS * PAYLOAD


@pytest.fixture
async def store(databases, replica, tmp_path):
    """A replica that can archive."""
    async with replica(databases, archive_directory=tmp_path / "archives", archive_events=FILE) as running:
        yield running


@pytest.fixture
def taken(monkeypatch):
    """Counts the bytes that are read from the databases."""
    counted = {"bytes": 0}

    def counting(method, size):
        async def counted_method(self, *args, **kwargs):
            answer = await method(self, *args, **kwargs)
            counted["bytes"] += size(answer)
            return answer

        return counted_method

    def encoded(page):
        return sum(len(event.encoded) for event in page.events)

    def decoded(page):
        return sum(event.ByteSize() for event in page.events)

    for name, size in (("page", encoded), ("newest", encoded), ("stream_page", decoded)):
        monkeypatch.setattr(PostgresLog, name, counting(getattr(PostgresLog, name), size))
    return counted


async def written(store):
    """One stream of forty megabytes."""
    command, stream = store.command, store.command.stream()
    for _ in range(EVENTS // 20):
        await command.appended(command.item(stream, [b"x" * PAYLOAD] * 20))
    return stream


async def archived(store):
    """Have all events leave for files."""
    async with store.connect("operator") as client:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
        made = 0
        for shard in (0, 1):
            request = administration_pb2.ArchiveEventsRequest(shard=shard, until=EVENTS)
            made += len([answer async for answer in stub.ArchiveEvents(request, timeout=120)])
        assert made == EVENTS // FILE


async def settled(taken) -> int:
    """The bytes that were read, once no more are."""
    before = -1
    while before != taken["bytes"]:
        before = taken["bytes"]
        await asyncio.sleep(0.2)
    return before


def pieces(store, stream, kind) -> AsyncGenerator:
    """A large answer, in pieces."""
    if kind == "subscribe":
        return aiter(store.query.stub.Subscribe(event_store_pb2.SubscribeRequest()))
    if kind == "all":
        return aiter(store.query.stub.ReadAll(event_store_pb2.ReadAllRequest()))
    direction = BACKWARDS if kind == "backwards" else event_store_pb2.DIRECTION_FORWARDS
    request = event_store_pb2.ReadStreamRequest(stream=stream, direction=direction)
    return aiter(store.query.stub.ReadStream(request))


@pytest.mark.parametrize("where", ["rows", "files"])
@pytest.mark.parametrize("kind", ["subscribe", "all", "forwards", "backwards"])
async def test_a_reader_that_does_not_read_costs_pages_and_not_the_log(store, taken, kind, where):
    """Of forty megabytes a few are read ahead, most of them by the transport, however long the reader takes; then all
    come, once each.
    """
    stream = await written(store)
    if where == "files":
        await archived(store)
    taken["bytes"] = 0
    answer = pieces(store, stream, kind)
    seen: list[event_pb2.RecordedEvent] = []
    async with asyncio.timeout(60):
        while not seen:
            seen += (await anext(answer)).events
        ahead = await settled(taken)
        assert ahead < WHOLE / 4
        while len(seen) < EVENTS:
            seen += (await anext(answer)).events
    revisions = list(range(EVENTS))
    assert [event.revision for event in seen] == (revisions[::-1] if kind == "backwards" else revisions)
    assert taken["bytes"] >= WHOLE
    await answer.aclose()
