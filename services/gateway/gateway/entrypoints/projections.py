from fastapi import APIRouter
from starlette.responses import Response

from gateway.entrypoints.dependencies import Asker, Backends, json_response
from gateway.entrypoints.documentation import ASKED, problems, success
from gateway.representations import Projections, Projector

router = APIRouter(tags=["projections"])


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
