"""What the HTTP side answers to who balances calls: Kubernetes' readiness probe."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from almagest.eventstore.v1 import event_store_pb2

ServiceFactory = Callable[..., Any]
Issue = Callable[..., Path]
REQUEST = event_store_pb2.GetShardMapRequest()


async def _health(service: Any) -> tuple[int, str]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{service.bound.http_port}/healthz")
    return answer.status_code, answer.text


async def test_health_is_what_the_server_answers_by_grpc(serve: ServiceFactory, tmp_path: Path) -> None:
    """A service serves when its own certificate opens its own door, and does not when nobody would be answered."""
    denied = tmp_path / "denied"
    denied.touch()
    async with serve(deny_list=denied) as service:
        assert await _health(service) == (200, "SERVING")
        denied.write_text("spiffe://almagest.internal/event-store\n")
        async with asyncio.timeout(30):
            while (await _health(service))[0] == 200:  # noqa: ASYNC110 - the file is looked at by the service
                await asyncio.sleep(0.05)
        assert await _health(service) == (503, "NOT_SERVING")


async def test_a_service_that_has_too_much_to_do_stays_in_the_balance(serve: ServiceFactory, issue: Issue) -> None:
    """To refuse calls is to serve: without it the others would have more to do still."""
    async with serve(maximum_concurrent_rpcs=1) as service:
        assert (await _health(service))[0] == 200
        begun, end = asyncio.Event(), asyncio.Event()

        async def lasting(_request: Any, _context: Any) -> Any:
            begun.set()
            await end.wait()
            return event_store_pb2.GetShardMapResponse()

        service.servicer.behaviour = lasting
        running = asyncio.ensure_future(service.stub(issue("gateway")).GetShardMap(REQUEST))
        await begun.wait()
        assert (await _health(service))[0] == 200
        end.set()
        await running


async def test_connections_are_made_anew_so_that_new_replicas_get_their_share(
    serve: ServiceFactory, issue: Issue
) -> None:
    """`connection_seconds` ends a connection long before its certificate would, and no call fails of it."""
    async with serve(connection_seconds=1) as service:
        peers: set[str] = set()

        async def noting(_request: Any, context: Any) -> Any:
            peers.add(context.peer())
            return event_store_pb2.GetShardMapResponse()

        service.servicer.behaviour = noting
        stub = service.stub(issue("gateway"))
        async with asyncio.timeout(20):
            while len(peers) < 2:
                await stub.GetShardMap(REQUEST)
                await asyncio.sleep(0.02)
