from typing import Annotated

from almagest.catalog.v1 import projections_pb2 as wire
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from gateway import types
from gateway.entrypoints import projection_shapes as shapes
from gateway.entrypoints.bodies import JsonBody
from gateway.entrypoints.dependencies import Asker, Backends, IdempotencyKey, json_response, next_link, uuid_of
from gateway.entrypoints.documentation import ASKED, LINK, WITH_BODY, WRITE, body, problems, success
from gateway.entrypoints.signed import SignedRoute
from gateway.entrypoints.writes import a_write
from gateway.representations.operations import Projections, Projector
from gateway.requests.shapes import Page

router = APIRouter(tags=["projections"], route_class=SignedRoute)
Name = Annotated[str, Path(pattern="^[a-z_]{1,40}$", description="The projection.", examples=["products"])]
Number = Annotated[int, Path(ge=1, le=1_000_000, description="The generation.", examples=[2])]
ParkedId = Annotated[types.Uuid, Path(description="The parked event.")]
Listing = Annotated[Page, Query()]
_PRODUCT = "6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11"


@router.get(
    "/v1/projections",
    operation_id="listProjections",
    summary="How far the read models are behind",
    responses={200: success("One entry per projector", Projections), **problems(*ASKED)},
)
async def list_projections(person: Asker, ports: Backends) -> Response:
    """The lag of each projector, in events and in seconds."""
    answer = await ports.catalog_query.projections(person)
    return json_response(
        {
            "items": [
                {name: getattr(projector, name) for name in Projector.model_fields} for projector in answer.projectors
            ]
        }
    )


@router.get(
    "/v1/projections/{name}",
    operation_id="getProjection",
    summary="One projection with its generations",
    responses={200: success("The projection", shapes.Projection), **problems(*ASKED, 404)},
)
async def get_projection(name: Name, person: Asker, ports: Backends) -> Response:
    """Every generation in every shard: its state, how far it is, what it holds, how it compares. For admins."""
    answer = await ports.operators.list_projections(wire.ListProjectionsRequest(projection=name), person)
    return json_response(shapes.projection(answer.projections[0]))


@router.get(
    "/v1/projections/{name}/parked",
    operation_id="listParkedEvents",
    summary="What could not be applied",
    responses={200: success("A page of parked events", shapes.ParkedPage, LINK), **problems(*ASKED, 404)},
)
async def list_parked(request: Request, name: Name, person: Asker, wanted: Listing, ports: Backends) -> Response:
    """The events that could not be applied, each of which holds its product. For admins."""
    answer = await ports.operators.list_parked(
        wire.ListParkedEventsRequest(projection=name, page_size=wanted.page_size, page_token=wanted.cursor or ""),
        person,
    )
    return json_response(
        {"items": [shapes.parked(one) for one in answer.parked], "next_cursor": answer.next_page_token or None},
        headers=next_link(request, answer.next_page_token),
    )


@router.post(
    "/v1/projections/{name}/parked:retry",
    operation_id="retryParkedEvents",
    summary="Try everything that is parked again",
    responses={200: success("What came of it", shapes.Retried), **problems(*ASKED, *WRITE, 404, 422)},
)
async def retry_all(
    request: Request, name: Name, person: Asker, ports: Backends, key: IdempotencyKey = None
) -> Response:
    """Apply what is parked and what is held behind it, where that can be done now. For admins."""
    async with a_write(request, ports, person, key, body=b""):
        answer = await ports.operators.retry_parked(wire.RetryParkedEventsRequest(projection=name), person)
    return json_response(_retried(answer))


@router.post(
    "/v1/projections/{name}/parked/{parked_id}:retry",
    operation_id="retryParkedEvent",
    summary="Try a parked event again",
    responses={200: success("What came of it", shapes.Retried), **problems(*ASKED, *WRITE, 404, 422)},
)
async def retry_one(
    request: Request, name: Name, parked_id: ParkedId, person: Asker, ports: Backends, key: IdempotencyKey = None
) -> Response:
    """Apply it and what is held behind it, if that can be done now. For admins."""
    wanted = wire.RetryParkedEventsRequest(projection=name, parked_id=uuid_of("parked_id", parked_id))
    async with a_write(request, ports, person, key, body=b""):
        answer = await ports.operators.retry_parked(wanted, person)
    return json_response(_retried(answer))


