"""Callers that were believed and are not any more: what they have open ends, over real mutual TLS."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from chassis.errors import RemoteProblem, Unavailable
from chassis.identity.denials import DenyList, InvalidDenyList
from chassis.identity.files import FileIdentitySource
from chassis.identity.spiffe import SpiffeId
from chassis.policy import Person, Rule
from chassis.process import Chassis
from chassis.rpc.channel import Channel
from chassis.settings import ServiceSettings
from cryptography import x509

ServiceFactory = Callable[..., Any]

REQUEST = event_store_pb2.GetShardMapRequest()
ENDLESS = event_store_pb2.SubscribeRequest(after=[event_pb2.ShardPosition(shard=0, position=0)])
BOTH = Rule(callers=frozenset({"gateway", "worker"}), person=Person.NONE)


def serial(identity: Path) -> int:
    return x509.load_pem_x509_certificates((identity / "tls.crt").read_bytes())[0].serial_number


@pytest.fixture
def deny_list(tmp_path: Path) -> Path:
    file = tmp_path / "denied"
    file.write_text("# nobody\n", encoding="utf-8")
    return file


def deny(file: Path, *entries: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text("\n".join(entries), encoding="utf-8")
    fresh.replace(file)


async def opened(service: Any, identity: Path) -> Any:
    """A stream that has brought its first message and would go on for ever."""
    forever = asyncio.Event()

    async def behaviour(_request: Any, _context: Any) -> None:
        await forever.wait()

    service.servicer.behaviour = behaviour
    call = service.stub(identity).Subscribe(ENDLESS)
    await call.read()
    return call


async def ended(call: Any) -> RemoteProblem:
    async with asyncio.timeout(10):
        with pytest.raises(RemoteProblem) as problem:
            while await call.read() is not grpc.aio.EOF:
                pass
    return problem.value


def connections(port: int) -> set[int]:
    """The local ports of the connections that clients in this process have to a port."""
    return {
        one.laddr[1]
        for one in psutil.Process().net_connections("tcp")
        if one.raddr and one.raddr[1] == port and one.status == psutil.CONN_ESTABLISHED
    }


@pytest.mark.parametrize("by", ["id", "serial"])
async def test_a_denied_workload_loses_calls_streams_and_connections_within_a_second(
    serve: ServiceFactory, issue: Callable[..., Path], deny_list: Path, policy: Any, by: str
) -> None:
    """The next call is refused, the open stream ends, the connection is shut down; others notice nothing."""
    rows = policy(Subscribe=BOTH, GetShardMap=BOTH)
    async with serve(rows=rows, deny_list=deny_list) as service:
        gateway, worker = issue("gateway"), issue("worker")
        staying = await opened(service, gateway)
        first = connections(service.bound.grpc_port)
        going = await opened(service, worker)
        both = connections(service.bound.grpc_port)
        assert len(both) == 2
        entry = "spiffe://almagest.internal/worker" if by == "id" else f"serial:{serial(worker):X}"
        deny(deny_list, f"{entry}  # stolen")
        problem = await ended(going)
        # The client connects again by itself, to be refused.
        # Three quarters of a second by design; the rest is for a machine that is busy with other tests.
        async with asyncio.timeout(10):
            while both <= connections(service.bound.grpc_port):  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(0.01)
        assert problem.reason == "CALLER_DENIED"
        assert problem.code is grpc.StatusCode.UNAUTHENTICATED
        service.servicer.behaviour = service.servicer.answer
        # Whether on the old connection, while it lasted, or on a new one.
        with pytest.raises(RemoteProblem) as refused:
            await service.stub(worker).GetShardMap(REQUEST)
        assert refused.value.reason == "CALLER_DENIED"
        assert not staying.done()
        assert first <= connections(service.bound.grpc_port)
        await service.stub(gateway).GetShardMap(REQUEST)
        staying.cancel()
        if by == "serial":
            # The certificate was stolen, not the workload lost: its next one is good.
            await service.stub(issue("worker")).GetShardMap(REQUEST)
        deny(deny_list, "")
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(RemoteProblem):
                    await service.stub(worker).GetShardMap(REQUEST)
                    break
                await asyncio.sleep(0.05)


async def test_a_unary_call_that_runs_is_ended_too(
    serve: ServiceFactory, issue: Callable[..., Path], deny_list: Path
) -> None:
    """What a denied workload asked for a moment ago is not finished for it."""
    async with serve(deny_list=deny_list) as service:
        began, cancelled = asyncio.Event(), asyncio.Event()

        async def behaviour(_request: Any, _context: Any) -> Any:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        service.servicer.behaviour = behaviour
        call = asyncio.create_task(service.stub(issue("gateway")).GetShardMap(REQUEST, timeout=30))
        await began.wait()
        deny(deny_list, "spiffe://almagest.internal/gateway")
        with pytest.raises(RemoteProblem) as problem:
            async with asyncio.timeout(30):
                await call
        assert problem.value.reason == "CALLER_DENIED"
        assert cancelled.is_set()


async def test_an_open_stream_ends_when_the_certificate_of_its_caller_expires(
    serve: ServiceFactory, issue: Callable[..., Path]
) -> None:
    """TLS would let it go on for ever; it ends within a second of the expiry, and not before."""
    async with serve() as service:
        call = await opened(service, issue("gateway", lifetime=3))
        expires = service.channels[-1].connection.identity.not_after.timestamp()
        problem = await ended(call)
        assert problem.reason == "CALLER_EXPIRED"
        assert time.time() >= expires


async def test_a_client_ends_its_streams_before_its_old_certificate_expires(
    serve: ServiceFactory, ca: Any, tmp_path: Path
) -> None:
    """After rotation a stream on the old connection is moved in time, so that the server never has to cut it off."""
    async with serve() as service:
        identity = ca.issue(tmp_path / "rotating", "gateway", lifetime=3, age=0)
        source = FileIdentitySource(identity, "almagest.internal")
        channel = Channel(service.target, service="event-store", identity=source)
        service.channels.append(channel)
        stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
        forever = asyncio.Event()

        async def behaviour(_request: Any, _context: Any) -> None:
            await forever.wait()

        service.servicer.behaviour = behaviour
        call = stub.Subscribe(ENDLESS)
        await call.read()
        expires = channel.connection.identity.not_after.timestamp()
        ca.issue(identity, "gateway")
        assert source.refresh()
        problem = await ended(call)
        assert problem.code is grpc.StatusCode.UNAVAILABLE
        assert time.time() < expires


async def test_a_client_does_not_call_a_denied_service(
    serve: ServiceFactory, issue: Callable[..., Path], deny_list: Path
) -> None:
    """Calls are refused before they leave, what was open ends, and all is well when the entry is gone."""
    async with serve() as service:
        settings = ServiceSettings(
            identity_directory=issue("gateway"), deny_list=deny_list, event_store_target=service.target
        )
        async with Chassis[ServiceSettings].open("gateway", settings) as chassis:
            channel = chassis.channel("event-store")
            stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
            await stub.GetShardMap(REQUEST)
            forever = asyncio.Event()

            async def behaviour(_request: Any, _context: Any) -> None:
                await forever.wait()

            service.servicer.behaviour = behaviour
            call = stub.Subscribe(ENDLESS)
            await call.read()
            deny(deny_list, "spiffe://almagest.internal/event-store")
            assert chassis.denials.refresh()
            assert (await ended(call)).code is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(Unavailable) as refused:
                await stub.GetShardMap(REQUEST)
            assert refused.value.reason == "SERVICE_DENIED"
            deny(deny_list)
            assert chassis.denials.refresh()
            service.servicer.behaviour = service.servicer.answer
            await stub.GetShardMap(REQUEST)


def test_a_list_that_cannot_be_read_keeps_a_service_from_starting_and_the_old_one_in_force(tmp_path: Path) -> None:
    """Half a deny list lets somebody in: a bad line refuses the whole file, and a missing one is not an empty one."""
    file = tmp_path / "denied"
    with pytest.raises(InvalidDenyList, match="cannot be read"):
        DenyList(file)
    file.write_text("spiffe://almagest.internal/worker\nworker\n", encoding="utf-8")
    with pytest.raises(InvalidDenyList, match="line 2"):
        DenyList(file)
    deny(file, "spiffe://almagest.internal/worker", "serial:0xAB")
    denials = DenyList(file)
    worker, gateway = SpiffeId.of("worker", "almagest.internal"), SpiffeId.of("gateway", "almagest.internal")
    assert denials.denies(worker)
    assert denials.denies(gateway, 0xAB)
    assert not denials.denies(gateway, 0xAC)
    deny(file, "nonsense")
    assert not denials.refresh()
    file.unlink()
    assert not denials.refresh()
    assert denials.denies(worker)


async def test_a_call_that_is_looked_at_too_late_is_made_again_on_the_new_connection(
    serve: ServiceFactory, ca: Any, tmp_path: Path
) -> None:
    """The certificate of its connection expired on the way. It was refused before anything was done, and succeeds on the connection that takes the old one's place."""
    async with serve() as service:
        identity = ca.issue(tmp_path / "rotating", "gateway", lifetime=2, age=0)
        source = FileIdentitySource(identity, "almagest.internal")
        channel = Channel(service.target, service="event-store", identity=source)
        service.channels.append(channel)
        stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
        await stub.GetShardMap(REQUEST)
        async with asyncio.timeout(10):
            with pytest.raises(RemoteProblem, match="CALLER_EXPIRED"):
                while True:
                    await stub.GetShardMap(REQUEST)
                    await asyncio.sleep(0.05)
        calls = service.servicer.calls
        ca.issue(identity, "gateway")
        assert source.refresh()
        # The new connection is not there yet, so these set out on the old one.
        await asyncio.gather(*(stub.GetShardMap(REQUEST) for _ in range(8)))
        assert service.servicer.calls == calls + 8
