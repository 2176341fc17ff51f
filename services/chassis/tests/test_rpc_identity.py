"""Who gets through the door, and who does not, over real mutual TLS."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from almagest.eventstore.v1 import event_store_pb2, event_store_pb2_grpc
from chassis.caller import current_caller
from chassis.errors import RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.policy import PolicyIncomplete
from chassis.rpc.channel import Channel
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

ServiceFactory = Callable[..., Any]
Policy = Callable[..., dict[str, Any]]

REQUEST = event_store_pb2.GetShardMapRequest()


async def test_a_caller_that_the_policy_names_is_answered(serve: ServiceFactory, issue: Callable[..., Path]) -> None:
    """A certificate of our trust domain whose service has a row passes, and the use case sees who it is."""
    async with serve() as service:
        callers: list[str] = []

        async def behaviour(_request: Any, _context: Any) -> Any:
            callers.append(str(current_caller()))
            return event_store_pb2.GetShardMapResponse(epoch=7)

        service.servicer.behaviour = behaviour
        answer = await service.stub(issue("gateway")).GetShardMap(REQUEST)
        assert answer.epoch == 7
        assert callers == ["spiffe://almagest.internal/gateway"]


async def test_a_service_that_the_policy_does_not_name_is_refused(
    serve: ServiceFactory, issue: Callable[..., Path]
) -> None:
    """A valid certificate of another service of ours is not enough."""
    async with serve() as service:
        with pytest.raises(RemoteProblem) as refused:
            await service.stub(issue("worker")).GetShardMap(REQUEST)
        assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
        assert refused.value.reason == "CALLER_NOT_ALLOWED"
        assert service.servicer.calls == 0


async def test_a_caller_of_another_trust_domain_is_refused(serve: ServiceFactory, ca: Any, tmp_path: Path) -> None:
    """The right service name in the wrong trust domain, even under our own authority, is a stranger."""
    identity = ca.issue(
        tmp_path / "stranger", "gateway", uris=["spiffe://elsewhere.example/gateway"], dns=["gateway.elsewhere.example"]
    )
    async with serve() as service:
        assert await _raw_code(service.target, identity) is grpc.StatusCode.PERMISSION_DENIED


async def _raw_code(target: str, identity: Path, *, credentials: grpc.ChannelCredentials | None = None) -> Any:
    """The status that a plain gRPC client gets, which checks nothing of its own identity first."""
    if credentials is None:
        credentials = grpc.ssl_channel_credentials(
            (identity / "ca.crt").read_bytes(),
            (identity / "tls.key").read_bytes(),
            (identity / "tls.crt").read_bytes(),
        )
    options = [("grpc.ssl_target_name_override", "event-store.almagest.internal"), ("grpc.enable_retries", 0)]
    async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
        stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
        try:
            await stub.GetShardMap(REQUEST, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("uris", "is_authority"),
    [
        (["spiffe://almagest.internal/gateway", "spiffe://almagest.internal/worker"], False),
        ([], False),
        (["https://almagest.internal/gateway"], False),
        (["spiffe://almagest.internal/gateway/nested"], False),
        (["spiffe://almagest.internal/"], False),
        (["spiffe://almagest.internal/gateway"], True),
    ],
    ids=["two URIs", "no URI", "not SPIFFE", "two segments", "no path", "an authority"],
)
async def test_a_certificate_that_is_not_of_one_workload_is_refused(
    serve: ServiceFactory, issue: Callable[..., Path], uris: list[str], is_authority: Any
) -> None:
    """Exactly one URI SAN that is a SPIFFE id of ours in form, on a leaf, or nobody."""
    async with serve() as service:
        assert (
            await _raw_code(service.target, issue("gateway", uris=uris, ca=is_authority))
            is grpc.StatusCode.UNAUTHENTICATED
        )
        assert service.servicer.calls == 0


async def test_a_foreign_authority_is_refused(serve: ServiceFactory, ca: Any, foreign: Any, tmp_path: Path) -> None:
    """The same names under another authority do not get a connection."""
    identity = foreign.issue(tmp_path / "foreign", "gateway", bundle=ca.pem)
    async with serve() as service:
        assert await _raw_code(service.target, identity) is grpc.StatusCode.UNAVAILABLE


async def test_no_certificate_is_refused(serve: ServiceFactory, ca: Any, issue: Callable[..., Path]) -> None:
    """TLS without a client certificate does not get a connection."""
    async with serve() as service:
        anonymous = grpc.ssl_channel_credentials(ca.pem)
        code = await _raw_code(service.target, issue("gateway"), credentials=anonymous)
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_plaintext_is_refused(serve: ServiceFactory) -> None:
    """A client that speaks no TLS does not get a connection."""
    async with serve() as service, grpc.aio.insecure_channel(service.target) as channel:
        stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetShardMap(REQUEST, timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_of_another_identity_is_not_talked_to(serve: ServiceFactory, issue: Callable[..., Path]) -> None:
    """A channel to event-store does not talk to a process that proves to be somebody else."""
    async with serve() as service:
        source = FileIdentitySource(issue("gateway"), "almagest.internal")
        async with Channel(service.target, service="auth", identity=source) as channel:
            stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
            with pytest.raises(RemoteProblem) as refused:
                await stub.GetShardMap(REQUEST)
            assert refused.value.code is grpc.StatusCode.UNAVAILABLE
        assert service.servicer.calls == 0


async def test_a_certificate_that_expires_on_a_live_connection_is_refused(
    serve: ServiceFactory, issue: Callable[..., Path]
) -> None:
    """TLS has proven the identity once; the next call after the expiry is refused all the same."""
    async with serve() as service:
        stub = service.stub(issue("gateway", lifetime=3))
        await stub.GetShardMap(REQUEST)
        async with asyncio.timeout(10):
            while True:
                try:
                    await stub.GetShardMap(REQUEST)
                except RemoteProblem as problem:
                    assert problem.reason == "CALLER_EXPIRED"  # noqa: PT017
                    break
                await asyncio.sleep(0.05)


async def test_a_method_without_a_row_keeps_the_service_from_starting(serve: ServiceFactory, policy: Policy) -> None:
    """A policy that forgets a method, or names one that is gone, is found at start and says which."""
    rows = policy()
    del rows["/almagest.eventstore.v1.EventStoreService/Append"]
    with pytest.raises(PolicyIncomplete, match="EventStoreService/Append"):
        async with serve(rows=rows):
            pass
    rows = policy()
    rows["/almagest.eventstore.v1.EventStoreService/Apend"] = rows["/almagest.eventstore.v1.EventStoreService/Append"]
    with pytest.raises(PolicyIncomplete, match="EventStoreService/Apend"):
        async with serve(rows=rows):
            pass


async def test_health_is_for_all_of_ours_and_reflection_for_operators(
    serve: ServiceFactory, issue: Callable[..., Path]
) -> None:
    """Every workload may ask after our health; the shape of our interface is for operators."""
    async with serve() as service:
        health: Any = health_pb2_grpc.HealthStub(service.channel(issue("worker")))
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2.ServerReflectionRequest(list_services="")

        async def services(identity: Path) -> list[str]:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel(identity))
            async with contextlib.aclosing(aiter(stub.ServerReflectionInfo(iter([ask]), timeout=5))) as answers:
                return [entry.name async for answer in answers for entry in answer.list_services_response.service]

        assert "almagest.eventstore.v1.EventStoreService" in await services(issue("operator"))
        with pytest.raises(RemoteProblem) as refused:
            await services(issue("worker"))
        assert refused.value.reason == "CALLER_NOT_ALLOWED"
