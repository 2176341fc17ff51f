"""All that writes products: each a command, or a few that are carried out together."""

from typing import Annotated, Any

from almagest.catalog.v1 import command_pb2
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from gateway.entrypoints.bodies import JsonBody
from gateway.entrypoints.dependencies import Asker, Backends, IdempotencyKey, IfMatch, Reference
from gateway.entrypoints.documentation import (
    ASKED,
    ETAG,
    IDEMPOTENCY,
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
from gateway.entrypoints.writes import description, execute, money, set_price
from gateway.representations.products import Changed
from gateway.requests.products import Because, CorrectPrice, Create, Describe, Discontinue, Restore, SetPrice

router = APIRouter(tags=["products"], route_class=SignedRoute)

_CAR: dict[str, Any] = {
    "sku": "volvo-v60-2026",
    "kind": "car",
    "name": "Volvo V60 Cross Country",
    "text": "Estate with all-wheel drive.",
    "category": "vehicles/estate",
    "attributes": {
        "make": "Volvo",
        "model": "V60",
        "model_year": 2026,
        "body_styles": ["Estate"],
        "doors": 5,
        "seats": 5,
    },
    "price": {"amount": "52900.00", "currency": "EUR"},
    "publish": True,
}
_DESCRIBED = {key: value for key, value in _CAR.items() if key not in ("sku", "price", "publish")}
_CHANGED = (Changed, ETAG, READ_HEADERS, IDEMPOTENCY)
_CHANGE: dict[int | str, dict[str, Any]] = {
    200: success("What became of it", *_CHANGED),
    **problems(*ASKED, *WITH_BODY, *WRITE, 404, 412),
}


class _ChangeOfOne:
    """What comes with each change of a product that is there: who wants it, at which revision, with which key."""

    def __init__(
        self,
        request: Request,
        person: Asker,
        ports: Backends,
        if_match: IfMatch = None,
        key: IdempotencyKey = None,
    ) -> None:
        self._request = request
        self._person = person
        self._ports = ports
        self._if_match = if_match
        self._key = key

    async def __call__(self, reference: str, command: command_pb2.ProductCommand, reason: str | None) -> Response:
        """Have the command carried out."""
        return await execute(
            self._request,
            self._ports,
            self._person,
            reference=reference,
            commands=[command],
            reason=reason,
            if_match=self._if_match,
            key=self._key,
        )


Change = Annotated[_ChangeOfOne, Depends()]


@router.post(
    "/v1/products",
    operation_id="createProduct",
    summary="Create a product",
    status_code=201,
    responses={
        201: success("It was created", *_CHANGED, LOCATION),
        200: success("It was there, exactly so", *_CHANGED),
        **problems(*ASKED, *WITH_BODY, *WRITE),
    },
    openapi_extra=body("CreateProduct", car=_CAR),
)
async def create_product(
    request: Request,
    person: Asker,
    new: Annotated[Create, Depends(JsonBody[Create](Create))],
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """Create a product, with a price and published if asked, all or none. The same creation again changes nothing."""
    commands = [
        command_pb2.ProductCommand(
            create=command_pb2.CreateProduct(
                sku=new.sku,
                description=description(name=new.name, text=new.text, category=new.category, attributes=new.attributes),
            )
        )
    ]
    if new.price is not None:
        commands.append(set_price(new.price))
    if new.publish:
        commands.append(command_pb2.ProductCommand(publish=command_pb2.PublishProduct()))
    return await execute(
        request,
        ports,
        person,
        reference=f"sku:{new.sku}",
        commands=commands,
        reason=new.reason,
        if_match=None,
        key=key,
    )


@router.put(
    "/v1/products/{product_id}/description",
    operation_id="describeProduct",
    summary="Replace the description",
    responses=_CHANGE,
    openapi_extra=body("DescribeProduct", car=_DESCRIBED),
)
async def describe_product(
    product_id: Reference, change: Change, new: Annotated[Describe, Depends(JsonBody[Describe](Describe))]
) -> Response:
    """Replace name, text, category and attributes. The kind must stay."""
    message = description(name=new.name, text=new.text, category=new.category, attributes=new.attributes)
    describe = command_pb2.ProductCommand(describe=command_pb2.DescribeProduct(description=message))
    return await change(product_id, describe, new.reason)


@router.put(
    "/v1/products/{product_id}/price",
    operation_id="setPrice",
    summary="Set the price",
    responses=_CHANGE,
    openapi_extra=body("SetPrice", sale={"amount": "49900.00", "currency": "EUR", "reason": "Black Friday"}),
)
async def put_price(
    product_id: Reference, change: Change, price: Annotated[SetPrice, Depends(JsonBody[SetPrice](SetPrice))]
) -> Response:
    """Set the price, with as many decimals as its currency has."""
    return await change(product_id, set_price(price), price.reason)


@router.post(
    "/v1/products/{product_id}:publish",
    operation_id="publishProduct",
    summary="Publish",
    responses=_CHANGE,
    openapi_extra=body("Because"),
)
async def publish(
    product_id: Reference, change: Change, why: Annotated[Because, Depends(JsonBody[Because](Because))]
) -> Response:
    """Let the public see it. It must have a price."""
    return await change(product_id, command_pb2.ProductCommand(publish=command_pb2.PublishProduct()), why.reason)


@router.post(
    "/v1/products/{product_id}:unpublish",
    operation_id="unpublishProduct",
    summary="Hide from the public",
    responses=_CHANGE,
    openapi_extra=body("Because"),
)
async def unpublish(
    product_id: Reference, change: Change, why: Annotated[Because, Depends(JsonBody[Because](Because))]
) -> Response:
    """Hide it from the public."""
    return await change(product_id, command_pb2.ProductCommand(unpublish=command_pb2.UnpublishProduct()), why.reason)


@router.post(
    "/v1/products/{product_id}:discontinue",
    operation_id="discontinueProduct",
    summary="End it for good",
    responses=_CHANGE,
    openapi_extra=body("Discontinue", end={"reason": "No longer made."}),
)
async def discontinue(
    product_id: Reference, change: Change, why: Annotated[Discontinue, Depends(JsonBody[Discontinue](Discontinue))]
) -> Response:
    """End it: nothing about it can change any more."""
    end = command_pb2.ProductCommand(discontinue=command_pb2.DiscontinueProduct(reason=why.reason))
    return await change(product_id, end, why.reason)


@router.post(
    "/v1/products/{product_id}/price:correct",
    operation_id="correctPrice",
    summary="Correct the price of the past",
    responses=_CHANGE,
    openapi_extra=body(
        "CorrectPrice",
        yesterday={
            "amount": "48900.00",
            "currency": "EUR",
            "effective_from": "2026-11-20T08:00:00+01:00",
            "effective_until": "2026-11-21T08:00:00+01:00",
            "reason": "The shelf said so.",
        },
    ),
)
async def correct_price(
    product_id: Reference,
    change: Change,
    asked: Annotated[CorrectPrice, Depends(JsonBody[CorrectPrice](CorrectPrice))],
) -> Response:
    """Say what the price really was from a time on, until another or until now. What was believed before stays
    answerable.
    """
    correct = command_pb2.CorrectPrice(
        price=money(asked),
        effective_from=timestamp_of("effective_from", asked.effective_from),
        effective_until=None
        if asked.effective_until is None
        else timestamp_of("effective_until", asked.effective_until),
    )
    return await change(product_id, command_pb2.ProductCommand(correct_price=correct), asked.reason)


@router.post(
    "/v1/products/{product_id}:restore",
    operation_id="restoreProduct",
    summary="Bring back an earlier state",
    responses=_CHANGE,
    openapi_extra=body("Restore", first={"revision": 1, "reason": "The new text was wrong."}),
)
async def restore(
    product_id: Reference, change: Change, asked: Annotated[Restore, Depends(JsonBody[Restore](Restore))]
) -> Response:
    """Bring back the description, the price and the publication that it had at a revision, by new events. What is
    scheduled stays scheduled; what is discontinued stays so.
    """
    back = command_pb2.ProductCommand(restore=command_pb2.RestoreProduct(revision=asked.revision))
    return await change(product_id, back, asked.reason)
