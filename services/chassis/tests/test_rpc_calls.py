"""What happens to a call between two services: person, deadline, error, trace."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from almagest.eventstore.v1 import event_store_pb2, event_store_pb2_grpc
from chassis.deadlines import remaining, set_deadline, timeout_for
from chassis.errors import DeadlineExceeded, InvalidRequest, RemoteProblem, Unavailable
from chassis.identity.files import FileIdentitySource
from chassis.policy import Person, Rule
from chassis.rpc.channel import Channel
from chassis.telemetry import tracing
from chassis.tokens import current_person
from harness.tokens import TransactionTokens

ServiceFactory = Callable[..., Any]
Issue = Callable[..., Path]
REQUEST = event_store_pb2.GetShardMapRequest()
RESPONSE = event_store_pb2.GetShardMapResponse(epoch=1)


@pytest.fixture
def person_policy(policy: Callable[..., dict[str, Rule]]) -> dict[str, Rule]:
    """GetShardMap asks for a person who may read the catalog."""
    return policy(
        GetShardMap=Rule(callers=frozenset({"gateway"}), person=Person.REQUIRED, scopes=frozenset({"catalog:read"}))
    )


async def test_a_person_with_the_scope_is_let_through_and_known(
    serve: ServiceFactory, issue: Issue, person_policy: Any, transaction_tokens: TransactionTokens
) -> None:
    """The use case sees the verified claims of the token that came along."""
    async with serve(rows=person_policy) as service:
        seen: list[tuple[str, frozenset[str]]] = []

        async def behaviour(_request: Any, _context: Any) -> Any:
            seen.append((current_person().subject, current_person().scopes))
            return RESPONSE

        service.servicer.behaviour = behaviour
        token = transaction_tokens(subject="somebody", roles=("viewer",))
        await service.stub(issue("gateway")).GetShardMap(REQUEST, metadata=(("txn-token", token),))
        assert seen == [("somebody", frozenset({"catalog:read", "jobs:read"}))]


@pytest.mark.parametrize(
    ("forge", "code", "reason"),
    [
        (lambda _sign: None, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
        (lambda sign: sign(lifetime=-1), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"),
        (lambda sign: sign(workload="worker"), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_OF_ANOTHER"),
        (lambda sign: sign(key=sign.stranger()), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"),
        (lambda sign: sign(scopes=["jobs:read"]), grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
    ],
    ids=["missing", "expired", "of another workload", "forged", "without the scope"],
)
async def test_a_person_without_proof_or_scope_is_refused(
    serve: ServiceFactory,
    issue: Issue,
    person_policy: Any,
    transaction_tokens: TransactionTokens,
    forge: Any,
    code: grpc.StatusCode,
    reason: str,
) -> None:
    """The caller's certificate says nothing about the person; only a good token does."""
    async with serve(rows=person_policy) as service:
        token = forge(transaction_tokens)
        with pytest.raises(RemoteProblem) as refused:
            await service.stub(issue("gateway")).GetShardMap(
                REQUEST, metadata=(("txn-token", token),) if token else None
            )
        assert (refused.value.code, refused.value.reason) == (code, reason)
        assert service.servicer.calls == 0


async def test_a_token_is_passed_on_where_the_policy_says_so_and_nowhere_else(
    serve: ServiceFactory, issue: Issue, policy: Any, transaction_tokens: TransactionTokens
) -> None:
    """One that the worker has got hold of is of no use to it; one that a service was asked with may be good further
    on, by the row of the method.
    """
    rows = policy(
        GetShardMap=Rule(frozenset({"worker"}), Person.REQUIRED, tokens_of=frozenset({"auth"})),
        Append=Rule(frozenset({"worker"}), Person.REQUIRED, tokens_of=frozenset({"gateway"})),
    )
    async with serve(rows=rows) as service:
        stub = service.stub(issue("worker"))
        metadata = (("txn-token", transaction_tokens()),)
        await stub.Append(event_store_pb2.AppendRequest(), metadata=metadata)
        with pytest.raises(RemoteProblem) as refused:
            await stub.GetShardMap(REQUEST, metadata=metadata)
        assert refused.value.reason == "TOKEN_OF_ANOTHER"
        await stub.GetShardMap(REQUEST, metadata=(("txn-token", transaction_tokens(workload="worker")),))


