"""What became of a product: its changes, how two of its versions differ, and where a value comes from."""

from typing import Annotated, Any

from almagest.catalog.v1 import past_pb2, query_pb2
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from gateway.entrypoints.dependencies import Asker, Backends, Reference, json_response, next_link, product_id_of
from gateway.entrypoints.documentation import ASKED, LINK, problems, success
from gateway.entrypoints.products.moments import HEADERS, headers_of, moment_of, timestamp_of, version_of
from gateway.entrypoints.signed import SignedRoute
from gateway.representations.past import Diff, Explanation, HistoryPage, change, explanation, field_change
from gateway.requests.past import DiffVersions, Explain, History

router = APIRouter(tags=["history"], route_class=SignedRoute)
_NONE = problems(*ASKED, 404)


def _answer(found: str, shape: Any, *headers: Any) -> dict[int | str, dict[str, Any]]:
    return {200: success(found, shape, *headers), **_NONE}


@router.get(
    "/v1/products/{product_id}/history",
    operation_id="getProductHistory",
    summary="Who changed what, when and why",
    responses=_answer("A page of changes, latest first", HistoryPage, LINK),
)
async def get_history(
    request: Request, product_id: Reference, person: Asker, page: Annotated[History, Query()], ports: Backends
) -> Response:
    """Each event of a product from the log, with its actor, reason and trace, and the fields of the document that it
    changed.

    An event that speaks of another time than its own says so: `effective_at`, `effective_until`, and in `facts` what
    holds then. What is scheduled for the future is shown to those who may change the catalog.
    """
    asked = query_pb2.GetProductHistoryRequest(
        product_id=product_id_of(product_id), page_size=page.page_size, page_token=page.cursor or ""
    )
    if page.recorded_from is not None:
        asked.recorded_from.CopyFrom(timestamp_of("from", page.recorded_from))
    if page.recorded_to is not None:
        asked.recorded_to.CopyFrom(timestamp_of("to", page.recorded_to))
    answer = await ports.catalog_query.history(asked, person)
    return json_response(
        {"items": [change(message) for message in answer.changes], "next_cursor": answer.next_page_token or None},
        headers=next_link(request, answer.next_page_token),
    )


@router.get(
    "/v1/products/{product_id}/diff",
    operation_id="diffProduct",
    summary="How two versions differ",
    responses=_answer("The fields that differ, in the order of the document", Diff),
)
async def diff(
    product_id: Reference, person: Asker, versions: Annotated[DiffVersions, Query()], ports: Backends
) -> Response:
    """Compare two versions of a product, each named by its revision, by a time, or by a position of the log."""
    wanted = product_id_of(product_id)
    request = past_pb2.DiffProductRequest(product_id=wanted, **{"from": version_of("from", versions.before)})
    if versions.after is not None:
        request.to.CopyFrom(version_of("to", versions.after))
    answer = await ports.catalog_query.diff(request, person)
    return json_response(
        {
            "product_id": wanted,
            "from_revision": answer.from_revision,
            "to_revision": answer.to_revision,
            "fields": [field_change(field) for field in answer.fields],
        }
    )


@router.get(
    "/v1/products/{product_id}/explain",
    operation_id="explainField",
    summary="Where a value comes from",
    responses=_answer("The event that set it", Explanation, HEADERS),
)
async def explain(
    product_id: Reference, person: Asker, wanted: Annotated[Explain, Query()], ports: Backends
) -> Response:
    """The event that gave a field its value: who, when, why, by which job and line of its file, in which trace."""
    request = past_pb2.ExplainFieldRequest(product_id=product_id_of(product_id), field=wanted.field)
    if (moment := moment_of(wanted)) is not None:
        request.moment.CopyFrom(moment)
    answer = await ports.catalog_query.explain(request, person)
    return json_response(explanation(request, answer), headers=headers_of(answer.moment))
