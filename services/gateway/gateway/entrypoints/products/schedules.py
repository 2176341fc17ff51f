"""What is planned for products: made, listed and cancelled. The worker carries it out."""

from typing import Annotated

from almagest.catalog.v1 import command_pb2, schedules_pb2
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from gateway import types
from gateway.application.ports import Person, Ports
from gateway.entrypoints.bodies import JsonBody
from gateway.entrypoints.dependencies import (
    Asker,
    Backends,
    Consistency,
    IdempotencyKey,
    IfMatch,
    Reference,
    json_response,
    next_link,
    product_id_of,
    tokens_of,
    uuid_of,
)
from gateway.entrypoints.documentation import (
    ASKED,
    ETAG,
    IDEMPOTENCY,
    LINK,
    LOCATION,
    READ_HEADERS,
    WITH_BODY,
    WRITE,
    body,
    problems,
    success,
)
from gateway.entrypoints.signed import SignedRoute
from gateway.entrypoints.times import timestamp_of
from gateway.entrypoints.writes import carry_out, execute, money, sku_of
from gateway.representations.products import Changed, changed
from gateway.representations.schedules import SCHEDULE_STATES, Scheduled, SchedulePage, schedule
from gateway.requests.schedules import ListSchedules, NewSchedule, SchedulePrice

router = APIRouter(tags=["schedules"], route_class=SignedRoute)
_PAGE = {200: success("A page, those due first first", SchedulePage, LINK), **problems(*ASKED)}


@router.post(
    "/v1/products/{product_id}/schedules",
    operation_id="scheduleChange",
    summary="Plan a price or a publication",
    status_code=201,
    responses={
        201: success("It is planned", Scheduled, ETAG, READ_HEADERS, IDEMPOTENCY, LOCATION),
        **problems(*ASKED, *WITH_BODY, *WRITE, 404, 412),
    },
    openapi_extra=body(
        "NewSchedule",
        price={
            "price": {"amount": "44900.00", "currency": "EUR"},
            "effective_at": "2030-11-27T00:00:00+01:00",
            "reason": "Black Friday",
        },
        publication={"published": True, "effective_at": "2030-11-27T00:00:00+01:00"},
    ),
)
async def schedule_change(
    request: Request,
    product_id: Reference,
    person: Asker,
    planned: Annotated[NewSchedule, Depends(JsonBody[NewSchedule](NewSchedule))],
    ports: Backends,
    if_match: IfMatch = None,
    key: IdempotencyKey = None,
) -> Response:
    """Let the product have a price, or be public or hidden, from a time in the future on, at most five years ahead. It
    is carried out on behalf of who planned it, who must still have the right to then.
    """
    effective_at = timestamp_of("effective_at", planned.effective_at)

    def commands(command_id: str) -> list[command_pb2.ProductCommand]:
        # A schedule is made by one write, whose id it has.
        if isinstance(planned, SchedulePrice):
            price = command_pb2.SchedulePrice(
                schedule_id=command_id, price=money(planned.price), effective_at=effective_at
            )
            return [command_pb2.ProductCommand(schedule_price=price)]
        publication = command_pb2.SchedulePublication(
            schedule_id=command_id, published=planned.published, effective_at=effective_at
        )
        return [command_pb2.ProductCommand(schedule_publication=publication)]

    executed, command_id, headers = await carry_out(
        request,
        ports,
        person,
        reference=product_id,
        commands=commands,
        reason=planned.reason,
        if_match=if_match,
        key=key,
    )
    schedules = f"/v1/products/{executed.product_id}/schedules"
    headers["Location"] = f"{schedules}/{command_id}"
    answer = changed(executed, sku_of(product_id))
    return json_response(answer | {"schedule_id": command_id}, 201, headers)


@router.delete(
    "/v1/products/{product_id}/schedules/{schedule_id}",
    operation_id="cancelSchedule",
    summary="Cancel a plan",
    responses={
        200: success("It will not come", Changed, ETAG, READ_HEADERS, IDEMPOTENCY),
        **problems(*ASKED, *WRITE, 404, 412, 422),
    },
)
async def cancel_schedule(
    request: Request,
    product_id: Reference,
    schedule_id: Annotated[types.Uuid, Path()],
    person: Asker,
    ports: Backends,
    if_match: IfMatch = None,
    key: IdempotencyKey = None,
) -> Response:
    """Take back what is planned. What has come already cannot be taken back: 409."""
    request.state.body = b""
    cancel = command_pb2.CancelSchedule(schedule_id=uuid_of("schedule_id", schedule_id))
    return await execute(
        request,
        ports,
        person,
        reference=product_id,
        commands=[command_pb2.ProductCommand(cancel_schedule=cancel)],
        reason=None,
        if_match=if_match,
        key=key,
    )


@router.get(
    "/v1/products/{product_id}/schedules",
    operation_id="listProductSchedules",
    summary="What is planned for a product",
    responses=_PAGE,
)
async def list_product_schedules(
    request: Request,
    product_id: Reference,
    person: Asker,
    wanted: Annotated[ListSchedules, Query()],
    ports: Backends,
    consistency: Consistency = None,
) -> Response:
    """A page of the plans for a product: those that wait, or those in the states asked for. Who may change products
    sees them.
    """
    return await _page(request, ports, person, wanted, consistency, product_id=product_id_of(product_id))


@router.get(
    "/v1/schedules",
    operation_id="listSchedules",
    summary="What is planned",
    responses=_PAGE,
)
async def list_schedules(
    request: Request,
    person: Asker,
    wanted: Annotated[ListSchedules, Query()],
    ports: Backends,
    consistency: Consistency = None,
) -> Response:
    """A page of the plans for all products: those that wait, or those in the states asked for. Who may change products
    sees them.
    """
    return await _page(request, ports, person, wanted, consistency, product_id="")


async def _page(
    request: Request, ports: Ports, person: Person, wanted: ListSchedules, consistency: str | None, *, product_id: str
) -> Response:
    answer = await ports.catalog_query.schedules(
        schedules_pb2.ListSchedulesRequest(
            product_id=product_id,
            due_before=None if wanted.due_before is None else timestamp_of("due_before", wanted.due_before),
            states=[SCHEDULE_STATES[state] for state in wanted.state],
            page_size=wanted.page_size,
            page_token=wanted.cursor or "",
            consistency_tokens=tokens_of(consistency),
        ),
        person,
    )
    return json_response(
        {"items": [schedule(one) for one in answer.schedules], "next_cursor": answer.next_page_token or None},
        headers=next_link(request, answer.next_page_token),
    )
