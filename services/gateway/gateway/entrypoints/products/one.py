"""One product.

Reading one product is what this system does most. It is served as bare ASGI, ahead of all routes, and only documented
as one: FastAPI's dependencies and validation would cost more than everything else that the request needs of this
process.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from almagest.catalog.v1 import past_pb2, query_pb2
from chassis.telemetry.tracing import inject
from fastapi import APIRouter, Query
from starlette.responses import Response
from starlette.types import Scope, Send

from gateway.application.people import People
from gateway.application.ports import Person, Ports
from gateway.application.signatures import Signatures
from gateway.entrypoints.dependencies import (
    CONSISTENCY,
    Asker,
    Backends,
    Consistency,
    IfNoneMatch,
    Reference,
    matches,
    person_of,
    product_id_of,
    tokens_of,
)
from gateway.entrypoints.documentation import ASKED, ETAG, HELD, READ_HEADERS, problems, success
from gateway.entrypoints.products.moments import HEADERS, etag_of, headers_of, moment_of
from gateway.entrypoints.signed import SignedRoute, verified_signer
from gateway.middleware.quotas import charge_person
from gateway.problems import Refused
from gateway.representations.products import ProductDocument
from gateway.requests.shapes import Moment

router = APIRouter(tags=["products"], route_class=SignedRoute)


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


async def get_product(
    scope: Scope, send: Send, *, people: People, signatures: Signatures, ports: Ports, reference: str
) -> None:
    """One product: the stored document as it is, sent without a request or response object in between."""
    authorization = consistency = known = None
    signed = False
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value.decode("latin-1")
        elif name == b"almagest-consistency":
            consistency = value.decode("latin-1")
        elif name == b"if-none-match":
            known = value.decode("latin-1")
        elif name in (b"signature", b"signature-input"):
            signed = True
    if signed:
        signer = await verified_signer(signatures, scope)
        charge_person(signer.person.subject)
        person = signer.person
    else:
        person = await person_of(people, ports.nonces, scope, authorization)
    document = await read_product(ports, person, product_id_of(reference), consistency)
    etag = f'"{document.revision}"'
    headers = [
        (b"etag", etag.encode()),
        (b"almagest-consistency", document.consistency_token.encode()),
        (b"cache-control", b"private, no-cache"),
    ]
    if document.HasField("held_revision"):
        headers.append((b"almagest-held", b"%d" % document.held_revision))
    if known is not None and matches(known, etag):
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    body = document.document
    headers += ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer_product(
    ports: Ports,
    person: Person,
    product_id: str,
    when: Moment,
    *,
    consistency: str | None,
    accepts: Callable[[bytes], bool] = lambda _: True,
    known: str | None,
) -> Response:
    """A product, as it is or as it was.

    Args:
        ports: the services.
        person: who asks.
        product_id: the product.
        when: the moment.
        consistency: the tokens of the request.
        accepts: whether a document is one of those that are found here.
        known: the If-None-Match header.
    """
    moment = moment_of(when)
    if moment is None:
        document = await read_product(ports, person, product_id, consistency)
        etag, headers = f'"{document.revision}"', {"Cache-Control": "private, no-cache"}
    else:
        answer = await ports.catalog_query.product_as_of(
            past_pb2.GetProductAsOfRequest(
                product_id=product_id, moment=moment, consistency_tokens=tokens_of(consistency)
            ),
            person,
        )
        document = answer.product
        etag, headers = etag_of(document.document), headers_of(answer.moment)
    if not accepts(document.document):
        raise Refused(404, "PRODUCT_NOT_FOUND", "There is no vehicle with this id.")
    headers |= {"ETag": etag, CONSISTENCY: document.consistency_token}
    if matches(known, etag):
        return Response(status_code=304, headers=headers)
    return Response(document.document, headers=headers, media_type="application/json")


def answers(found: str) -> dict[int | str, dict[str, Any]]:
    """What reading one product can answer, for the documentation."""
    return {
        200: success(found, ProductDocument, ETAG, READ_HEADERS, HELD, HEADERS),
        304: success("The client has the current one", None, ETAG, READ_HEADERS, HEADERS),
        **problems(*ASKED, 404),
    }


@router.get(
    "/v1/products/{product_id}",
    operation_id="getProduct",
    summary="One product",
    responses=answers("The product"),
)
async def get_product_at(
    product_id: Reference,
    person: Asker,
    when: Annotated[Moment, Query()],
    ports: Backends,
    known: IfNoneMatch = None,
    consistency: Consistency = None,
) -> Response:
    """A product by id or by `sku:<SKU>`, as it is, or with `as_of` as it was or is planned to be."""
    # Without a query it is served by `get_product`, before it comes to routes.
    return await answer_product(ports, person, product_id_of(product_id), when, consistency=consistency, known=known)
