"""The list of schedules, from catalog-query."""

from collections.abc import Sequence

from almagest.catalog.v1 import schedules_pb2, schedules_pb2_grpc
from chassis.rpc.channel import Channel

_SERVICE = "/almagest.catalog.v1.CatalogScheduleService/"
RETRYABLE = frozenset({f"{_SERVICE}ListDueSchedules", f"{_SERVICE}ReportRefusals"})


class GrpcPlans:
    """What is planned, over gRPC."""

    def __init__(self, channel: Channel, *, call_seconds: float) -> None:
        self._stub = schedules_pb2_grpc.CatalogScheduleServiceStub(channel)
        self._call_seconds = call_seconds

    async def due(self, limit: int) -> schedules_pb2.ListDueSchedulesResponse:
        """What is due, and when to ask again."""
        request = schedules_pb2.ListDueSchedulesRequest(limit=limit)
        return await self._stub.ListDueSchedules(request, timeout=self._call_seconds)

    async def refused(self, refusals: Sequence[schedules_pb2.RefusedSchedule]) -> None:
        """Note what could not be carried out."""
        request = schedules_pb2.ReportRefusalsRequest(refusals=refusals)
        await self._stub.ReportRefusals(request, timeout=self._call_seconds)