async def test_the_person_travels_to_the_next_service(
    serve: ServiceFactory, issue: Issue, person_policy: Any, transaction_tokens: TransactionTokens
) -> None:
    """A call made while serving a person carries the same token without being told to."""
    async with serve(rows=person_policy) as inner, serve(rows=person_policy) as outer:
        seen: list[str] = []

        async def innermost(_request: Any, _context: Any) -> Any:
            seen.append(current_person().subject)
            return RESPONSE

        inner_stub = inner.stub(issue("gateway"))

        async def passing_on(request: Any, _context: Any) -> Any:
            return await inner_stub.GetShardMap(request)

        inner.servicer.behaviour, outer.servicer.behaviour = innermost, passing_on
        token = transaction_tokens(subject="somebody")
        await outer.stub(issue("gateway")).GetShardMap(REQUEST, metadata=(("txn-token", token),))
        assert seen == ["somebody"]


async def test_the_deadline_travels_and_shrinks(serve: ServiceFactory, issue: Issue) -> None:
    """The next service has less time than this one, whatever its own default is."""
    async with serve() as inner, serve() as outer:
        left: dict[str, float] = {}

        async def innermost(_request: Any, _context: Any) -> Any:
            left["inner"] = remaining() or 0.0
            return RESPONSE

        inner_stub = inner.stub(issue("gateway"), default_timeout=60)

        async def passing_on(request: Any, _context: Any) -> Any:
            left["outer"] = remaining() or 0.0
            return await inner_stub.GetShardMap(request)

        inner.servicer.behaviour, outer.servicer.behaviour = innermost, passing_on
        await outer.stub(issue("gateway")).GetShardMap(REQUEST, timeout=3)
        assert 0 < left["inner"] < left["outer"] - 0.04
        assert left["outer"] <= 3


