from typing import Annotated

from almagest.auth.v1 import auth_pb2, people_pb2
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from gateway import types
from gateway.application.ports import Person
from gateway.entrypoints.bodies import JsonBody
from gateway.entrypoints.dependencies import (
    REPLAYED,
    Asker,
    Backends,
    IdempotencyKey,
    json_response,
    next_link,
    uuid_of,
)
from gateway.entrypoints.documentation import (
    ASKED,
    IDEMPOTENCY,
    LINK,
    LOCATION,
    WITH_BODY,
    WRITE,
    body,
    problems,
    success,
)
from gateway.entrypoints.payloads import PrivateRoute
from gateway.entrypoints.writes import a_write
from gateway.representations.people import ROLES, User, UserPage
from gateway.requests.people import FindUser, NewUser

router = APIRouter(tags=["users"], route_class=PrivateRoute)
_ADA = {
    "email": "ada@example.com",
    "password": "correct horse battery staple",
    "first_name": "Ada",
    "last_name": "Lovelace",
    "roles": ["editor"],
}


@router.post(
    "/v1/users",
    operation_id="createUser",
    summary="Create a person",
    status_code=201,
    responses={201: success("The person", User, LOCATION, IDEMPOTENCY), **problems(*ASKED, *WITH_BODY, *WRITE)},
    openapi_extra=body("NewUser", ada=_ADA),
)
async def create_user(
    request: Request,
    person: Asker,
    new: Annotated[NewUser, Depends(JsonBody[NewUser](NewUser))],
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """Create a person. For admins."""
    async with a_write(request, ports, person, key) as command:
        user = await ports.auth.create_user(
            auth_pb2.CreateUserRequest(
                email=new.email,
                password=new.password,
                first_name=new.first_name,
                last_name=new.last_name,
                roles=[ROLES[role] for role in new.roles],
                command_id=command.command_id,
            ),
            person,
        )
    headers = {"Location": f"/v1/users/{user.user_id}"} | ({REPLAYED: "true"} if command.replayed else {})
    return json_response(_seen(user, person), 201, headers)


@router.get(
    "/v1/users/me",
    operation_id="getMe",
    summary="Who am I?",
    responses={200: success("The person", User), **problems(*ASKED, 404)},
)
async def get_me(person: Asker, ports: Backends) -> Response:
    """The person whose access token this is."""
    request = auth_pb2.GetUserRequest(user_id=person.subject)
    return json_response(_seen(await ports.auth.get_user(request, person), person))


@router.get(
    "/v1/users/{user_id}",
    operation_id="getUser",
    summary="One person",
    responses={200: success("The person", User), **problems(*ASKED, 404)},
)
async def get_user(user_id: Annotated[types.Uuid, Path()], person: Asker, ports: Backends) -> Response:
    """A person. For admins, and for each person about themselves."""
    request = auth_pb2.GetUserRequest(user_id=uuid_of("user_id", user_id))
    return json_response(_seen(await ports.auth.get_user(request, person), person))


@router.get(
    "/v1/users",
    operation_id="findUser",
    summary="People",
    responses={200: success("The person, or a page of people", User | UserPage, LINK), **problems(*ASKED, 404)},
)
async def find_user(request: Request, wanted: Annotated[FindUser, Query()], person: Asker, ports: Backends) -> Response:
    """The person with an e-mail address, or, without one, everybody in the order of their ids: for admins."""
    if wanted.email is None:
        page = await ports.auth.list_users(
            people_pb2.ListUsersRequest(
                page_size=wanted.page_size, page_token=uuid_of("cursor", wanted.cursor) if wanted.cursor else ""
            ),
            person,
        )
        return json_response(
            UserPage.model_construct(
                items=[_seen(user, person) for user in page.users], next_cursor=page.next_page_token or None
            ),
            headers=next_link(request, page.next_page_token),
        )
    return json_response(_seen(await ports.auth.get_user(auth_pb2.GetUserRequest(email=wanted.email), person), person))


def _seen(user: auth_pb2.User, person: Person) -> User:
    return User.of(user, whole=person.sees(user.user_id))
