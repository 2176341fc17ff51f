# ruff: noqa: N802, D102, ARG002 - methods are named, documented and called as in the proto
"""CatalogScheduleService on the wire."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

import grpc
from almagest.catalog.v1 import schedules_pb2, schedules_pb2_grpc
from almagest.rpc.v1 import problem_pb2
from chassis.deadlines import timeout_for
from chassis.errors import InvalidRequest

from catalog_query.application import cursors
from catalog_query.application.freshness import Freshness
from catalog_query.application.schedules import Listing, RefusedSchedule, Schedules
from catalog_query.application.shards import Shards
from catalog_query.domain.errors import BadPageToken
from catalog_query.domain.schedules import STATES, Schedule
from catalog_query.entrypoints import requests

MOST: Final = 200
USUAL: Final = 50
MOST_DUE: Final = 256
MOST_REFUSALS: Final = 256
_LONGEST_MESSAGE: Final = 500

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_STATES: Final = dict(
    zip(
        (
            schedules_pb2.SCHEDULE_STATE_OPEN,
            schedules_pb2.SCHEDULE_STATE_ACTIVATED,
            schedules_pb2.SCHEDULE_STATE_CANCELLED,
            schedules_pb2.SCHEDULE_STATE_FAILED,
        ),
        STATES,
        strict=True,
    )
)
_ON_WIRE: Final = {name: number for number, name in _STATES.items()}


class CatalogScheduleServicer(schedules_pb2_grpc.CatalogScheduleServiceServicer):
    """Lists schedules, for people and for the worker."""

    def __init__(self, *, schedules: Schedules, shards: Shards, freshness: Freshness, maximum_wait: float) -> None:
        self._schedules = schedules
        self._shards = shards
        self._freshness = freshness
        self._maximum_wait = maximum_wait

    async def ListSchedules(
        self, request: schedules_pb2.ListSchedulesRequest, context: Context
    ) -> schedules_pb2.ListSchedulesResponse:
        listing, question = _listing(request)
        wanted = requests.consistencies(request.consistency_tokens, self._shards)
        if wanted:
            await self._freshness.wait_for_all(wanted, timeout=timeout_for(self._maximum_wait))
        found, after = await self._schedules.page(listing)
        page_token = ""
        if after is not None:
            page_token = cursors.encode([after[0].isoformat(), str(after[1])], question=question)
        return schedules_pb2.ListSchedulesResponse(
            schedules=[_message(one) for one in found], next_page_token=page_token
        )

    async def ListDueSchedules(
        self, request: schedules_pb2.ListDueSchedulesRequest, context: Context
    ) -> schedules_pb2.ListDueSchedulesResponse:
        if not 1 <= request.limit <= MOST_DUE:
            raise InvalidRequest([("limit", f"must be 1 to {MOST_DUE}")])
        due, next_at, refused = await self._schedules.due(request.limit)
        answer = schedules_pb2.ListDueSchedulesResponse(schedules=[_message(one) for one in due], refused=refused)
        if next_at is not None:
            answer.next_at.FromDatetime(next_at)
        return answer

    async def ReportRefusals(
        self, request: schedules_pb2.ReportRefusalsRequest, context: Context
    ) -> schedules_pb2.ReportRefusalsResponse:
        if len(request.refusals) > MOST_REFUSALS:
            raise InvalidRequest([("refusals", f"must be at most {MOST_REFUSALS}")])
        await self._schedules.refuse([_refused(one) for one in request.refusals])
        return schedules_pb2.ReportRefusalsResponse()


def _listing(request: schedules_pb2.ListSchedulesRequest) -> tuple[Listing, bytes]:
    wrong: list[tuple[str, str]] = []
    if request.page_size > MOST:
        wrong.append(("page_size", f"must be at most {MOST}"))
    states: Sequence[str] = [_STATES[state] for state in request.states if state in _STATES]
    if len(states) != len(request.states):
        wrong.append(("states", "must be states of a schedule"))
    if wrong:
        raise InvalidRequest(wrong)
    product_id = requests.product_id(request.product_id) if request.product_id else None
    question = schedules_pb2.ListSchedulesRequest(
        product_id=request.product_id, states=request.states, due_before=request.due_before
    ).SerializeToString(deterministic=True)
    listing = Listing(
        states=states or [_STATES[schedules_pb2.SCHEDULE_STATE_OPEN]],
        product_id=product_id,
        due_before=request.due_before.ToDatetime(UTC) if request.HasField("due_before") else None,
        after=_after(request.page_token, question),
        size=request.page_size or USUAL,
    )
    return listing, question


def _after(token: str, question: bytes) -> tuple[datetime, UUID] | None:
    if not token:
        return None
    try:
        at, last = cast("Sequence[str]", cursors.decode(token, question=question))
        return datetime.fromisoformat(at), UUID(last)
    except (ValueError, TypeError, AttributeError):
        raise BadPageToken from None


def _refused(one: schedules_pb2.RefusedSchedule) -> RefusedSchedule:
    try:
        schedule_id = UUID(one.schedule_id)
    except ValueError:
        raise InvalidRequest([("refusals.schedule_id", "must be a UUID")]) from None
    problem = one.problem
    return RefusedSchedule(
        schedule_id=schedule_id,
        product_id=requests.product_id(one.product_id),
        code=problem.code,
        reason=problem.reason,
        message=problem.message[:_LONGEST_MESSAGE],
    )


def _message(one: Schedule) -> schedules_pb2.Schedule:
    planned = one.planned
    message = schedules_pb2.Schedule(
        schedule_id=planned.schedule_id,
        product_id=planned.product_id,
        state=_ON_WIRE[one.state],
        scheduled_by=planned.scheduled_by,
        reason=planned.reason,
        failure=one.failure,
    )
    if planned.published is None:
        message.price.amount = planned.price_amount or ""
        message.price.currency = planned.price_currency or ""
    else:
        message.published = planned.published
    message.effective_at.FromDatetime(planned.effective_at)
    message.scheduled_at.FromDatetime(planned.scheduled_at)
    if one.ended_at is not None:
        message.ended_at.FromDatetime(one.ended_at)
    if one.refusal is not None:
        kept = one.refusal
        message.refusal.problem.CopyFrom(problem_pb2.Problem(code=kept.code, reason=kept.reason, message=kept.message))
        message.refusal.attempts = kept.attempts
        message.refusal.refused_at.FromDatetime(kept.refused_at)
        message.refusal.next_attempt_at.FromDatetime(kept.next_attempt_at)
    return message
