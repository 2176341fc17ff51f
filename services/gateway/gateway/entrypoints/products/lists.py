"""Many products: pages, the search, and many by their ids."""

from typing import Annotated, Any

import orjson
from almagest.catalog.v1 import past_pb2, query_pb2
from chassis.telemetry.tracing import inject
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from gateway.application.ports import Person, Ports
from gateway.encoding import encode
from gateway.entrypoints.bodies import JsonBody
from gateway.entrypoints.dependencies import (
    Asker,
    Backends,
    Consistency,
    json_response,
    next_link,
    positions_header,
    product_id_of,
    tokens_of,
)
from gateway.entrypoints.documentation import ASKED, LINK, READ_HEADERS, WITH_BODY, body, problems, success
from gateway.entrypoints.products.moments import HEADERS, headers_of, moment_of
from gateway.entrypoints.signed import SignedRoute
from gateway.representations.products import Batch, ProductPage
from gateway.representations.shapes import item_problem
from gateway.requests.products import BatchGet, ListProducts, ListVehicles, SearchProducts
from gateway.requests.shapes import Moment

router = APIRouter(tags=["products"], route_class=SignedRoute)

PAGE: dict[int | str, dict[str, Any]] = {
    200: success("A page", ProductPage, LINK, READ_HEADERS, HEADERS),
    **problems(*ASKED),
}
"""What a page of products can answer, for the documentation."""
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


async def answer_list(
    request: Request,
    ports: Ports,
    person: Person,
    when: Moment,
    page: query_pb2.ListProductsRequest,
) -> Response:
    """A page of a list, of the present or of another moment."""
    moment = moment_of(when)
    if moment is None:
        return _page_response(request, await ports.catalog_query.list_products(page, person))
    answer = await ports.catalog_query.list_as_of(past_pb2.ListProductsAsOfRequest(page=page, moment=moment), person)
    return _page_response(request, answer.page, answer.moment)


def _page_response(
    request: Request,
    page: query_pb2.ListProductsResponse | query_pb2.SearchProductsResponse,
    moment: past_pb2.Resolved | None = None,
) -> Response:
    """A page, put together from documents that are not looked into."""
    cursor = page.next_page_token
    held = [{"product_id": one.product_id, "held_revision": one.held_revision} for one in page.held]
    parts = (b'{"items":[', b",".join(page.documents), b'],"held":', encode(held))
    content = b"".join((*parts, b',"next_cursor":', encode(cursor or None), b"}"))
    headers = {**next_link(request, cursor), **positions_header(page.positions)}
    return json_response(content, headers=headers if moment is None else headers | headers_of(moment))


@router.get(
    "/v1/products",
    operation_id="listProducts",
    summary="List products",
    responses=PAGE,
)
async def list_products(
    request: Request,
    person: Asker,
    wanted: Annotated[ListProducts, Query()],
    ports: Backends,
    consistency: Consistency = None,
) -> Response:
    """A page of the products that the filter keeps, or with `as_of` kept at that moment."""
    return await answer_list(request, ports, person, wanted, list_request(wanted, consistency))


@router.get(
    "/v1/products:search",
    operation_id="searchProducts",
    summary="Search products",
    responses=PAGE,
)
async def search_products(
    request: Request,
    person: Asker,
    wanted: Annotated[SearchProducts, Query()],
    ports: Backends,
    consistency: Consistency = None,
) -> Response:
    """A page of the products whose text has the words, best first, or with `as_of` had them at that moment."""
    page = list_request(wanted, consistency)
    search = query_pb2.SearchProductsRequest(
        text=wanted.text,
        filter=page.filter,
        sort=page.sort,
        page_size=page.page_size,
        page_token=page.page_token,
        consistency_tokens=page.consistency_tokens,
    )
    if (moment := moment_of(wanted)) is None:
        return _page_response(request, await ports.catalog_query.search_products(search, person))
    answer = await ports.catalog_query.search_as_of(
        past_pb2.SearchProductsAsOfRequest(page=search, moment=moment), person
    )
    return _page_response(request, answer.page, answer.moment)


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
                    "held_revision": (
                        result.product.held_revision if result.product.HasField("held_revision") else None
                    ),
                }
                for product_id, result in zip(ids, results, strict=True)
            ]
        }
    )
