"""Looking after projections, at catalog-query."""

from almagest.catalog.v1 import projections_pb2, projections_pb2_grpc
from chassis.rpc.channel import Channel

from gateway.adapters.calls import ask
from gateway.application.ports import Operators, Person

_SERVICE = "/almagest.catalog.v1.CatalogProjectionService/"
RETRYABLE = frozenset(
    _SERVICE + method for method in ("ListProjections", "ListParkedEvents", "ListDifferences", "ListDrift")
)


class GrpcOperators(Operators):
    """The projections of catalog-query over gRPC."""

    def __init__(self, channel: Channel) -> None:
        self._stub = projections_pb2_grpc.CatalogProjectionServiceStub(channel)

    async def list_projections(  # noqa: D102 - the port says
        self, request: projections_pb2.ListProjectionsRequest, person: Person
    ) -> projections_pb2.ListProjectionsResponse:
        return await ask(self._stub.ListProjections, request, person)

    async def list_parked(  # noqa: D102 - the port says
        self, request: projections_pb2.ListParkedEventsRequest, person: Person
    ) -> projections_pb2.ListParkedEventsResponse:
        return await ask(self._stub.ListParkedEvents, request, person)

    async def retry_parked(  # noqa: D102 - the port says
        self, request: projections_pb2.RetryParkedEventsRequest, person: Person
    ) -> projections_pb2.RetryParkedEventsResponse:
        return await ask(self._stub.RetryParkedEvents, request, person)

    async def skip_parked(  # noqa: D102 - the port says
        self, request: projections_pb2.SkipParkedEventRequest, person: Person
    ) -> projections_pb2.SkipParkedEventResponse:
        return await ask(self._stub.SkipParkedEvent, request, person)

    async def rebuild(  # noqa: D102 - the port says
        self, request: projections_pb2.RebuildRequest, person: Person
    ) -> projections_pb2.RebuildResponse:
        return await ask(self._stub.Rebuild, request, person)

    async def compare(  # noqa: D102 - the port says
        self, request: projections_pb2.CompareRequest, person: Person
    ) -> None:
        await ask(self._stub.Compare, request, person)

    async def list_differences(  # noqa: D102 - the port says
        self, request: projections_pb2.ListDifferencesRequest, person: Person
    ) -> projections_pb2.ListDifferencesResponse:
        return await ask(self._stub.ListDifferences, request, person)

    async def switch(  # noqa: D102 - the port says
        self, request: projections_pb2.SwitchGenerationRequest, person: Person
    ) -> projections_pb2.SwitchGenerationResponse:
        return await ask(self._stub.SwitchGeneration, request, person)

    async def drop(  # noqa: D102 - the port says
        self, request: projections_pb2.DropGenerationRequest, person: Person
    ) -> None:
        await ask(self._stub.DropGeneration, request, person)

    async def list_drift(  # noqa: D102 - the port says
        self, request: projections_pb2.ListDriftRequest, person: Person
    ) -> projections_pb2.ListDriftResponse:
        return await ask(self._stub.ListDrift, request, person)

    async def repair(  # noqa: D102 - the port says
        self, request: projections_pb2.RepairProductRequest, person: Person
    ) -> projections_pb2.RepairProductResponse:
        return await ask(self._stub.RepairProduct, request, person)
