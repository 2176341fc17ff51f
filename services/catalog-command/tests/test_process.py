"""The process as it is started in earnest."""

import asyncio
import os
import signal
import sys

import grpc
import pytest
from almagest_cli.local.ports import free_port
from chassis.errors import RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.rpc.channel import Channel
from grpc_health.v1 import health_pb2, health_pb2_grpc


@pytest.fixture
def port() -> int:
    return free_port()


async def test_it_serves_until_it_is_told_to_stop(identity, port):
    """Configured by its environment alone; health says SERVING; SIGTERM ends it with success."""
    environment = {
        **os.environ,
        "ALMAGEST_IDENTITY_DIRECTORY": str(identity("catalog-command")),
        "ALMAGEST_LISTEN": f"127.0.0.1:{port}",
        "ALMAGEST_EVENT_STORE_TARGET": "127.0.0.1:1",
        "ALMAGEST_AUTH_TARGET": "127.0.0.1:1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "catalog_command", env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        source = FileIdentitySource(identity("operator"), "almagest.internal", service="operator")
        async with Channel(f"127.0.0.1:{port}", service="catalog-command", identity=source) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            async with asyncio.timeout(20):
                while not await is_serving(stub):
                    assert process.returncode is None, await process.stderr.read()
                    await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def is_serving(stub) -> bool:
    request = health_pb2.HealthCheckRequest(service="almagest.catalog.v1.CatalogCommandService")
    try:
        answer = await stub.Check(request, timeout=2)
    except RemoteProblem as problem:
        if problem.code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND}:
            raise
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING
