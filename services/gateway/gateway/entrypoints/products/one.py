"""One product, and its history.

Reading one product is what this system does most. It is served as bare ASGI, ahead of all routes, and only documented
as one: FastAPI's dependencies and validation would cost more than everything else that the request needs of this
process.
"""

import asyncio
from typing import Annotated, Any

from almagest.catalog.v1 import query_pb2
from chassis.telemetry.tracing import inject
from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from starlette.types import Scope, Send

from gateway.application.people import People
from gateway.application.ports import Person, Ports
from gateway.entrypoints.dependencies import (
    CONSISTENCY,
    Asker,
    Backends,
    Consistency,
    IfNoneMatch,
    Reference,
    json_response,
    matches,
    next_link,
    person_of,
    product_id_of,
    tokens_of,
)
from gateway.entrypoints.documentation import ASKED, ETAG, LINK, READ_HEADERS, problems, success
from gateway.representations import HistoryPage, ProductDocument, change
from gateway.requests import Page

router = APIRouter(tags=["products"])


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


def answers(found: str) -> dict[int | str, dict[str, Any]]:
    """What reading one product can answer, for the documentation."""
    return {
        200: success(found, ProductDocument, ETAG, READ_HEADERS),
        304: success("The client has the current one", None, ETAG, READ_HEADERS),
        **problems(*ASKED, 404),
    }


@router.get(
    "/v1/products/{product_id}",
    operation_id="getProduct",
    summary="One product",
    responses=answers("The product"),
)
async def documented_get_product(
    product_id: Reference, person: Asker, known: IfNoneMatch = None, consistency: Consistency = None
) -> None:
    """A product by id or by `sku:<SKU>`, as the read model has it."""
    # Served by `get_product`, before it comes to routes; this says what that does, and which methods the path has.
    del product_id, person, known, consistency


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
