from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from gateway import types
from gateway.entrypoints.dependencies import Asker, Backends, IdempotencyKey, json_response, uuid_of
from gateway.entrypoints.documentation import ASKED, WRITE, problems, success
from gateway.entrypoints.signed import SignedRoute
from gateway.entrypoints.writes import a_write
from gateway.representations.erasures import Erasure

router = APIRouter(tags=["users"], route_class=SignedRoute)
UserId = Annotated[types.Uuid, Path()]


@router.post(
    "/v1/users/{user_id}:forget",
    operation_id="forgetUser",
    summary="Forget a person",
    status_code=202,
    responses={
        202: success("The person is forgotten; what might be left is searched for", Erasure),
        **problems(*ASKED, *WRITE, 404, 422),
    },
)
async def forget_user(
    request: Request,
    user_id: UserId,
    person: Asker,
    ports: Backends,
    key: IdempotencyKey = None,
    block_email: Annotated[  # noqa: FBT002 - a parameter of the URL
        bool, Query(description="Whether nobody may have the e-mail address again. For admins.")
    ] = False,
) -> Response:
    """Destroy the key that everything about a person is sealed with, delete the person and end their sessions and
    access keys, for ever. For admins, and for each person about themselves.
    """
    wanted = uuid_of("user_id", user_id)
    async with a_write(request, ports, person, key, body=b""):
        erasure = await ports.erasures.forget(wanted, person, block_email=block_email)
    return json_response(Erasure.of(erasure), 202, {"Location": f"/v1/users/{wanted}/erasure"})


@router.get(
    "/v1/users/{user_id}/erasure",
    operation_id="getErasure",
    summary="What is left of a forgotten person",
    responses={200: success("The erasure", Erasure), **problems(*ASKED, 404)},
)
async def get_erasure(user_id: UserId, person: Asker, ports: Backends) -> Response:
    """How far the search is, and the certificate once it is over. For admins."""
    return json_response(Erasure.of(await ports.erasures.get(uuid_of("user_id", user_id), person)))
