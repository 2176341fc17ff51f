"""catalog-command over gRPC."""

from collections.abc import Sequence

from almagest.catalog.v1 import command_pb2, command_pb2_grpc
from chassis.rpc.channel import Channel


class GrpcCatalog:
    """Has commands executed."""

    def __init__(self, channel: Channel) -> None:
        self._stub = command_pb2_grpc.CatalogCommandServiceStub(channel)

    async def execute(
        self,
        items: Sequence[command_pb2.CommandItem],
        *,
        timeout: float,
    ) -> Sequence[command_pb2.CommandResult]:
        """Decide items; a result for each.

        Raises:
            RemoteProblem: The call as a whole failed.
        """
        answer = await self._stub.ExecuteCommands(command_pb2.ExecuteCommandsRequest(items=items), timeout=timeout)
        return answer.results
