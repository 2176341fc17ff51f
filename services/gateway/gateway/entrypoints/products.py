"""Products: written through commands, read from the read model, explained from the log.

Reading one product is what this system does most. It is served as bare ASGI, ahead of all routes, and only documented
as one: FastAPI's dependencies and validation would cost more than everything else that the request needs of this
process.
"""

import asyncio
from typing import Annotated, Any

import orjson
from almagest.catalog.v1 import command_pb2, query_pb2
from chassis.telemetry.tracing import inject
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response
from starlette.types import Scope, Send

from gateway.application.people import People
from gateway.application.ports import Person, Ports
from gateway.encoding import encode
from gateway.entrypoints.bodies import JsonBody
from gateway.entrypoints.dependencies import (
    CONSISTENCY,
    Asker,
    Backends,
    Consistency,
    IdempotencyKey,
    IfMatch,
    IfNoneMatch,
    Reference,
    json_response,
    matches,
    next_link,
    person_of,
    positions_header,
    product_id_of,
    tokens_of,
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
from gateway.entrypoints.writes import description, execute, set_price
from gateway.representations import Batch, Changed, HistoryPage, ProductDocument, ProductPage, change, item_problem
from gateway.requests import (
    BatchGet,
    Because,
    Create,
    Describe,
    Discontinue,
    ListProducts,
    ListVehicles,
    Page,
    SearchProducts,
    SetPrice,
)

router = APIRouter(tags=["products"])

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
_WRITTEN = success("What became of it", Changed, ETAG, READ_HEADERS, IDEMPOTENCY)
_WRITE = problems(*ASKED, *WITH_BODY, *WRITE, 404, 412)
_SORTS = {
    None: query_pb2.PRODUCT_SORT_UNSPECIFIED,
    "name": query_pb2.PRODUCT_SORT_NAME,
    "-name": query_pb2.PRODUCT_SORT_NAME_DESCENDING,
    "price": query_pb2.PRODUCT_SORT_PRICE,
    "-price": query_pb2.PRODUCT_SORT_PRICE_DESCENDING,
    "model_year": query_pb2.PRODUCT_SORT_MODEL_YEAR,
    "-model_year": query_pb2.PRODUCT_SORT_MODEL_YEAR_DESCENDING,
    "-updated": query_pb2.PRODUCT_SORT_UPDATED_DESCENDING,
}


async def read_product(
    ports: Ports, person: Person, product_id: str, consistency: str | None
) -> query_pb2.ProductDocument:
    """A product, after the writes of all the given tokens. Each waits by itself; the newest answer has seen all of
    them.
    """
    tokens = tokens_of(consistency) if consistency else ()
    traceparent = inject()
    items = [
        query_pb2.GetProductItem(
            product_id=product_id, consistency_token=token, transaction_token=person.token, traceparent=traceparent
        )
        for token in tokens or ("",)
    ]
    if len(items) == 1:
        return await ports.catalog_query.product(items[0])
    try:
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(ports.catalog_query.product(item)) for item in items]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return max((read.result() for read in reads), key=lambda document: document.revision)


async def get_product(scope: Scope, send: Send, *, people: People, ports: Ports, reference: str) -> None:
    """One product: the stored document as it is, sent without a request or response object in between."""
    authorization = consistency = known = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value.decode("latin-1")
        elif name == b"almagest-consistency":
            consistency = value.decode("latin-1")
        elif name == b"if-none-match":
            known = value.decode("latin-1")
    person = await person_of(people, authorization)
    document = await read_product(ports, person, product_id_of(reference), consistency)
    etag = f'"{document.revision}"'
    headers = [
        (b"etag", etag.encode()),
        (b"almagest-consistency", document.consistency_token.encode()),
        (b"cache-control", b"private, no-cache"),
    ]
    if known is not None and matches(known, etag):
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    body = document.document
    headers += ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def document_response(document: query_pb2.ProductDocument, if_none_match: str | None) -> Response:
    """A document, or 304 when the client has it."""
    etag = f'"{document.revision}"'
    headers = {"ETag": etag, CONSISTENCY: document.consistency_token, "Cache-Control": "private, no-cache"}
    if matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return Response(document.document, headers=headers, media_type="application/json")


GET_PRODUCT = "/v1/products/{product_id}"
GET_PRODUCT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: success("The product", ProductDocument, ETAG, READ_HEADERS),
    304: success("The client has the current one", None, ETAG, READ_HEADERS),
    **problems(*ASKED, 404),
}


