"""Writes travel together: those that wait while calls are in flight go in the next one (see `chassis.coalescing`).

A call that fails under way says nothing about what it carried: it may have been done.
"""

import asyncio
from collections.abc import Sequence

import grpc
from almagest.catalog.v1 import command_pb2, command_pb2_grpc
from almagest.rpc.v1 import problem_pb2
from chassis.coalescing import Coalescer
from chassis.deadlines import timeout_for
from chassis.errors import RemoteProblem
from chassis.rpc.channel import Channel

from gateway.application.ports import CatalogCommand

LIMIT_SECONDS = 30.0
_MAX_BATCH = 64
_IN_FLIGHT = 4
_UNKNOWN = "OUTCOME_UNKNOWN"
_UNKNOWN_MESSAGE = (
    "Whether this took effect could not be found out. With an Idempotency-Key the same request can safely be sent "
    "again; without one, look first."
)


class GrpcCatalogCommand(CatalogCommand):
    """catalog-command over gRPC."""

    def __init__(self, channel: Channel) -> None:
        self._stub = command_pb2_grpc.CatalogCommandServiceStub(channel)
        self._commands: Coalescer[command_pb2.CommandItem, command_pb2.Executed] = Coalescer(
            self._send, max_batch=_MAX_BATCH, in_flight=_IN_FLIGHT, name="execute_commands"
        )

    async def execute(self, item: command_pb2.CommandItem) -> command_pb2.Executed:  # noqa: D102 - the port says
        timeout = timeout_for(LIMIT_SECONDS)
        item.timeout.FromNanoseconds(int(timeout * 1e9))
        return await asyncio.shield(self._commands.submit(item, timeout=timeout))

    async def _send(self, items: Sequence[command_pb2.CommandItem]) -> Sequence[command_pb2.Executed | Exception]:
        try:
            answer = await self._stub.ExecuteCommands(
                command_pb2.ExecuteCommandsRequest(items=items), timeout=LIMIT_SECONDS
            )
        except RemoteProblem as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            raise _outcome_unknown(error.problem, retry_after=error.retry_after, detail=error.detail) from error
        return [
            _refused(result.problem) if result.HasField("problem") else result.executed for result in answer.results
        ]

    async def close(self) -> None:
        """Refuse what waits."""
        await self._commands.close()


def _refused(problem: problem_pb2.Problem) -> RemoteProblem:
    # What catalog-command says of its command ids is nothing that a client of ours could follow.
    return _outcome_unknown(problem) if problem.reason == _UNKNOWN else RemoteProblem(problem)


def _outcome_unknown(
    problem: problem_pb2.Problem, *, retry_after: float | None = None, detail: str = ""
) -> RemoteProblem:
    said = problem_pb2.Problem(
        code=problem.code, reason=_UNKNOWN, message=_UNKNOWN_MESSAGE, metadata=dict(problem.metadata)
    )
    return RemoteProblem(said, retry_after=retry_after, detail=detail)
