import asyncio

import grpc
import httpx
import pytest
from almagest.rpc.v1 import problem_pb2
from chassis.errors import DeadlineExceeded, RemoteProblem, ResourceExhausted, Unavailable
from gateway.problems import Asked, answer_to, public_field, status_of

KEYS = {"type", "title", "status", "detail", "instance", "reason", "trace_id", "errors", "metadata"}


@pytest.mark.parametrize(
    ("code", "reason", "method", "if_match", "status"),
    [
        ("INVALID_ARGUMENT", "INVALID_REQUEST", "GET", False, 400),
        ("INVALID_ARGUMENT", "INVALID_COMMAND", "POST", False, 422),
        ("INVALID_ARGUMENT", "COMMAND_ID_REUSED", "POST", False, 422),
        ("FAILED_PRECONDITION", "COMMAND_REUSED", "POST", False, 422),
        ("UNAUTHENTICATED", "TOKEN_EXPIRED", "GET", False, 401),
        ("PERMISSION_DENIED", "SCOPE_MISSING", "GET", False, 403),
        ("NOT_FOUND", "PRODUCT_NOT_FOUND", "GET", False, 404),
        ("NOT_FOUND", "PRODUCT_NOT_FOUND", "PUT", True, 412),
        ("ALREADY_EXISTS", "PRODUCT_ALREADY_EXISTS", "POST", False, 409),
        ("ABORTED", "REVISION_CONFLICT", "PUT", False, 409),
        ("ABORTED", "REVISION_CONFLICT", "PUT", True, 412),
        ("ABORTED", "OTHER", "PUT", True, 409),
        ("FAILED_PRECONDITION", "PRICE_MISSING", "POST", False, 409),
        ("OUT_OF_RANGE", "X", "GET", False, 400),
        ("RESOURCE_EXHAUSTED", "TOO_MUCH", "POST", False, 429),
        ("RESOURCE_EXHAUSTED", "FILE_TOO_LARGE", "POST", False, 413),
        ("INVALID_ARGUMENT", "ITEM_TOO_LARGE", "POST", False, 413),
        ("UNAVAILABLE", "UNAVAILABLE", "GET", False, 503),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "GET", False, 504),
        ("INTERNAL", "INTERNAL", "GET", False, 500),
        ("UNIMPLEMENTED", "UNIMPLEMENTED", "GET", False, 500),
        ("DATA_LOSS", "DATA_LOSS", "GET", False, 500),
    ],
)
def test_the_table_of_statuses(code, reason, method, if_match, status):
    """From gRPC status and reason to HTTP status, row by row of the contract."""
    problem = problem_pb2.Problem(code=grpc.StatusCode[code].value[0], reason=reason)
    assert status_of(problem, Asked(method, "/", "0", if_match)) == status


@pytest.mark.parametrize(
    ("internal", "public"),
    [
        ("commands[0].create.sku", "sku"),
        ("commands[0].create.description.name", "name"),
        ("commands[0].create.description.car.vehicle.make", "attributes.make"),
        ("commands[0].describe.description.car.doors", "attributes.doors"),
        ("commands[0].create.description.general.properties[a]", "attributes.properties[a]"),
        ("commands[1].set_price.price.amount", "price.amount"),
        ("commands[0].discontinue.reason", "reason"),
        ("commands[0]", ""),
        ("filter.price_from", "price_from"),
        ("filter.kinds[0]", "kind"),
        ("page_token", "cursor"),
        ("consistency_tokens[1]", "Almagest-Consistency"),
        ("email", "email"),
        ("", ""),
    ],
)
def test_fields_get_their_public_names(internal, public):
    """Nobody outside knows of commands and descriptions."""
    assert public_field(internal) == public


async def _answer(fakes, client, failure: Exception) -> httpx.Response:
    fakes.catalog.failure = failure
    return await client.get("/v1/products/sku:x")


