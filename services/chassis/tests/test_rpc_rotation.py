"""Certificates that are late: what they hold up has no effect yet, and passes once they are there."""

import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from chassis.errors import ConnectionRenewed, RemoteProblem, is_planned
from chassis.identity.files import FileIdentitySource
from chassis.rpc.channel import Channel

ServiceFactory = Callable[..., Any]

REQUEST = event_store_pb2.GetShardMapRequest()
ENDLESS = event_store_pb2.SubscribeRequest(after=[event_pb2.ShardPosition(shard=0, position=0)])
SUBSCRIBE = "/almagest.eventstore.v1.EventStoreService/Subscribe"


def expiry(source: FileIdentitySource) -> float:
    return source.current().not_after.timestamp()


async def passed(moment: float) -> None:
    """Until the clock, by which certificates expire, shows it."""
    while time.time() <= moment:  # noqa: ASYNC110 - clocks tell nobody
        await asyncio.sleep(0.01)


async def test_calls_wait_for_certificates_that_both_sides_renew_too_late(
    serve: ServiceFactory, issue: Callable[..., Path], ca: Any
) -> None:
    """First the caller's has expired, then only the server's; a call and a stream of before succeed after both."""
    async with serve(identity=issue("event-store", lifetime=2, age=0)) as service:
        identity = issue("gateway", lifetime=2, age=0)
        source = FileIdentitySource(identity, "almagest.internal")
        # What a renewed connection takes along is made again where that is harmless.
        again = frozenset({"/almagest.eventstore.v1.EventStoreService/Subscribe"})
        channel = Channel(service.target, service="event-store", identity=source, retryable=again)
        service.channels.append(channel)
        stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
        await stub.GetShardMap(REQUEST)
        await passed(max(expiry(source), service.chassis.identity.current().not_after.timestamp()))
        done = service.servicer.calls
        asked = asyncio.create_task(stub.GetShardMap(REQUEST, timeout=20))
        opened = stub.Subscribe(ENDLESS)
        first = asyncio.create_task(opened.read())
        await asyncio.sleep(0.2)
        ca.issue(identity, "gateway")
        async with asyncio.timeout(30):
            # Nobody looks after the files here but who waits for them.
            while not channel.rotated:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert not asked.done()
        assert not first.done()
        ca.issue(service.directory, "event-store")
        await asyncio.gather(asked, first)
        assert service.servicer.calls == done + 1
        opened.cancel()


async def test_where_nothing_is_renewed_a_strangers_service_is_told_at_once(
    serve: ServiceFactory, issue: Callable[..., Path], foreign: Any, tmp_path: Path
) -> None:
    """Waiting is for certificates that change; a wrong one that stays is no reason to wait."""
    async with serve(identity=foreign.issue(tmp_path / "foreign", "event-store")) as service:
        with pytest.raises(RemoteProblem):
            async with asyncio.timeout(30):
                await service.stub(issue("gateway")).GetShardMap(REQUEST, timeout=120)


async def test_a_unary_call_is_not_cut_off_when_its_certificate_expires(
    serve: ServiceFactory, issue: Callable[..., Path]
) -> None:
    """It was admitted, may have taken effect, and ends by its deadline."""
    async with serve() as service:
        identity = issue("gateway", lifetime=2, age=0)
        ends = expiry(FileIdentitySource(identity, "almagest.internal"))

        async def behaviour(request: Any, context: Any) -> Any:
            # Longer than the server takes to look.
            await passed(ends + 0.6)
            return await service.servicer.answer(request, context)

        service.servicer.behaviour = behaviour
        assert (await service.stub(identity).GetShardMap(REQUEST, timeout=20)).epoch == 1


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_stream_is_moved_with_its_connection_as_long_as_it_has_brought_nothing(
    serve: ServiceFactory, issue: Callable[..., Path], ca: Any, *, repeatable: bool
) -> None:
    """If its method may be called twice; otherwise, and once it has brought something, it ends, as planned."""
    async with serve() as service:
        identity = issue("gateway", lifetime=2, age=0)
        source = FileIdentitySource(identity, "almagest.internal")
        retryable = frozenset({SUBSCRIBE}) if repeatable else frozenset[str]()
        channel = Channel(service.target, service="event-store", identity=source, retryable=retryable)
        service.channels.append(channel)
        stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
        connections: set[str] = set()
        silent = asyncio.Event()

        async def subscribe(_request: Any, context: Any) -> None:
            connections.add(context.peer())
            await silent.wait()

        service.servicer.behaviour = subscribe
        waiting = asyncio.create_task(stub.Subscribe(event_store_pb2.SubscribeRequest()).read())
        async with asyncio.timeout(10):
            while not connections:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)
            ca.issue(identity, "gateway", lifetime=60)
            assert source.refresh()
            if not repeatable:
                with pytest.raises(ConnectionRenewed) as moved:
                    await waiting
                assert is_planned(moved.value)
                return
            while len(connections) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            silent.set()
            await waiting


async def test_a_retired_connection_is_let_go_of_whoever_still_knows_its_call(
    serve: ServiceFactory, issue: Callable[..., Path], ca: Any
) -> None:
    """As long as a call's object lives, gRPC keeps the connection of a closed channel, and makes it anew."""
    async with serve() as service:
        identity = issue("gateway", lifetime=2, age=0)
        source = FileIdentitySource(identity, "almagest.internal")
        channel = Channel(service.target, service="event-store", identity=source)
        service.channels.append(channel)
        silent = asyncio.Event()
        opened = asyncio.Event()

        async def subscribe(_request: Any, _context: Any) -> None:
            opened.set()
            await silent.wait()

        async def follow() -> None:
            stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
            try:
                await stub.Subscribe(event_store_pb2.SubscribeRequest()).read()
            except ConnectionRenewed as ended:
                # By its traceback it knows this frame, and the frames of the call.
                vars(ended)["itself"] = ended

        service.servicer.behaviour = subscribe
        port = int(service.target.rpartition(":")[2])
        gc.disable()
        try:
            async with asyncio.timeout(10):
                following = asyncio.create_task(follow())
                await opened.wait()
                ca.issue(identity, "gateway", lifetime=60)
                assert source.refresh()
                await following
                while connections_to(port) != 1:  # noqa: ASYNC110 - the kernel tells nobody
                    await asyncio.sleep(0.05)
        finally:
            gc.enable()


def connections_to(port: int) -> int:
    """How many of this process are open."""
    return sum(
        1
        for one in psutil.Process().net_connections("tcp")
        if one.raddr and one.raddr[1] == port and one.status == psutil.CONN_ESTABLISHED
    )


async def test_waiting_for_a_service_outlasts_the_connection_that_was_waited_for(
    issue: Callable[..., Path], ca: Any, serve: ServiceFactory
) -> None:
    """Whoever waits until a service is there is not told that a connection was closed, which is replaced meanwhile."""
    async with serve() as service:
        port = service.target.rpartition(":")[2]
    identity = issue("gateway", lifetime=2, age=0)
    source = FileIdentitySource(identity, "almagest.internal")
    async with Channel(f"127.0.0.1:{port}", service="event-store", identity=source) as channel:
        waiting = asyncio.create_task(channel.channel_ready())
        before = channel.connection
        await asyncio.sleep(0)
        ca.issue(identity, "gateway")
        assert source.refresh()
        async with asyncio.timeout(30):
            while channel.connection is before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        async with serve(listen=f"127.0.0.1:{port}"), asyncio.timeout(30):
            await waiting