@router.post(
    "/v1/projections/{name}/parked/{parked_id}:skip",
    operation_id="skipParkedEvent",
    summary="Leave a parked event out",
    responses={200: success("What came of it", shapes.Skipped), **problems(*ASKED, *WITH_BODY, *WRITE, 404)},
    openapi_extra=body("SkipParkedEvent", mistake={"reason": "written by mistake"}),
)
async def skip(
    request: Request,
    name: Name,
    parked_id: ParkedId,
    person: Asker,
    why: Annotated[shapes.Skip, Depends(JsonBody[shapes.Skip](shapes.Skip))],
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """Go on with what comes after it: the product is as if the event had said nothing. Who did so, and why, is kept,
    and a rebuild leaves the event out as well. For admins.
    """
    wanted = wire.SkipParkedEventRequest(projection=name, parked_id=uuid_of("parked_id", parked_id), reason=why.reason)
    async with a_write(request, ports, person, key):
        answer = await ports.operators.skip_parked(wanted, person)
    return json_response({"parked": shapes.parked(answer.parked) if answer.HasField("parked") else None})


@router.post(
    "/v1/projections/{name}:rebuild",
    operation_id="rebuildProjection",
    summary="Fill a new generation beside the one that is read",
    status_code=202,
    responses={202: success("The generation", shapes.Rebuild), **problems(*ASKED, *WRITE, 404, 422)},
)
async def rebuild(request: Request, name: Name, person: Asker, ports: Backends, key: IdempotencyKey = None) -> Response:
    """Begin a new generation, or answer the one that was begun. It is filled from the log, indexed and compared with
    the one that is read, while reads and writes go on. For admins.
    """
    async with a_write(request, ports, person, key, body=b""):
        answer = await ports.operators.rebuild(wire.RebuildRequest(projection=name), person)
    return json_response({"generation": answer.generation, "created": answer.created}, 202)


@router.get(
    "/v1/projections/{name}/generations/{generation}/differences",
    operation_id="listDifferences",
    summary="What a generation would change",
    responses={200: success("A page of differences", shapes.DifferencePage, LINK), **problems(*ASKED, 404)},
)
async def list_differences(
    request: Request, name: Name, generation: Number, person: Asker, wanted: Listing, ports: Backends
) -> Response:
    """The preview of a switch: by field, what is read now and what would be. For admins."""
    answer = await ports.operators.list_differences(
        wire.ListDifferencesRequest(
            projection=name, generation=generation, page_size=wanted.page_size, page_token=wanted.cursor or ""
        ),
        person,
    )
    return json_response(
        {
            "items": [shapes.difference(one) for one in answer.differences],
            "next_cursor": answer.next_page_token or None,
            "comparison": shapes.comparison(answer.comparison) if answer.HasField("comparison") else None,
        },
        headers=next_link(request, answer.next_page_token),
    )


@router.post(
    "/v1/projections/{name}/generations/{generation}:compare",
    operation_id="compareGeneration",
    summary="Compare a generation anew",
    status_code=202,
    responses={202: success("It is being compared"), **problems(*ASKED, *WRITE, 404, 422)},
)
async def compare(
    request: Request, name: Name, generation: Number, person: Asker, ports: Backends, key: IdempotencyKey = None
) -> Response:
    """Forget what an earlier comparison found, and compare again. For admins."""
    async with a_write(request, ports, person, key, body=b""):
        await ports.operators.compare(wire.CompareRequest(projection=name, generation=generation), person)
    return Response(status_code=202)


@router.post(
    "/v1/projections/{name}/generations/{generation}:switch",
    operation_id="switchGeneration",
    summary="Let reads go to a generation, or back",
    responses={200: success("What was read before", shapes.Switched), **problems(*ASKED, *WITH_BODY, *WRITE, 404)},
    openapi_extra=body("SwitchGeneration", renamed={"accepted_fields": ["document.name", "name_key"]}),
)
async def switch(
    request: Request,
    name: Name,
    generation: Number,
    person: Asker,
    how: Annotated[shapes.Switch, Depends(JsonBody[shapes.Switch](shapes.Switch))],
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """In one transaction per shard. A newer generation must have been compared, and differ only in the fields that are
    named, unless `force` says otherwise. The one before is kept up to date until it is dropped: to go back, switch to
    it. For admins.
    """
    async with a_write(request, ports, person, key):
        answer = await ports.operators.switch(
            wire.SwitchGenerationRequest(
                projection=name, generation=generation, accepted_fields=how.accepted_fields, force=how.force
            ),
            person,
        )
    return json_response({"generation": generation, "previous": answer.previous})


@router.delete(
    "/v1/projections/{name}/generations/{generation}",
    operation_id="dropGeneration",
    summary="Drop a generation that is not read",
    status_code=204,
    responses={204: success("It is gone"), **problems(*ASKED, *WRITE, 404, 422)},
)
async def drop(
    request: Request, name: Name, generation: Number, person: Asker, ports: Backends, key: IdempotencyKey = None
) -> Response:
    """Of the one before, that ends the way back; of a new one, the rebuild. For admins."""
    async with a_write(request, ports, person, key, body=b""):
        await ports.operators.drop(wire.DropGenerationRequest(projection=name, generation=generation), person)
    return Response(status_code=204)


@router.get(
    "/v1/projections/{name}/drift",
    operation_id="listDrift",
    summary="Which rows are not what the log says",
    responses={200: success("A page of what has drifted", shapes.DriftPage, LINK), **problems(*ASKED, 404)},
)
async def list_drift(request: Request, name: Name, person: Asker, wanted: Listing, ports: Backends) -> Response:
    """What the check that goes on for ever has found, and nobody has repaired. For admins."""
    answer = await ports.operators.list_drift(
        wire.ListDriftRequest(projection=name, page_size=wanted.page_size, page_token=wanted.cursor or ""), person
    )
    return json_response(
        {"items": [shapes.drift(one) for one in answer.drift], "next_cursor": answer.next_page_token or None},
        headers=next_link(request, answer.next_page_token),
    )


@router.post(
    "/v1/projections/products:repair",
    operation_id="repairProduct",
    summary="Write the rows of one product anew",
    responses={200: success("What they are now", shapes.Repaired), **problems(*ASKED, *WITH_BODY, *WRITE)},
    openapi_extra=body("RepairProduct", one={"product_id": _PRODUCT}),
)
async def repair(
    request: Request,
    person: Asker,
    which: Annotated[shapes.Repair, Depends(JsonBody[shapes.Repair](shapes.Repair))],
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """From its events, in every generation, without disturbing anything else. For admins."""
    wanted = wire.RepairProductRequest(
        product_id=uuid_of("product_id", which.product_id), forget_skipped=which.forget_skipped
    )
    async with a_write(request, ports, person, key):
        answer = await ports.operators.repair(wanted, person)
    return json_response(
        {"revision": answer.revision if answer.HasField("revision") else None, "changed": answer.changed}
    )


def _retried(answer: wire.RetryParkedEventsResponse) -> dict[str, object]:
    return {
        "applied": answer.applied,
        "still_parked": answer.still_parked,
        "parked": [shapes.parked(one) for one in answer.parked],
    }
