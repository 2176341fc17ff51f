"""Certificates that change and servers that leave, while calls go on."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from almagest.eventstore.v1 import event_store_pb2, event_store_pb2_grpc
from chassis import process
from chassis.errors import RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.process import BackgroundTaskEnded
from chassis.rpc.channel import Channel
from structlog.testing import capture_logs

ServiceFactory = Callable[..., Any]
Issue = Callable[..., Path]
REQUEST = event_store_pb2.GetShardMapRequest()


async def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


async def test_certificates_rotate_at_both_ends_without_a_failed_call(
    serve: ServiceFactory, issue: Issue, ca: Any, foreign: Any
) -> None:
    """Leaf and authority of server and client change under load; every call succeeds, and the new ones are in use."""
    async with serve() as service:
        directory = issue("gateway")
        source = FileIdentitySource(directory, "almagest.internal")
        watching = asyncio.create_task(source.watch(0.02))
        serials: set[bytes] = set()

        async def behaviour(_request: Any, context: Any) -> Any:
            serials.add(bytes(context.auth_context()["x509_pem_cert"][0]))
            return event_store_pb2.GetShardMapResponse()

        service.servicer.behaviour = behaviour
        calls = 0
        stopping = asyncio.Event()
        async with Channel(service.target, service="event-store", identity=source) as channel:
            stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)

            async def load() -> None:
                nonlocal calls
                while not stopping.is_set():
                    await stub.GetShardMap(REQUEST)
                    calls += 1

            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(load())
                both = ca.pem + foreign.pem
                server = service.chassis.identity
                for signer in (ca, foreign, foreign):
                    # As one does it in earnest: first everyone trusts both authorities, then the leaves change.
                    seen, before = len(serials), calls
                    old = server.current()
                    signer.issue(service.directory, "event-store", bundle=both)
                    if signer is ca:
                        signer.issue(directory, "gateway", bundle=both)
                        await _until(lambda old=old: server.current() is not old)
                    else:
                        await _until(lambda old=old: server.current() is not old)
                        signer.issue(directory, "gateway", bundle=both)
                    await _until(lambda seen=seen: len(serials) > seen)
                    await _until(lambda before=before: calls > before + 100)
                stopping.set()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert len(serials) == 4


async def test_a_new_server_certificate_is_shown_to_new_connections(
    serve: ServiceFactory, issue: Issue, ca: Any, foreign: Any
) -> None:
    """After the rotation to another authority, who trusts only the old one gets no new connection."""
    async with serve() as service:
        old_faith, new_faith = issue("gateway"), issue("gateway")
        await service.stub(old_faith).GetShardMap(REQUEST)
        foreign.issue(service.directory, "event-store", bundle=ca.pem + foreign.pem)
        (new_faith / "ca.crt").write_bytes(foreign.pem)
        await _until(lambda: service.chassis.identity.current().trust_bundle != ca.pem)
        await service.stub(new_faith).GetShardMap(REQUEST)
        with pytest.raises(RemoteProblem) as refused:
            await service.stub(old_faith).GetShardMap(REQUEST, timeout=5)
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE


async def test_a_half_written_identity_is_not_used_until_it_is_whole(issue: Issue, ca: Any, tmp_path: Path) -> None:
    """A certificate whose key has not been written yet, or is not ours, leaves the old identity in use."""
    directory = issue("gateway")
    source = FileIdentitySource(directory, "almagest.internal", service="gateway")
    before = source.current()
    fresh = ca.issue(tmp_path / "fresh", "gateway")
    shutil.copy(fresh / "tls.crt", directory / "tls.crt")
    with capture_logs() as lines:
        assert not source.refresh()
        # At first it may just be being written; if that stays, somebody has to know.
        assert lines == []
        assert not source.refresh()
    assert [line["log_level"] for line in lines] == ["warning"]
    (directory / "tls.key").write_bytes(b"")
    assert not source.refresh()
    other = ca.issue(tmp_path / "other", "worker")
    for name in ("tls.crt", "tls.key"):
        shutil.copy(other / name, directory / name)
    assert not source.refresh()
    assert source.current() is before
    for name in ("tls.crt", "tls.key"):
        shutil.copy(fresh / name, directory / name)
    told: list[int] = []
    source.subscribe(lambda identity: told.append(identity.serial))
    assert source.refresh()
    assert told == [source.current().serial]
    assert source.current().serial != before.serial


async def test_calls_that_run_when_the_server_leaves_are_finished(serve: ServiceFactory, issue: Issue) -> None:
    """Stopping waits for what runs; the caller gets its answer."""
    async with serve(drain_seconds=10) as service:
        begun = asyncio.Event()

        async def slow(_request: Any, _context: Any) -> Any:
            begun.set()
            await asyncio.sleep(0.5)
            return event_store_pb2.GetShardMapResponse(epoch=5)

        service.servicer.behaviour = slow
        stub = service.stub(issue("gateway"))
        call = asyncio.create_task(stub.GetShardMap(REQUEST))
        await begun.wait()
        service.channels.clear()
    assert (await call).epoch == 5
    await stub.GetShardMap._channel.close()


async def test_endless_streams_are_sent_elsewhere_at_once(serve: ServiceFactory, issue: Issue) -> None:
    """A subscription does not hold up the way out: it ends with UNAVAILABLE, and its caller subscribes again."""
    loop = asyncio.get_running_loop()
    async with serve(drain_seconds=30) as service:
        stub = service.stub(issue("gateway"))
        received = asyncio.Event()

        async def follow() -> RemoteProblem | None:
            try:
                async for _ in stub.ReadAll(event_store_pb2.ReadAllRequest()):
                    received.set()
            except RemoteProblem as problem:
                return problem
            return None

        following = asyncio.create_task(follow())
        await received.wait()
        service.channels.clear()
        began = loop.time()
    assert loop.time() - began < 10
    problem = await following
    assert problem is not None
    assert problem.code is grpc.StatusCode.UNAVAILABLE
    assert problem.reason == "DRAINING"
    await stub.ReadAll._channel.close()


async def test_closing_a_channel_under_a_stream_is_a_problem_and_not_a_cancellation(
    serve: ServiceFactory, issue: Issue
) -> None:
    """GRPC tells of a closed connection by CancelledError; a consumer would take that for its own end."""
    async with serve() as service:
        channel = service.channel(issue("gateway"))
        stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
        received = asyncio.Event()

        async def follow() -> str:
            try:
                async for _ in stub.ReadAll(event_store_pb2.ReadAllRequest()):
                    received.set()
            except RemoteProblem as problem:
                return problem.code.name
            return "ended"

        following = asyncio.create_task(follow())
        await received.wait()
        await channel.connection.channel.close()
        assert await following == "UNAVAILABLE"


async def test_a_dead_background_task_is_not_ignored(serve: ServiceFactory) -> None:
    """A task that fails takes the service down with its cause."""

    async def dies() -> None:
        raise RuntimeError("the tail reader broke")

    with pytest.raises(BackgroundTaskEnded) as ended:
        async with serve(tasks=(dies,)):
            await asyncio.sleep(0.1)
    assert isinstance(ended.value.__cause__, RuntimeError)


async def test_background_work_that_misses_its_cancellation_is_cancelled_again(
    serve: ServiceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries swallow one now and then; the service ends all the same."""
    monkeypatch.setattr(process, "_AGAIN_SECONDS", 0.05)
    missed = asyncio.Event()

    async def misses() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        missed.set()
        await asyncio.sleep(3600)

    async with asyncio.timeout(10):
        async with serve(tasks=(misses,), drain_seconds=0.0):
            # Begun, so that there is something to cancel.
            await asyncio.sleep(0.05)
    assert missed.is_set()


