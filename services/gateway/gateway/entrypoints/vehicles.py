from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from gateway.entrypoints.dependencies import Asker, Backends, Consistency, IfNoneMatch, Reference, product_id_of
from gateway.entrypoints.products.lists import PAGE, list_request, page_response
from gateway.entrypoints.products.one import answers, document_response, read_product
from gateway.problems import Refused
from gateway.requests import ListVehicles

router = APIRouter(tags=["vehicles"])
_VEHICLES = frozenset({"car", "truck"})


@router.get(
    "/v1/vehicles",
    operation_id="listVehicles",
    summary="List cars and trucks",
    responses=PAGE,
)
async def list_vehicles(
    request: Request,
    person: Asker,
    wanted: Annotated[ListVehicles, Query()],
    ports: Backends,
    consistency: Consistency = None,
) -> Response:
    """A page of the products that are vehicles."""
    page = await ports.catalog_query.list_products(list_request(wanted, consistency, kinds=["vehicle"]), person)
    return page_response(request, page)


@router.get(
    "/v1/vehicles/{product_id}",
    operation_id="getVehicle",
    summary="One car or truck",
    responses=answers("The vehicle"),
)
async def get_vehicle(
    product_id: Reference,
    person: Asker,
    ports: Backends,
    known: IfNoneMatch = None,
    consistency: Consistency = None,
) -> Response:
    """A product that is a vehicle; another is not found here."""
    document = await read_product(ports, person, product_id_of(product_id), consistency)
    if orjson.loads(document.document)["kind"] not in _VEHICLES:
        raise Refused(404, "PRODUCT_NOT_FOUND", "There is no vehicle with this id.")
    return document_response(document, known)