async def test_unexpected_errors_tell_nothing_but_the_trace(client, fakes):
    """Neither an exception of ours nor what a service failed of; the trace id is the one in the header."""
    for path in ("/v1/products/sku:x", "/v1/products"):
        for failure in (
            RuntimeError("password=hunter2 at 10.0.0.1"),
            RemoteProblem(problem_pb2.Problem(code=13, reason="INTERNAL", message="hunter2"), detail="10.0.0.1"),
            RemoteProblem(problem_pb2.Problem(code=7, reason="CALLER_NOT_ALLOWED", message="hunter2 10.0.0.1")),
        ):
            fakes.catalog.failure = failure
            answer = await client.get(path)
            assert answer.status_code == 500
            assert "hunter2" not in answer.text
            assert "10.0.0.1" not in answer.text
            assert answer.json()["trace_id"] == answer.headers["trace-id"]
            assert answer.json().keys() == KEYS
            assert answer.headers["content-type"] == "application/problem+json"


async def test_what_passes_says_when_to_come_again(client, fakes):
    """429 and 503 carry Retry-After in whole seconds, at least one."""
    for failure, status, seconds in (
        (Unavailable(retry_after=2.2), 503, "3"),
        (Unavailable(retry_after=None), 503, "1"),
        (ResourceExhausted(retry_after=1.0), 429, "1"),
    ):
        answer = await _answer(fakes, client, failure)
        assert (answer.status_code, answer.headers["retry-after"]) == (status, seconds)
    assert (await _answer(fakes, client, DeadlineExceeded())).status_code == 504
    assert (await _answer(fakes, client, TimeoutError())).status_code == 504


async def test_unknown_paths_and_methods_are_problems_too(client):
    """404 and 405, the latter with every method that the path knows."""
    for path in ("/", "/v1", "/v1/nothing", "/v1/products/", "/v2/products", "/docs/nothing", "/docs/../settings.py"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["reason"]) == (404, "ROUTE_NOT_FOUND"), path
        assert answer.json().keys() == KEYS
    for method, path, allowed in (
        ("DELETE", "/v1/products", "GET, HEAD, POST"),
        ("POST", "/v1/products/sku:x", "GET, HEAD"),
        ("PATCH", "/v1/jobs", "GET, HEAD"),
        ("GET", "/v1/imports", "POST"),
        ("QUERY", "/v1/users", "GET, HEAD, POST"),
    ):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.json()["reason"] == "METHOD_NOT_ALLOWED"


async def test_a_read_is_given_up_when_its_client_goes_away(fakes):
    """The call behind is cancelled; a write goes on, since its repeat is sure to come."""
    fakes.catalog.gate = asyncio.Event()
    gone = asyncio.Event()
    sent: list[object] = []

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/products/sku:x",
        "raw_path": b"/v1/products/sku:x",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer " + fakes.access_token().encode())],
    }
    running = asyncio.create_task(fakes.app(scope, receive, send))
    await fakes.catalog.began.wait()
    gone.set()
    async with asyncio.timeout(30):
        await running
    assert fakes.catalog.cancelled == 1
    assert not sent


async def test_every_answer_has_its_trace(client, fakes):
    """A trace that comes is continued; one that is none is replaced."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = await client.get("/healthz", headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    assert answer.headers["trace-id"] == trace_id
    for nonsense in (
        "",
        "00-xyz",
        "ff-" + trace_id + "-00f067aa0ba902b7-01",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
    ):
        answer = await client.get("/healthz", headers={"traceparent": nonsense})
        assert answer.status_code == 200
        assert len(answer.headers["trace-id"]) == 32


async def test_a_client_may_ask_for_less_time(client, fakes):
    """`Prefer: wait=` becomes the deadline of everything behind."""
    fakes.catalog.failure = None
    remaining: list[float | None] = []

    async def list_products(request, person):
        from chassis.deadlines import remaining as left  # noqa: PLC0415

        remaining.append(left())
        raise DeadlineExceeded

    fakes.catalog.list_products = list_products
    for prefer in ({}, {"Prefer": "wait=1"}, {"Prefer": "respond-async, wait=2"}, {"Prefer": "wait=99999"}):
        answer = await client.get("/v1/products", headers=prefer)
        assert answer.status_code == 504
    assert [round(seconds or 0) for seconds in remaining] == [5, 1, 2, 5]


def test_problems_are_answered_with_the_path_of_the_request():
    """`instance` is where it happened."""
    answer = answer_to(Unavailable(), Asked("GET", "/v1/x", "0" * 32))
    assert b'"instance":"/v1/x"' in answer.body
    assert b'"type":"https://almagest.dev/problems/unavailable"' in answer.body