async def test_the_http_side_tells_life_readiness_and_metrics(serve: ServiceFactory, issue: Issue) -> None:
    """/livez, /readyz and /metrics answer; the metrics count a call by method and status."""
    async with serve() as service:
        await service.stub(issue("gateway")).GetShardMap(REQUEST)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.bound.http_port}") as client:
            assert (await client.get("/livez")).text == "ok"
            assert (await client.get("/readyz")).json() == {"ready": True, "probes": {}}
            metrics = (await client.get("/metrics")).text
    assert (
        'almagest_rpc_total{code="OK",method="/almagest.eventstore.v1.EventStoreService/GetShardMap",role="server"}'
        in metrics
    )


async def test_a_taken_port_is_an_error_that_names_it(serve: ServiceFactory) -> None:
    """Two processes never share a port in silence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=str(port)):
            async with serve(http_listen=f"127.0.0.1:{port}"):
                pass
        with pytest.raises(OSError, match=str(port)):
            async with serve(listen=f"127.0.0.1:{port}"):
                pass


async def test_connections_end_with_a_quarter_of_the_certificates_life_and_no_call_with_them(
    serve: ServiceFactory, issue: Issue
) -> None:
    """An old handshake proves nothing for long: connections are renewed, and calls do not notice."""
    peers: set[str] = set()

    async def behaviour(_request: Any, context: Any) -> Any:
        peers.add(context.peer())
        return event_store_pb2.GetShardMapResponse()

    async with serve(identity=issue("event-store", lifetime=6, age=0)) as service:
        service.servicer.behaviour = behaviour
        stub = service.stub(issue("gateway"))
        async with asyncio.timeout(5):
            while len(peers) < 2:
                await stub.GetShardMap(REQUEST)
