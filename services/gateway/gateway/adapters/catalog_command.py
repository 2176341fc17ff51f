"""Writes travel together: those that wait while calls are in flight go in the next one (see `chassis.coalescing`)."""

import asyncio
from collections.abc import Sequence

from almagest.catalog.v1 import command_pb2, command_pb2_grpc
from chassis.coalescing import Coalescer
from chassis.deadlines import timeout_for
from chassis.errors import RemoteProblem
from chassis.rpc.channel import Channel

from gateway.application.ports import CatalogCommand

LIMIT_SECONDS = 30.0
_MAX_BATCH = 64
_IN_FLIGHT = 4


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
        answer = await self._stub.ExecuteCommands(
            command_pb2.ExecuteCommandsRequest(items=items), timeout=LIMIT_SECONDS
        )
        return [
            RemoteProblem(result.problem) if result.HasField("problem") else result.executed
            for result in answer.results
        ]

    async def close(self) -> None:
        """Refuse what waits."""
        await self._commands.close()
