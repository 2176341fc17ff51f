"""What the event store's problems mean for an append: nothing was written, or nobody knows."""

import asyncio
import time
import uuid
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from almagest.catalog.events.v1.product_events_pb2 import ProductPublished
from almagest.eventstore.v1 import event_store_pb2
from almagest.rpc.v1 import problem_pb2
from catalog_command.adapters.event_store import EventStoreProductLog
from catalog_command.application.product_log import AppendUncertain, ProductAppend, Provenance
from catalog_events import UnknownEvent
from chassis.errors import RemoteProblem


def problem(code: grpc.StatusCode, reason: str) -> problem_pb2.Problem:
    return problem_pb2.Problem(code=code.value[0], reason=reason, message="x")


async def outcome(append: Any) -> Exception:
    """What an append raises when the stub does as told."""
    log = EventStoreProductLog(SimpleNamespace(Append=append))
    asked = ProductAppend(str(uuid.uuid4()), str(uuid.uuid4()), 0, [ProductPublished()], b"", "", Provenance())
    try:
        await log.append(asked, deadline=time.monotonic() + 0.2)
    except Exception as error:  # noqa: BLE001 - it is what is asked for
        return error
    finally:
        await log.close()
    raise AssertionError("it was written")


@pytest.mark.parametrize(
    "code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN", "ABORTED", "DATA_LOSS"]
)
async def test_a_failure_that_may_come_after_the_write_is_uncertain(code):
    """Of the whole call as of the one append."""
    what = problem(grpc.StatusCode[code], "SOMETHING")

    async def call(*_: Any, **__: Any) -> Any:
        raise RemoteProblem(what)

    async def item(*_: Any, **__: Any) -> Any:
        return event_store_pb2.AppendResponse(results=[event_store_pb2.AppendResult(problem=what)])

    assert isinstance(await outcome(call), AppendUncertain)
    assert isinstance(await outcome(item), AppendUncertain)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("RESOURCE_EXHAUSTED", "QUEUE_FULL"),
        ("UNAVAILABLE", "SHARD_UNAVAILABLE"),
        ("UNAUTHENTICATED", "TOKEN_EXPIRED"),
        ("PERMISSION_DENIED", "SCOPE_MISSING"),
        ("INVALID_ARGUMENT", "INVALID_REQUEST"),
    ],
)
async def test_a_refusal_before_the_write_is_told_as_it_is(code, reason):
    """There is nothing to resolve, and the log's own words say what to do."""
    what = problem(grpc.StatusCode[code], reason)

    async def item(*_: Any, **__: Any) -> Any:
        return event_store_pb2.AppendResponse(results=[event_store_pb2.AppendResult(problem=what)])

    error = await outcome(item)
    assert isinstance(error, RemoteProblem)
    assert error.reason == reason


async def test_no_answer_in_time_is_uncertain():
    """It may be on its way."""

    async def never(*_: Any, timeout: float, **__: Any) -> Any:
        await asyncio.sleep(timeout + 1)

    assert isinstance(await outcome(never), AppendUncertain)


async def test_an_event_of_a_later_version_stops_the_decision():
    """To decide without it would be to decide wrongly."""

    async def stream(*_: Any, **__: Any) -> Any:
        answer = event_store_pb2.BatchReadStreamsResponse()
        answer.streams.add(last_revision=0).events.add(type="almagest.catalog.events.v1.ProductPainted")
        return answer

    log = EventStoreProductLog(SimpleNamespace(BatchReadStreams=stream))
    with pytest.raises(UnknownEvent, match="ProductPainted"):
        await log.read(str(uuid.uuid4()), after=-1, deadline=time.monotonic() + 1)
    await log.close()
