from typing import Annotated

from almagest.auth.v1 import auth_pb2
from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import Response

from gateway.entrypoints.bodies import JsonBody
from gateway.entrypoints.dependencies import Backends, json_response
from gateway.entrypoints.documentation import WITH_BODY, body, problems, success
from gateway.entrypoints.payloads import PrivateRoute
from gateway.entrypoints.proofs import proven
from gateway.representations.people import Session, Tokens, User
from gateway.requests.people import LogIn, RefreshToken

router = APIRouter(tags=["sessions"], route_class=PrivateRoute)
Dpop = Annotated[
    str | None,
    Header(alias="DPoP", max_length=4096, description="A proof of the key to bind the tokens to (RFC 9449)."),
]
_CREDENTIALS = {"email": "ada@example.com", "password": "correct horse battery staple"}


@router.post(
    "/v1/sessions",
    operation_id="logIn",
    summary="Log in",
    status_code=201,
    responses={201: success("The session", Session), **problems(*WITH_BODY, 401, 429, 503, 504)},
    openapi_extra=body("LogIn", ada=_CREDENTIALS),
)
async def log_in(
    request: Request,
    credentials: Annotated[LogIn, Depends(JsonBody[LogIn](LogIn))],
    ports: Backends,
    _dpop: Dpop = None,
) -> Response:
    """Start a session. Which of address and password was wrong is not told. With a proof of a key, the tokens are bound
    to it: they are good with another proof for each request only, as `Authorization: DPoP`.
    """
    bound_to = await proven(request.scope, ports.nonces, access_token=None)
    answer = await ports.auth.log_in(
        auth_pb2.LogInRequest(email=credentials.email, password=credentials.password, bound_to=bound_to or "")
    )
    session = Session.of(answer.tokens, bound=bound_to is not None, user=User.of(answer.user, whole=True))
    return json_response(session, 201)


@router.post(
    "/v1/sessions:refresh",
    operation_id="refreshSession",
    summary="Get new tokens",
    responses={200: success("New tokens", Tokens), **problems(*WITH_BODY, 401, 429, 503, 504)},
    openapi_extra=body("RefreshToken"),
)
async def refresh(
    request: Request,
    token: Annotated[RefreshToken, Depends(JsonBody[RefreshToken](RefreshToken))],
    ports: Backends,
    _dpop: Dpop = None,
) -> Response:
    """Exchange a refresh token, once. One that comes a second time ends the session: somebody else has it."""
    bound_to = await proven(request.scope, ports.nonces, access_token=None)
    tokens = await ports.auth.refresh(
        auth_pb2.RefreshSessionRequest(refresh_token=token.refresh_token, bound_to=bound_to or "")
    )
    return json_response(Tokens.of(tokens, bound=bound_to is not None))


@router.post(
    "/v1/sessions:end",
    operation_id="logOut",
    summary="Log out",
    status_code=204,
    responses={204: success("It has ended, or was not there"), **problems(*WITH_BODY, 401, 429, 503, 504)},
    openapi_extra=body("RefreshToken"),
)
async def log_out(
    token: Annotated[RefreshToken, Depends(JsonBody[RefreshToken](RefreshToken))], ports: Backends
) -> Response:
    """End the session of a refresh token."""
    await ports.auth.log_out(auth_pb2.LogOutRequest(refresh_token=token.refresh_token))
    return Response(status_code=204)
