"""Looking after projections, at catalog-query."""

from almagest.catalog.v1 import projections_pb2, projections_pb2_grpc
from chassis.deadlines import timeout_for
from chassis.rpc.channel import Channel

from gateway.adapters.auth import on_behalf_of
from gateway.application.ports import Operators, Person

LIMIT_SECONDS = 30.0
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
        return await self._stub.ListProjections(
            request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS)
        )

    async def list_parked(  # noqa: D102 - the port says
        self, request: projections_pb2.ListParkedEventsRequest, person: Person
    ) -> projections_pb2.ListParkedEventsResponse:
        return await self._stub.ListParkedEvents(
            request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS)
        )

    async def retry_parked(  # noqa: D102 - the port says
        self, request: projections_pb2.RetryParkedEventsRequest, person: Person
    ) -> projections_pb2.RetryParkedEventsResponse:
        return await self._stub.RetryParkedEvents(
            request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS)
        )

    async def skip_parked(  # noqa: D102 - the port says
        self, request: projections_pb2.SkipParkedEventRequest, person: Person
    ) -> projections_pb2.SkipParkedEventResponse:
        return await self._stub.SkipParkedEvent(
            request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS)
        )

    async def rebuild(  # noqa: D102 - the port says
        self, request: projections_pb2.RebuildRequest, person: Person
    ) -> projections_pb2.RebuildResponse:
        return await self._stub.Rebuild(request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS))

    async def compare(  # noqa: D102 - the port says
        self, request: projections_pb2.CompareRequest, person: Person
    ) -> None:
        await self._stub.Compare(request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS))

    async def list_differences(  # noqa: D102 - the port says
        self, request: projections_pb2.ListDifferencesRequest, person: Person
    ) -> projections_pb2.ListDifferencesResponse:
        return await self._stub.ListDifferences(
            request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS)
        )

    async def switch(  # noqa: D102 - the port says
        self, request: projections_pb2.SwitchGenerationRequest, person: Person
    ) -> projections_pb2.SwitchGenerationResponse:
        return await self._stub.SwitchGeneration(
            request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS)
        )

    async def drop(  # noqa: D102 - the port says
        self, request: projections_pb2.DropGenerationRequest, person: Person
    ) -> None:
        await self._stub.DropGeneration(request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS))

    async def list_drift(  # noqa: D102 - the port says
        self, request: projections_pb2.ListDriftRequest, person: Person
    ) -> projections_pb2.ListDriftResponse:
        return await self._stub.ListDrift(request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS))

    async def repair(  # noqa: D102 - the port says
        self, request: projections_pb2.RepairProductRequest, person: Person
    ) -> projections_pb2.RepairProductResponse:
        return await self._stub.RepairProduct(
            request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS)
        )
