"""CatalogQueryService: wire in, use case called, wire out."""
# ruff: noqa: N802, D102, ARG002 - the methods are gRPC's: its names, its arguments; the proto documents them

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import grpc
from almagest.catalog.v1 import query_pb2, query_pb2_grpc
from almagest.eventstore.v1 import event_pb2
from chassis.deadlines import timeout_for
from chassis.errors import ErrorTable, InvalidRequest
from chassis.telemetry.tracing import context_from, record_span
from chassis.tokens import TokenVerifier, current_person

from catalog_query.application import cursors
from catalog_query.application.freshness import Freshness, Wanted
from catalog_query.application.history import HistoryReader
from catalog_query.application.holds import Holds
from catalog_query.application.lag import Lags
from catalog_query.application.reads import ProductReader
from catalog_query.application.shards import Shards
from catalog_query.domain.errors import ProductNotFound, StreamHeld
from catalog_query.domain.query import Found, Query
from catalog_query.domain.rows import StoredDocument
from catalog_query.entrypoints import moments, requests, tokens
from catalog_query.entrypoints.history import change
from catalog_query.entrypoints.policy import READ, WRITE

MOST_ITEMS = 512
_TIME_TO_READ = 0.1
"""Seconds that a read which waits keeps back for the read itself."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class _Asked:
    """One item of a batch, as far as it may be read."""

    product_id: UUID


class CatalogQueryServicer(query_pb2_grpc.CatalogQueryServiceServicer):
    """Answers from the read models and from the log."""

    def __init__(
        self,
        *,
        shards: Shards,
        freshness: Freshness,
        holds: Holds,
        reader: ProductReader,
        history: HistoryReader,
        projections: Lags,
        verifier: TokenVerifier,
        errors: ErrorTable,
        maximum_wait: float,
        now: Callable[[], datetime],
    ) -> None:
        self._now = now
        self._shards = shards
        self._freshness = freshness
        self._holds = holds
        self._reader = reader
        self._history = history
        self._projections = projections
        self._verifier = verifier
        self._errors = errors
        self._maximum_wait = maximum_wait

    async def GetProduct(self, request: query_pb2.GetProductRequest, context: Context) -> query_pb2.GetProductResponse:
        product_id = requests.product_id(request.product_id)
        wanted = requests.consistency(request.consistency_token, self._shards)
        if wanted:
            await self._freshness.wait_for_all(wanted, timeout=self._time_to_wait())
            self._holds.check_all(wanted)
        as_of = self._as_of(product_id)
        found = (await self._reader.get([product_id])).get(product_id)
        return query_pb2.GetProductResponse(product=self._document(product_id, found, as_of))

    async def BatchGetProducts(
        self, request: query_pb2.BatchGetProductsRequest, context: Context
    ) -> query_pb2.BatchGetProductsResponse:
        if not 1 <= len(request.items) <= MOST_ITEMS:
            raise InvalidRequest([("items", f"must be 1 to {MOST_ITEMS}")])
        began = time.time_ns()
        waits = await asyncio.gather(*(self._admitted(item) for item in request.items))
        as_of = {one.product_id: self._as_of(one.product_id) for one in waits if isinstance(one, _Asked)}
        found = await self._reader.get(list(as_of))
        results = [self._result(one, found, as_of) for one in waits]
        _trace(request.items, results, began)
        return query_pb2.BatchGetProductsResponse(results=results)

    async def ListProducts(
        self, request: query_pb2.ListProductsRequest, context: Context
    ) -> query_pb2.ListProductsResponse:
        query, question = requests.list_query(request)
        found, next_page, positions = await self._page(query, question, request.consistency_tokens)
        return query_pb2.ListProductsResponse(
            documents=[one.document for one in found],
            next_page_token=next_page,
            positions=positions,
            held=held(found, self._holds),
        )

    async def SearchProducts(
        self, request: query_pb2.SearchProductsRequest, context: Context
    ) -> query_pb2.SearchProductsResponse:
        query, question = requests.search_query(request)
        found, next_page, positions = await self._page(query, question, request.consistency_tokens)
        return query_pb2.SearchProductsResponse(
            documents=[one.document for one in found],
            next_page_token=next_page,
            positions=positions,
            held=held(found, self._holds),
        )

    async def GetProductHistory(
        self, request: query_pb2.GetProductHistoryRequest, context: Context
    ) -> query_pb2.GetProductHistoryResponse:
        product_id, size, revision, question = requests.history_page(request)
        changes, earlier = await self._history.page(
            str(product_id),
            from_revision=revision,
            size=size,
            recorded_from=moments.recorded_bound(request, "recorded_from"),
            recorded_to=moments.recorded_bound(request, "recorded_to"),
        )
        now, preview = self._now(), WRITE in current_person().scopes
        return query_pb2.GetProductHistoryResponse(
            changes=[change(one, now=now, preview=preview) for one in changes],
            next_page_token="" if earlier is None else cursors.encode([earlier], question=question),
        )

    async def GetProjectionStatus(
        self, request: query_pb2.GetProjectionStatusRequest, context: Context
    ) -> query_pb2.GetProjectionStatusResponse:
        return query_pb2.GetProjectionStatusResponse(
            projectors=[
                query_pb2.ProjectorStatus(
                    event_shard=lag.event_shard,
                    read_shard=lag.read_shard,
                    checkpoint=lag.checkpoint,
                    head=lag.head,
                    lag_events=lag.head - lag.checkpoint,
                    lag_seconds=lag.seconds,
                    running=lag.running,
                    error=lag.error,
                )
                for lag in await self._projections.lags()
            ]
        )

    async def _admitted(self, item: query_pb2.GetProductItem) -> _Asked | Exception:
        """The item when its person may read, its request is right and what it waits for is visible; else why not."""
        try:
            claims = await self._verifier.verify(item.transaction_token)
            claims.require(READ)
            product_id = requests.product_id(item.product_id)
            wanted = requests.consistency(item.consistency_token, self._shards)
            if wanted:
                await self._freshness.wait_for_all(wanted, timeout=self._time_to_wait(item))
                self._holds.check_all(wanted)
        except Exception as error:  # noqa: BLE001 - it becomes this item's answer
            return error
        return _Asked(product_id)

    def _result(
        self, asked: _Asked | Exception, found: Mapping[UUID, StoredDocument | Exception], as_of: Mapping[UUID, str]
    ) -> query_pb2.GetProductResult:
        if isinstance(asked, Exception):
            return query_pb2.GetProductResult(problem=self._errors.problem(asked))
        product_id = asked.product_id
        try:
            document = self._document(product_id, found.get(product_id), as_of[product_id])
        except Exception as error:  # noqa: BLE001 - the table decides what is said of it
            return query_pb2.GetProductResult(problem=self._errors.problem(error))
        return query_pb2.GetProductResult(product=document)

    async def _page(
        self, query: Query, question: bytes, consistency_tokens: Sequence[str]
    ) -> tuple[Sequence[Found], str, Sequence[event_pb2.ShardPosition]]:
        wanted: Sequence[Wanted] = requests.consistencies(consistency_tokens, self._shards)
        if wanted:
            await self._freshness.wait_for_all(wanted, timeout=self._time_to_wait())
            self._holds.check_all(wanted)
        # Before the read: the answer is at least as new as this.
        positions = [
            event_pb2.ShardPosition(shard=shard, position=position)
            for shard, position in self._freshness.positions().items()
        ]
        found, after = await self._reader.page(query)
        next_page = "" if after is None else cursors.of_key(after, question=question)
        return found, next_page, positions

    def _time_to_wait(self, item: query_pb2.GetProductItem | None = None) -> float:
        limit = self._maximum_wait
        if item is not None and item.HasField("timeout"):
            limit = min(limit, item.timeout.ToNanoseconds() / 1e9)
        return max(timeout_for(limit + _TIME_TO_READ) - _TIME_TO_READ, 0.0)

    def _as_of(self, product_id: UUID) -> str:
        """A token for the position that a read which begins now is at least as new as; empty while that is not
        known.
        """
        place = self._shards.place_of(str(product_id))
        if place is None:
            return ""
        position = self._freshness.position(event_shard=place.event_shard, read_shard=place.read_shard)
        return tokens.token(place, position, epoch=self._shards.epoch)

    def _document(
        self, product_id: UUID, found: StoredDocument | Exception | None, as_of: str
    ) -> query_pb2.ProductDocument:
        if isinstance(found, Exception):
            raise found
        hold = self._holds.of(product_id)
        if found is None:
            if hold is not None:
                raise StreamHeld(str(product_id), revision=hold.revision)
            raise ProductNotFound(str(product_id))
        return query_pb2.ProductDocument(
            document=found.document,
            revision=found.revision,
            consistency_token=as_of,
            held_revision=None if hold is None else hold.revision,
        )


def held(found: Sequence[Found], holds: Holds) -> Sequence[query_pb2.HeldProduct]:
    """Which products of a page stand still. To be asked after the page was read: what it shows is known to be held."""
    return [
        query_pb2.HeldProduct(product_id=str(product_id), held_revision=hold.revision)
        for product_id, hold in holds.among(one.key.product_id for one in found).items()
    ]


def _trace(
    items: Sequence[query_pb2.GetProductItem], results: Sequence[query_pb2.GetProductResult], began: int
) -> None:
    """The batch, as a span in the trace of each item that is recorded."""
    ended = time.time_ns()
    for item, result in zip(items, results, strict=True):
        if item.traceparent.endswith("-01"):
            record_span(
                "get product",
                parent=context_from(item.traceparent),
                start_ns=began,
                end_ns=ended,
                attributes={"almagest.product_id": item.product_id, "almagest.batch_items": len(items)},
                error=result.problem.reason if result.HasField("problem") else None,
            )
