"""CatalogProjectionService: wire in, operation called, wire out."""
# ruff: noqa: N802, D102, ARG002 - the methods are gRPC's: its names, its arguments; the proto documents them

from datetime import datetime
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

import grpc
from almagest.catalog.v1 import projections_pb2, projections_pb2_grpc
from chassis.errors import InvalidRequest
from chassis.tokens import current_person
from google.protobuf.timestamp_pb2 import Timestamp

from catalog_query.adapters.drift import Drifted
from catalog_query.adapters.parked import Parked
from catalog_query.application import cursors
from catalog_query.domain.comparisons import Comparison, Difference
from catalog_query.domain.errors import BadPageToken
from catalog_query.domain.product import product_id_of
from catalog_query.domain.projection import Target
from catalog_query.entrypoints import requests
from catalog_query.projections.operations import GenerationStatus, Operations

_DEFAULT_PAGE: Final = 50
_LONGEST_REASON: Final = 500
_MOST_FIELDS: Final = 200
_NO_ID: Final = UUID(int=0)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class CatalogProjectionServicer(projections_pb2_grpc.CatalogProjectionServiceServicer):
    """Lets operators look after the projections."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def ListProjections(
        self, request: projections_pb2.ListProjectionsRequest, context: Context
    ) -> projections_pb2.ListProjectionsResponse:
        found = await self._operations.status(request.projection)
        return projections_pb2.ListProjectionsResponse(
            projections=[
                projections_pb2.Projection(name=name, generations=[_generation(one) for one in generations])
                for name, generations in found.items()
            ]
        )

    async def ListParkedEvents(
        self, request: projections_pb2.ListParkedEventsRequest, context: Context
    ) -> projections_pb2.ListParkedEventsResponse:
        question = f"parked {request.projection}".encode()
        found, after = await self._operations.parked(
            request.projection, after=_place(request.page_token, question), size=_size(request.page_size)
        )
        return projections_pb2.ListParkedEventsResponse(
            parked=[_parked(*one) for one in found], next_page_token=_next(after, question)
        )

    async def RetryParkedEvents(
        self, request: projections_pb2.RetryParkedEventsRequest, context: Context
    ) -> projections_pb2.RetryParkedEventsResponse:
        parked_id = requests.identifier("parked_id", request.parked_id) if request.parked_id else None
        applied, still, left = await self._operations.retry(request.projection, parked_id)
        return projections_pb2.RetryParkedEventsResponse(
            applied=applied, still_parked=still, parked=[_parked(*one) for one in left]
        )

    async def SkipParkedEvent(
        self, request: projections_pb2.SkipParkedEventRequest, context: Context
    ) -> projections_pb2.SkipParkedEventResponse:
        if not 1 <= len(request.reason.strip()) <= _LONGEST_REASON:
            raise InvalidRequest([("reason", f"must have 1 to {_LONGEST_REASON} characters")])
        parked = await self._operations.skip(
            request.projection,
            requests.identifier("parked_id", request.parked_id),
            actor=current_person().subject,
            reason=request.reason.strip(),
        )
        return projections_pb2.SkipParkedEventResponse(parked=None if parked is None else _parked(*parked))

    async def Rebuild(
        self, request: projections_pb2.RebuildRequest, context: Context
    ) -> projections_pb2.RebuildResponse:
        generation, created = await self._operations.rebuild(request.projection, by=current_person().subject)
        return projections_pb2.RebuildResponse(generation=generation, created=created)

    async def Compare(
        self, request: projections_pb2.CompareRequest, context: Context
    ) -> projections_pb2.CompareResponse:
        await self._operations.compare(Target(request.projection, request.generation))
        return projections_pb2.CompareResponse()

    async def ListDifferences(
        self, request: projections_pb2.ListDifferencesRequest, context: Context
    ) -> projections_pb2.ListDifferencesResponse:
        question = f"differences {request.projection} {request.generation}".encode()
        after = (0, "", "")
        if request.page_token:
            match cursors.decode(request.page_token, question=question):
                case [int(shard), str(key), str(field)]:
                    after = (shard, key, field)
                case _:
                    raise BadPageToken
        found, then, comparison = await self._operations.differences(
            Target(request.projection, request.generation), after=after, size=_size(request.page_size)
        )
        return projections_pb2.ListDifferencesResponse(
            differences=[_difference(one) for one in found],
            next_page_token="" if then is None else cursors.encode(list(then), question=question),
            comparison=_comparison(comparison),
        )

    async def SwitchGeneration(
        self, request: projections_pb2.SwitchGenerationRequest, context: Context
    ) -> projections_pb2.SwitchGenerationResponse:
        if len(request.accepted_fields) > _MOST_FIELDS:
            raise InvalidRequest([("accepted_fields", f"must be at most {_MOST_FIELDS}")])
        previous = await self._operations.switch(
            Target(request.projection, request.generation),
            by=current_person().subject,
            accepted=frozenset(request.accepted_fields),
            force=request.force,
        )
        return projections_pb2.SwitchGenerationResponse(previous=previous)

    async def DropGeneration(
        self, request: projections_pb2.DropGenerationRequest, context: Context
    ) -> projections_pb2.DropGenerationResponse:
        await self._operations.drop(Target(request.projection, request.generation))
        return projections_pb2.DropGenerationResponse()

    async def ListDrift(
        self, request: projections_pb2.ListDriftRequest, context: Context
    ) -> projections_pb2.ListDriftResponse:
        question = f"drift {request.projection}".encode()
        found, after = await self._operations.drift(
            request.projection, after=_place(request.page_token, question), size=_size(request.page_size)
        )
        return projections_pb2.ListDriftResponse(
            drift=[_drift(*one) for one in found], next_page_token=_next(after, question)
        )

    async def RepairProduct(
        self, request: projections_pb2.RepairProductRequest, context: Context
    ) -> projections_pb2.RepairProductResponse:
        revision, changed = await self._operations.repair(
            requests.product_id(request.product_id), forget_skipped=request.forget_skipped
        )
        return projections_pb2.RepairProductResponse(revision=revision, changed=changed)


def _size(wanted: int) -> int:
    if wanted > requests.MAXIMUM_PAGE:
        raise InvalidRequest([("page_size", f"must be at most {requests.MAXIMUM_PAGE}")])
    return wanted or _DEFAULT_PAGE


def _place(token: str, question: bytes) -> tuple[int, UUID]:
    if not token:
        return 0, _NO_ID
    match cursors.decode(token, question=question):
        case [int(shard), str(identifier)]:
            try:
                return shard, UUID(hex=identifier)
            except ValueError:
                raise BadPageToken from None
        case _:
            raise BadPageToken


def _next(after: tuple[int, UUID] | None, question: bytes) -> str:
    return "" if after is None else cursors.encode([after[0], after[1].hex], question=question)


def _stamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def _generation(one: GenerationStatus) -> projections_pb2.ProjectionGeneration:
    generation = one.generation
    return projections_pb2.ProjectionGeneration(
        read_shard=one.read_shard,
        generation=generation.target.generation,
        state="serving" if one.serving else "ready" if generation.ready else "filling",
        created_at=_stamp(generation.created_at),
        created_by=generation.created_by,
        ready_at=_stamp(generation.ready_at),
        progress=[
            projections_pb2.GenerationProgress(
                event_shard=lag.event_shard,
                checkpoint=lag.checkpoint,
                head=lag.head,
                lag_seconds=lag.seconds,
                running=lag.running,
                error=lag.error,
            )
            for lag in one.lags
        ],
        held_streams=one.held,
        drifted_products=one.drifted,
        comparison=_comparison(one.comparison),
    )


def _comparison(found: Comparison | None) -> projections_pb2.Comparison | None:
    if found is None:
        return None
    return projections_pb2.Comparison(
        against=found.against,
        compared=found.compared,
        missing=found.missing,
        extra=found.extra,
        different=found.different,
        fields=cast("dict[str, int]", found.fields),
        began_at=_stamp(found.began_at),
        ended_at=_stamp(found.ended_at),
    )


def _difference(one: Difference) -> projections_pb2.Difference:
    return projections_pb2.Difference(
        key=one.key,
        revision=one.revision,
        kind=one.kind,
        field=one.field,
        before=one.before or "",
        after=one.after or "",
    )


def _parked(read_shard: int, one: Parked) -> projections_pb2.ParkedEvent:
    return projections_pb2.ParkedEvent(
        parked_id=str(one.parked_id),
        projection=one.target.projection,
        generation=one.target.generation,
        read_shard=read_shard,
        stream=one.stream,
        product_id=product_id_of(one.stream),
        event_shard=one.event_shard,
        position=one.position,
        revision=one.revision,
        event_id=one.event_id,
        type=one.event_type.rpartition(".")[2],
        error=one.error,
        since=_stamp(one.since),
        attempts=one.attempts,
        tried_at=_stamp(one.tried_at),
        held_events=one.held_events,
    )


def _drift(read_shard: int, one: Drifted) -> projections_pb2.Drift:
    return projections_pb2.Drift(
        product_id=str(one.product_id),
        generation=one.generation,
        read_shard=read_shard,
        kind=one.kind,
        revision=one.revision,
        fields=one.fields,
        found_at=_stamp(one.found_at),
        seen_at=_stamp(one.seen_at),
    )
