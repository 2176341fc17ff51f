"""Reads of single products travel together (see `chassis.coalescing`).

Those that must wait for a write to become visible travel apart from those that need not: a batch is answered when its
slowest item is.
"""

from collections.abc import Sequence

from almagest.catalog.v1 import past_pb2, past_pb2_grpc, query_pb2, query_pb2_grpc, schedules_pb2, schedules_pb2_grpc
from chassis.coalescing import Coalescer
from chassis.deadlines import timeout_for
from chassis.errors import RemoteProblem
from chassis.rpc.channel import Channel

from gateway.adapters.calls import LIMIT_SECONDS, ask
from gateway.application.ports import CatalogQuery, Person

_SERVICE = "/almagest.catalog.v1.CatalogQueryService/"
_PAST = "/almagest.catalog.v1.CatalogPastService/"
RETRYABLE = frozenset(
    _SERVICE + method
    for method in ("BatchGetProducts", "ListProducts", "SearchProducts", "GetProductHistory", "GetProjectionStatus")
) | frozenset(
    _PAST + method
    for method in ("GetProductAsOf", "ListProductsAsOf", "SearchProductsAsOf", "DiffProduct", "ExplainField")
)
_Reads = Coalescer[query_pb2.GetProductItem, query_pb2.ProductDocument]


class GrpcCatalogQuery(CatalogQuery):
    """catalog-query over gRPC."""

    def __init__(self, channel: Channel) -> None:
        self._stub = query_pb2_grpc.CatalogQueryServiceStub(channel)
        self._past = past_pb2_grpc.CatalogPastServiceStub(channel)
        self._plans = schedules_pb2_grpc.CatalogScheduleServiceStub(channel)
        self._reads: _Reads = Coalescer(self._send, max_batch=256, in_flight=2, name="get_products")
        self._patient_reads: _Reads = Coalescer(self._send, max_batch=32, in_flight=64, name="get_products_waiting")

    async def product(self, item: query_pb2.GetProductItem) -> query_pb2.ProductDocument:  # noqa: D102 - the port says
        timeout = timeout_for(LIMIT_SECONDS)
        # The service answers in time to say that it is not there yet, rather than that time is over.
        item.timeout.FromNanoseconds(int(timeout * 0.9e9))
        reads = self._patient_reads if item.consistency_token else self._reads
        return await reads.submit(item, timeout=timeout)

    async def products(  # noqa: D102
        self, items: Sequence[query_pb2.GetProductItem]
    ) -> Sequence[query_pb2.GetProductResult]:
        timeout = timeout_for(LIMIT_SECONDS)
        for item in items:
            item.timeout.FromNanoseconds(int(timeout * 0.9e9))
        answer = await self._stub.BatchGetProducts(query_pb2.BatchGetProductsRequest(items=items), timeout=timeout)
        return answer.results

    async def _send(self, items: Sequence[query_pb2.GetProductItem]) -> Sequence[query_pb2.ProductDocument | Exception]:
        answer = await self._stub.BatchGetProducts(
            query_pb2.BatchGetProductsRequest(items=items), timeout=LIMIT_SECONDS
        )
        return [
            RemoteProblem(result.problem) if result.HasField("problem") else result.product for result in answer.results
        ]

    async def list_products(  # noqa: D102
        self, request: query_pb2.ListProductsRequest, person: Person
    ) -> query_pb2.ListProductsResponse:
        return await ask(self._stub.ListProducts, request, person)

    async def search_products(  # noqa: D102
        self, request: query_pb2.SearchProductsRequest, person: Person
    ) -> query_pb2.SearchProductsResponse:
        return await ask(self._stub.SearchProducts, request, person)

    async def history(  # noqa: D102
        self, request: query_pb2.GetProductHistoryRequest, person: Person
    ) -> query_pb2.GetProductHistoryResponse:
        return await ask(self._stub.GetProductHistory, request, person)

    async def product_as_of(  # noqa: D102
        self, request: past_pb2.GetProductAsOfRequest, person: Person
    ) -> past_pb2.GetProductAsOfResponse:
        return await ask(self._past.GetProductAsOf, request, person)

    async def list_as_of(  # noqa: D102
        self, request: past_pb2.ListProductsAsOfRequest, person: Person
    ) -> past_pb2.ListProductsAsOfResponse:
        return await ask(self._past.ListProductsAsOf, request, person)

    async def search_as_of(  # noqa: D102
        self, request: past_pb2.SearchProductsAsOfRequest, person: Person
    ) -> past_pb2.SearchProductsAsOfResponse:
        return await ask(self._past.SearchProductsAsOf, request, person)

    async def diff(  # noqa: D102
        self, request: past_pb2.DiffProductRequest, person: Person
    ) -> past_pb2.DiffProductResponse:
        return await ask(self._past.DiffProduct, request, person)

    async def explain(  # noqa: D102
        self, request: past_pb2.ExplainFieldRequest, person: Person
    ) -> past_pb2.ExplainFieldResponse:
        return await ask(self._past.ExplainField, request, person)

    async def schedules(  # noqa: D102
        self, request: schedules_pb2.ListSchedulesRequest, person: Person
    ) -> schedules_pb2.ListSchedulesResponse:
        return await ask(self._plans.ListSchedules, request, person)

    async def projections(self, person: Person) -> query_pb2.GetProjectionStatusResponse:  # noqa: D102
        return await ask(self._stub.GetProjectionStatus, query_pb2.GetProjectionStatusRequest(), person)

    async def close(self) -> None:
        """Refuse what waits."""
        await self._reads.close()
        await self._patient_reads.close()
