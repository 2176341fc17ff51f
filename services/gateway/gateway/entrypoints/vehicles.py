from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from gateway.entrypoints.dependencies import Asker, Backends, Consistency, IfNoneMatch, Reference, product_id_of
from gateway.entrypoints.products.lists import PAGE, answer_list, list_request
from gateway.entrypoints.products.one import answer_product, answers
from gateway.entrypoints.signed import SignedRoute
from gateway.requests.products import ListVehicles
from gateway.requests.shapes import Moment

router = APIRouter(tags=["vehicles"], route_class=SignedRoute)
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
    return await answer_list(request, ports, person, wanted, list_request(wanted, consistency, kinds=["vehicle"]))


@router.get(
    "/v1/vehicles/{product_id}",
    operation_id="getVehicle",
    summary="One car or truck",
    responses=answers("The vehicle"),
)
async def get_vehicle(
    product_id: Reference,
    person: Asker,
    when: Annotated[Moment, Query()],
    ports: Backends,
    known: IfNoneMatch = None,
    consistency: Consistency = None,
) -> Response:
    """A product that is a vehicle; another is not found here. With `as_of` as it was or is planned to be."""
    return await answer_product(
        ports,
        person,
        product_id_of(product_id),
        when,
        consistency=consistency,
        accepts=lambda document: orjson.loads(document)["kind"] in _VEHICLES,
        known=known,
    )