async def test_a_call_without_a_deadline_is_refused(serve: ServiceFactory, issue: Issue) -> None:
    """A unary call that would wait for ever is not begun."""
    async with serve() as service:
        identity = issue("gateway")
        credentials = grpc.ssl_channel_credentials(
            *((identity / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt"))
        )
        options = [("grpc.ssl_target_name_override", "event-store.almagest.internal")]
        async with grpc.aio.secure_channel(service.target, credentials, options=options) as channel:
            stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.GetShardMap(REQUEST)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert service.servicer.calls == 0


async def test_a_late_call_is_given_up_at_both_ends(serve: ServiceFactory, issue: Issue) -> None:
    """When the deadline passes, the caller gets DEADLINE_EXCEEDED and the use case is cancelled."""
    async with serve() as service:
        cancelled = asyncio.Event()

        async def endless(_request: Any, _context: Any) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        service.servicer.behaviour = endless
        with pytest.raises(RemoteProblem) as late:
            await service.stub(issue("gateway")).GetShardMap(REQUEST, timeout=0.2)
        assert late.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(30):
            await cancelled.wait()


def test_no_step_is_begun_when_no_time_is_left() -> None:
    """A step gets what is left less a margin, at most its limit, and is not begun with nothing left."""

    async def in_a_call() -> None:
        assert timeout_for(7) == 7
        set_deadline(1.0)
        assert 0.9 < timeout_for(7) <= 0.95
        assert timeout_for(0.5) == 0.5
        set_deadline(0.01)
        with pytest.raises(DeadlineExceeded):
            timeout_for(7)

    asyncio.run(in_a_call())


async def test_a_domain_error_arrives_as_its_row_says(
    serve: ServiceFactory, issue: Issue, refusal: type[Exception]
) -> None:
    """Code, reason, message and metadata of the row come out at the other end."""
    async with serve() as service:

        async def refuse(_request: Any, _context: Any) -> Any:
            raise refusal(41)

        service.servicer.behaviour = refuse
        with pytest.raises(RemoteProblem) as refused:
            await service.stub(issue("gateway")).GetShardMap(REQUEST)
        problem = refused.value.problem
        assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
        assert (problem.reason, problem.message) == ("REVISION_CONFLICT", "the revision is 41")
        assert dict(problem.metadata) == {"actual_revision": "41"}


async def test_an_unexpected_error_does_not_leak_a_word(serve: ServiceFactory, issue: Issue) -> None:
    """What nobody expected is INTERNAL with a fixed text."""
    async with serve() as service:

        async def fail(_request: Any, _context: Any) -> Any:
            raise ValueError("password=hunter2 in row 17")

        service.servicer.behaviour = fail
        with pytest.raises(RemoteProblem) as failed:
            await service.stub(issue("gateway")).GetShardMap(REQUEST)
        assert failed.value.code is grpc.StatusCode.INTERNAL
        assert "hunter2" not in failed.value.problem.SerializeToString().decode("utf-8", "replace")
        assert "hunter2" not in str(failed.value.__cause__)


async def test_many_violations_arrive_as_a_problem_and_not_as_a_broken_call(
    serve: ServiceFactory, issue: Issue
) -> None:
    """A request that is wrong in a thousand places is answered with as many of them as fit."""
    async with serve() as service:

        async def refuse(_request: Any, _context: Any) -> Any:
            raise InvalidRequest([(f"items[{n}].price", "ü" * 900) for n in range(1000)])

        service.servicer.behaviour = refuse
        with pytest.raises(RemoteProblem) as refused:
            await service.stub(issue("gateway")).GetShardMap(REQUEST)
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.problem.violations[0].field == "items[0].price"


async def test_the_time_to_wait_arrives(serve: ServiceFactory, issue: Issue) -> None:
    """`Unavailable(retry_after=...)` tells the caller how long to wait."""
    async with serve() as service:

        async def refuse(_request: Any, _context: Any) -> Any:
            raise Unavailable("Not now.", retry_after=2.5)

        service.servicer.behaviour = refuse
        with pytest.raises(RemoteProblem) as refused:
            await service.stub(issue("gateway")).GetShardMap(REQUEST)
        assert refused.value.retry_after == 2.5


async def test_only_methods_named_retryable_are_tried_again(serve: ServiceFactory, issue: Issue) -> None:
    """UNAVAILABLE is tried up to three times for a method that may take effect twice, and once for any other."""
    path = "/almagest.eventstore.v1.EventStoreService/GetShardMap"
    async with serve() as service:

        async def refuse(_request: Any, _context: Any) -> Any:
            raise Unavailable

        service.servicer.behaviour = refuse
        with pytest.raises(RemoteProblem):
            await service.stub(issue("gateway")).GetShardMap(REQUEST)
        assert service.servicer.calls == 1
        with pytest.raises(RemoteProblem):
            await service.stub(issue("gateway"), retryable=frozenset({path})).GetShardMap(REQUEST)
        assert service.servicer.calls == 4


async def test_a_service_that_is_away_is_unavailable_without_its_address(issue: Issue) -> None:
    """The caller learns that it is away; where it should have been is for the log."""
    source = FileIdentitySource(issue("gateway"), "almagest.internal")
    async with Channel("127.0.0.1:1", service="event-store", identity=source) as channel:
        stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
        with pytest.raises(RemoteProblem) as away:
            await stub.GetShardMap(REQUEST)
        assert away.value.code is grpc.StatusCode.UNAVAILABLE
        assert "127.0.0.1" not in away.value.problem.message
        assert "127.0.0.1" in away.value.detail


async def test_a_stream_brings_its_messages_and_then_its_problem(
    serve: ServiceFactory, issue: Issue, refusal: type[Exception]
) -> None:
    """Messages before the failure arrive, then the failure as a problem."""
    async with serve() as service:

        async def refuse(_request: Any, _context: Any) -> Any:
            raise refusal(3)

        service.servicer.behaviour = refuse
        request = event_store_pb2.SubscribeRequest()
        for _ in range(5):
            request.after.add()
        received = 0
        with pytest.raises(RemoteProblem, match="REVISION_CONFLICT"):
            async for _ in service.stub(issue("gateway")).Subscribe(request):
                received += 1
        assert received == 5


async def test_a_large_answer_is_limited_by_the_setting(serve: ServiceFactory, issue: Issue) -> None:
    """A message over the limit is refused by its receiver, not held in memory."""
    async with serve(max_message_bytes=64 * 1024) as service:
        big = event_store_pb2.AppendRequest()
        big.appends.add().stream = "x" * 100_000
        with pytest.raises(RemoteProblem) as refused:
            await service.stub(issue("gateway")).Append(big)
        assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_one_trace_runs_through_two_services(serve: ServiceFactory, issue: Issue, tmp_path: Path) -> None:
    """Client and server spans of each hop are children of what called them, in the trace that came in."""
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    async with serve(trace_rate_per_second=0) as inner:
        async with serve(trace_directory=tmp_path, trace_rate_per_second=0) as outer:
            inner_stub = inner.stub(issue("gateway"))

            async def passing_on(request: Any, _context: Any) -> Any:
                return await inner_stub.GetShardMap(request)

            outer.servicer.behaviour = passing_on
            outer_stub = outer.stub(issue("gateway"))
            with tracing.tracer().start_as_current_span(
                "door", context=tracing.context_from(f"00-{trace_id}-{parent}-01")
            ):
                await outer_stub.GetShardMap(REQUEST)
            await outer_stub.GetShardMap(REQUEST)
            await asyncio.to_thread(tracing.flush_tracing)
    spans = [orjson.loads(line) for line in (tmp_path / "event-store.jsonl").read_bytes().splitlines()]
    # The door, a client and a server span for each of two hops; nothing of the second call, whose trace nobody records.
    assert len(spans) == 5
    assert {span["trace_id"] for span in spans} == {trace_id}
    by_id = {span["span_id"]: span for span in spans}
    chain = [
        next(
            span
            for span in spans
            if span["kind"] == "server" and span["span_id"] not in {s["parent_id"] for s in spans}
        )
    ]
    while chain[-1]["parent_id"] in by_id:
        chain.append(by_id[chain[-1]["parent_id"]])
    assert [span["kind"] for span in chain] == ["server", "client", "server", "client", "internal"]
    assert chain[-1]["parent_id"] == parent
    assert all(span["end_ns"] >= span["start_ns"] > 0 for span in spans)


async def test_a_refusal_is_no_error_of_the_server_and_a_failure_is(
    serve: ServiceFactory, issue: Issue, refusal: type[Exception], tmp_path: Path
) -> None:
    """Who looks for what is broken must not find every stale revision and every missing product."""
    recorded = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serve(trace_directory=tmp_path) as service:
        stub = service.stub(issue("gateway"))
        for error, code in ((refusal(41), "FAILED_PRECONDITION"), (ValueError("broken"), "INTERNAL")):

            async def fail(_request: Any, _context: Any, error: Exception = error) -> Any:
                raise error

            service.servicer.behaviour = fail
            with (
                tracing.tracer().start_as_current_span("door", context=tracing.context_from(recorded)),
                pytest.raises(RemoteProblem) as failed,
            ):
                await stub.GetShardMap(REQUEST)
            assert failed.value.code.name == code
        await asyncio.to_thread(tracing.flush_tracing)
    spans = [orjson.loads(line) for line in (tmp_path / "event-store.jsonl").read_bytes().splitlines()]
    assert [
        (span["attributes"]["rpc.grpc.status_code"], span["status"]) for span in spans if span["kind"] == "server"
    ] == [(9, "unset"), (13, "error")]
