"""CatalogPastService: wire in, use case called, wire out."""
# ruff: noqa: N802, D102, ARG002 - the methods are gRPC's: its names, its arguments; the proto documents them

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import grpc
import orjson
from almagest.catalog.v1 import past_pb2, past_pb2_grpc, query_pb2
from almagest.eventstore.v1 import event_pb2
from chassis.deadlines import timeout_for
from chassis.tokens import current_person

from catalog_query.application import cursors
from catalog_query.application.freshness import Freshness
from catalog_query.application.history import Change
from catalog_query.application.holds import Holds
from catalog_query.application.past import Calendar, Moment, PastReader, Resolved
from catalog_query.application.past_pages import PastPages
from catalog_query.application.shards import Place, Shards
from catalog_query.domain.query import Found, Query
from catalog_query.entrypoints import moments, requests, tokens
from catalog_query.entrypoints.catalog_query import held
from catalog_query.entrypoints.history import change, json
from catalog_query.entrypoints.policy import WRITE

_TIME_TO_READ = 0.3
"""Seconds that a read which waits keeps back for the read itself."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class CatalogPastServicer(past_pb2_grpc.CatalogPastServiceServicer):
    """Answers from the log, and pages from the table of versions."""

    def __init__(
        self,
        *,
        shards: Shards,
        freshness: Freshness,
        calendar: Calendar,
        reader: PastReader,
        pages: PastPages,
        holds: Holds,
        maximum_wait: float,
    ) -> None:
        self._shards = shards
        self._freshness = freshness
        self._calendar = calendar
        self._reader = reader
        self._pages = pages
        self._holds = holds
        self._maximum_wait = maximum_wait

    async def GetProductAsOf(
        self, request: past_pb2.GetProductAsOfRequest, context: Context
    ) -> past_pb2.GetProductAsOfResponse:
        product_id = str(requests.product_id(request.product_id))
        requests.consistencies(request.consistency_tokens, self._shards)
        state = await self._reader.state(product_id, moments.moment(request.moment), preview=_may_preview())
        seen = state.seen
        place = Place(seen.bucket, seen.shard, self._shards.read_shard_of_bucket(seen.bucket))
        return past_pb2.GetProductAsOfResponse(
            product=query_pb2.ProductDocument(
                document=orjson.dumps(state.document),
                revision=state.document["revision"],
                consistency_token=tokens.token(place, seen.position, epoch=self._shards.epoch),
            ),
            moment=moments.resolved(state.moment),
        )

    async def ListProductsAsOf(
        self, request: past_pb2.ListProductsAsOfRequest, context: Context
    ) -> past_pb2.ListProductsAsOfResponse:
        query, question, pinned = moments.list_page(request)
        told = await self._moment(request.moment, pinned)
        found, cursor, positions = await self._page(query, question, told, request.page.consistency_tokens)
        page = query_pb2.ListProductsResponse(
            documents=[one.document for one in found],
            next_page_token=cursor,
            positions=positions,
            held=held(found, self._holds),
        )
        return past_pb2.ListProductsAsOfResponse(page=page, moment=moments.resolved(told))

    async def SearchProductsAsOf(
        self, request: past_pb2.SearchProductsAsOfRequest, context: Context
    ) -> past_pb2.SearchProductsAsOfResponse:
        query, question, pinned = moments.search_page(request)
        told = await self._moment(request.moment, pinned)
        found, cursor, positions = await self._page(query, question, told, request.page.consistency_tokens)
        page = query_pb2.SearchProductsResponse(
            documents=[one.document for one in found],
            next_page_token=cursor,
            positions=positions,
            held=held(found, self._holds),
        )
        return past_pb2.SearchProductsAsOfResponse(page=page, moment=moments.resolved(told))

    async def DiffProduct(self, request: past_pb2.DiffProductRequest, context: Context) -> past_pb2.DiffProductResponse:
        product_id = str(requests.product_id(request.product_id))
        difference = await self._reader.difference(
            product_id,
            before=moments.version(getattr(request, "from"), "from"),
            after=moments.version(request.to, "to"),
            preview=_may_preview(),
        )
        return past_pb2.DiffProductResponse(
            from_revision=difference.from_revision,
            to_revision=difference.to_revision,
            fields=[
                query_pb2.FieldChange(field=one.field, before=json(one.before), after=json(one.after))
                for one in difference.fields
            ],
        )

    async def ExplainField(
        self, request: past_pb2.ExplainFieldRequest, context: Context
    ) -> past_pb2.ExplainFieldResponse:
        product_id = str(requests.product_id(request.product_id))
        preview = _may_preview()
        told = await self._reader.explanation(
            product_id, moments.path(request.field), moments.moment(request.moment), preview=preview
        )
        return past_pb2.ExplainFieldResponse(
            value=json(told.value),
            before=json(told.before),
            set_by=self._change(told.set_by, preview=preview),
            scheduled_by=self._change(told.scheduled_by, preview=preview),
            moment=moments.resolved(told.moment),
            revision=told.revision,
        )

    def _change(self, told: Change | None, *, preview: bool) -> query_pb2.ProductChange | None:
        return None if told is None else change(told, now=self._calendar.now(), preview=preview)

    async def _moment(self, wire: past_pb2.Moment, pinned: Sequence[datetime]) -> Resolved:
        """What the first page was of, or is to be of."""
        if pinned:
            # Whoever made up the token may still see no more than they may.
            return self._calendar.resolve(Moment(time=pinned[0], known_at=pinned[1]), preview=_may_preview())
        asked = moments.moment(wire)
        if asked.position is not None:
            return await self._calendar.time_of(asked.position)
        return self._calendar.resolve(asked, preview=_may_preview())

    async def _page(
        self, query: Query, question: bytes, told: Resolved, consistency_tokens: Sequence[str]
    ) -> tuple[Sequence[Found], str, Sequence[event_pb2.ShardPosition]]:
        wanted = requests.consistencies(consistency_tokens, self._shards)
        timeout = max(timeout_for(self._maximum_wait + _TIME_TO_READ) - _TIME_TO_READ, 0.0)
        # Before the read: the answer is at least as new as this.
        positions = [
            event_pb2.ShardPosition(shard=shard, position=position)
            for shard, position in self._freshness.positions().items()
        ]
        found, after = await self._pages.page(query, told, wanted=wanted, timeout=timeout)
        pins = (told.as_of, told.known_at)
        cursor = "" if after is None else cursors.of_key(after, question=question, pins=pins)
        return found, cursor, positions


def _may_preview() -> bool:
    return WRITE in current_person().scopes