@router.get(
    GET_PRODUCT,
    operation_id="getProduct",
    summary="One product",
    responses=GET_PRODUCT_RESPONSES,
)
async def documented_get_product(
    product_id: Reference, person: Asker, known: IfNoneMatch = None, consistency: Consistency = None
) -> None:
    """A product by id or by `sku:<SKU>`, as the read model has it."""
    # Served by `get_product`, before it comes to routes; this says what that does, and which methods the path has.
    del product_id, person, known, consistency


@router.post(
    "/v1/products",
    operation_id="createProduct",
    summary="Create a product",
    status_code=201,
    responses={
        201: success("It was created", Changed, ETAG, LOCATION, READ_HEADERS, IDEMPOTENCY),
        200: success("It was there, exactly so", Changed, ETAG, READ_HEADERS, IDEMPOTENCY),
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


def list_request(
    wanted: ListProducts | ListVehicles, consistency: str | None, kinds: list[str] | None = None
) -> query_pb2.ListProductsRequest:
    """A page of a list on the wire."""
    return query_pb2.ListProductsRequest(
        filter=query_pb2.ProductFilter(
            kinds=wanted.kind or kinds or [],
            make=wanted.make or "",
            model=wanted.model or "",
            model_year_from=wanted.model_year_from,
            model_year_to=wanted.model_year_to,
            category=wanted.category or "",
            currency=wanted.currency or "",
            price_from=wanted.price_from or "",
            price_to=wanted.price_to or "",
            statuses=wanted.status,
            sku=wanted.sku or "",
        ),
        sort=_SORTS[wanted.sort],
        page_size=wanted.page_size,
        page_token=wanted.cursor or "",
        consistency_tokens=tokens_of(consistency),
    )


def page_response(
    request: Request, page: query_pb2.ListProductsResponse | query_pb2.SearchProductsResponse
) -> Response:
    """A page, put together from documents that are not looked into."""
    cursor = page.next_page_token
    content = b"".join((b'{"items":[', b",".join(page.documents), b'],"next_cursor":', encode(cursor or None), b"}"))
    return json_response(content, headers={**next_link(request, cursor), **positions_header(page.positions)})


@router.get(
    "/v1/products",
    operation_id="listProducts",
    summary="List products",
    responses={200: success("A page", ProductPage, LINK, READ_HEADERS), **problems(*ASKED)},
)
async def list_products(
    request: Request,
    person: Asker,
    wanted: Annotated[ListProducts, Query()],
    ports: Backends,
    consistency: Consistency = None,
) -> Response:
    """A page of the products that the filter keeps."""
    return page_response(request, await ports.catalog_query.list_products(list_request(wanted, consistency), person))


@router.get(
    "/v1/products:search",
    operation_id="searchProducts",
    summary="Search products",
    responses={200: success("A page", ProductPage, LINK, READ_HEADERS), **problems(*ASKED)},
)
async def search_products(
    request: Request,
    person: Asker,
    wanted: Annotated[SearchProducts, Query()],
    ports: Backends,
    consistency: Consistency = None,
) -> Response:
    """A page of the products whose text has the words, best first."""
    page = list_request(wanted, consistency)
    search = query_pb2.SearchProductsRequest(
        text=wanted.text,
        filter=page.filter,
        sort=page.sort,
        page_size=page.page_size,
        page_token=page.page_token,
        consistency_tokens=page.consistency_tokens,
    )
    return page_response(request, await ports.catalog_query.search_products(search, person))


@router.post(
    "/v1/products:batchGet",
    operation_id="batchGetProducts",
    summary="Read many products",
    responses={200: success("The products, in the order asked for", Batch), **problems(*ASKED, *WITH_BODY)},
    openapi_extra=body("BatchGet", two={"ids": ["sku:volvo-v60-2026", "sku:volvo-v90-2026"]}),
)
async def batch_get_products(
    person: Asker, wanted: Annotated[BatchGet, Depends(JsonBody[BatchGet](BatchGet))], ports: Backends
) -> Response:
    """Up to 200 products. One that is not there does not fail the others."""
    traceparent = inject()
    ids = [product_id_of(reference) for reference in wanted.ids]
    results = await ports.catalog_query.products(
        [
            query_pb2.GetProductItem(product_id=product_id, transaction_token=person.token, traceparent=traceparent)
            for product_id in ids
        ]
    )
    return json_response(
        {
            "items": [
                {
                    "product_id": product_id,
                    "product": None if result.HasField("problem") else orjson.Fragment(result.product.document),
                    "problem": item_problem(result.problem) if result.HasField("problem") else None,
                }
                for product_id, result in zip(ids, results, strict=True)
            ]
        }
    )


@router.get(
    "/v1/products/{product_id}/history",
    operation_id="getProductHistory",
    summary="Who changed what, when and why",
    responses={200: success("A page of changes, latest first", HistoryPage, LINK), **problems(*ASKED, 404)},
)
async def get_history(
    request: Request, product_id: Reference, person: Asker, page: Annotated[Page, Query()], ports: Backends
) -> Response:
    """Each event of a product from the log, with its actor, reason and trace, and the fields of the document that it
    changed.
    """
    answer = await ports.catalog_query.history(
        query_pb2.GetProductHistoryRequest(
            product_id=product_id_of(product_id), page_size=page.page_size, page_token=page.cursor or ""
        ),
        person,
    )
    items = [change(message) for message in answer.changes]
    return json_response(
        {"items": items, "next_cursor": answer.next_page_token or None},
        headers=next_link(request, answer.next_page_token),
    )


@router.put(
    "/v1/products/{product_id}/description",
    operation_id="describeProduct",
    summary="Replace the description",
    responses={200: _WRITTEN, **_WRITE},
    openapi_extra=body("DescribeProduct", car=_DESCRIBED),
)
async def describe_product(
    request: Request,
    product_id: Reference,
    person: Asker,
    new: Annotated[Describe, Depends(JsonBody[Describe](Describe))],
    ports: Backends,
    if_match: IfMatch = None,
    key: IdempotencyKey = None,
) -> Response:
    """Replace name, text, category and attributes. The kind must stay."""
    message = description(name=new.name, text=new.text, category=new.category, attributes=new.attributes)
    describe = command_pb2.ProductCommand(describe=command_pb2.DescribeProduct(description=message))
    return await execute(
        request,
        ports,
        person,
        reference=product_id,
        commands=[describe],
        reason=new.reason,
        if_match=if_match,
        key=key,
    )


@router.put(
    "/v1/products/{product_id}/price",
    operation_id="setPrice",
    summary="Set the price",
    responses={200: _WRITTEN, **_WRITE},
    openapi_extra=body("SetPrice", sale={"amount": "49900.00", "currency": "EUR", "reason": "Black Friday"}),
)
async def put_price(
    request: Request,
    product_id: Reference,
    person: Asker,
    price: Annotated[SetPrice, Depends(JsonBody[SetPrice](SetPrice))],
    ports: Backends,
    if_match: IfMatch = None,
    key: IdempotencyKey = None,
) -> Response:
    """Set the price, with as many decimals as its currency has."""
    return await execute(
        request,
        ports,
        person,
        reference=product_id,
        commands=[set_price(price)],
        reason=price.reason,
        if_match=if_match,
        key=key,
    )


@router.post(
    "/v1/products/{product_id}:publish",
    operation_id="publishProduct",
    summary="Publish",
    responses={200: _WRITTEN, **_WRITE},
    openapi_extra=body("Because"),
)
async def publish(
    request: Request,
    product_id: Reference,
    person: Asker,
    why: Annotated[Because, Depends(JsonBody[Because](Because))],
    ports: Backends,
    if_match: IfMatch = None,
    key: IdempotencyKey = None,
) -> Response:
    """Let the public see it. It must have a price."""
    command = command_pb2.ProductCommand(publish=command_pb2.PublishProduct())
    return await execute(
        request, ports, person, reference=product_id, commands=[command], reason=why.reason, if_match=if_match, key=key
    )


@router.post(
    "/v1/products/{product_id}:unpublish",
    operation_id="unpublishProduct",
    summary="Hide from the public",
    responses={200: _WRITTEN, **_WRITE},
    openapi_extra=body("Because"),
)
async def unpublish(
    request: Request,
    product_id: Reference,
    person: Asker,
    why: Annotated[Because, Depends(JsonBody[Because](Because))],
    ports: Backends,
    if_match: IfMatch = None,
    key: IdempotencyKey = None,
) -> Response:
    """Hide it from the public."""
    command = command_pb2.ProductCommand(unpublish=command_pb2.UnpublishProduct())
    return await execute(
        request, ports, person, reference=product_id, commands=[command], reason=why.reason, if_match=if_match, key=key
    )


@router.post(
    "/v1/products/{product_id}:discontinue",
    operation_id="discontinueProduct",
    summary="End it for good",
    responses={200: _WRITTEN, **_WRITE},
    openapi_extra=body("Discontinue", end={"reason": "No longer made."}),
)
async def discontinue(
    request: Request,
    product_id: Reference,
    person: Asker,
    why: Annotated[Discontinue, Depends(JsonBody[Discontinue](Discontinue))],
    ports: Backends,
    if_match: IfMatch = None,
    key: IdempotencyKey = None,
) -> Response:
    """End it: nothing about it can change any more."""
    command = command_pb2.ProductCommand(discontinue=command_pb2.DiscontinueProduct(reason=why.reason))
    return await execute(
        request, ports, person, reference=product_id, commands=[command], reason=why.reason, if_match=if_match, key=key
    )
