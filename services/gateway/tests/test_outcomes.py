"""What a client is told of a write whose call failed under way."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
import pytest
from almagest.catalog.v1 import command_pb2
from almagest.rpc.v1 import problem_pb2
from chassis.errors import RemoteProblem, remote_problem
from chassis.rpc.channel import Channel
from gateway.adapters.catalog_command import GrpcCatalogCommand

Call = Callable[..., Awaitable[command_pb2.ExecuteCommandsResponse]]


class Line:
    """A channel on which every call goes as told."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def unary_unary(self, *_: Any, **__: Any) -> Call:
        return self._call


async def failure_of(call: Call) -> RemoteProblem:
    commands = GrpcCatalogCommand(cast("Channel", Line(call)))
    try:
        with pytest.raises(RemoteProblem) as failed:
            await commands.execute(command_pb2.CommandItem(command_id="c"))
    finally:
        await commands.close()
    return failed.value


@pytest.mark.parametrize("details", ["Socket closed", "connection closed"])
async def test_a_write_whose_connection_broke_may_have_happened(details: str) -> None:
    """It is not said to be safely repeated without a key: catalog-command may have died after it had written."""

    async def breaks(*_: Any, **__: Any) -> command_pb2.ExecuteCommandsResponse:
        raise remote_problem(
            grpc.StatusCode.UNAVAILABLE, service="catalog-command", details=details, status_details=None
        )

    failed = await failure_of(breaks)
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN")
    assert "Idempotency-Key" in failed.problem.message
    assert failed.detail == details


async def test_an_unknown_outcome_is_told_in_the_clients_words() -> None:
    """The client knows keys; command ids are ours."""

    async def unsure(*_: Any, **__: Any) -> command_pb2.ExecuteCommandsResponse:
        problem = problem_pb2.Problem(
            code=grpc.StatusCode.UNAVAILABLE.value[0],
            reason="OUTCOME_UNKNOWN",
            message="The same command id can safely be sent again.",
            metadata={"retry_after": "0.2"},
        )
        return command_pb2.ExecuteCommandsResponse(results=[command_pb2.CommandResult(problem=problem)])

    failed = await failure_of(unsure)
    assert failed.reason == "OUTCOME_UNKNOWN"
    assert "Idempotency-Key" in failed.problem.message
    assert "command id" not in failed.problem.message
    assert dict(failed.problem.metadata) == {"retry_after": "0.2"}


async def test_other_failures_stay_what_they_are() -> None:
    """A refusal is certain."""

    async def refuses(*_: Any, **__: Any) -> command_pb2.ExecuteCommandsResponse:
        raise remote_problem(
            grpc.StatusCode.PERMISSION_DENIED, service="catalog-command", details="no", status_details=None
        )

    failed = await failure_of(refuses)
    assert (failed.code, failed.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
