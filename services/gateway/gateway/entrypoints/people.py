"""People in bulk and as they change, and their sessions."""

from typing import Annotated, Any
from uuid import UUID, uuid5

from almagest.auth.v1 import auth_pb2, people_pb2
from chassis.deadlines import set_deadline
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from gateway import types
from gateway.application.ports import BATCH_SECONDS, Person
from gateway.entrypoints.bodies import JsonBody
from gateway.entrypoints.dependencies import REPLAYED, Asker, Backends, IdempotencyKey, json_response, uuid_of
from gateway.entrypoints.documentation import ASKED, IDEMPOTENCY, WITH_BODY, WRITE, body, problems, success
from gateway.entrypoints.payloads import PrivateRoute
from gateway.entrypoints.writes import a_write
from gateway.representations.people import ROLES, OpenSession, OpenSessions, User, UserMade, UsersMade
from gateway.requests.people import ChangePassword, ChangeUser, ListSessions, NewUsers

router = APIRouter(tags=["users"], route_class=PrivateRoute)
sessions = APIRouter(tags=["sessions"], route_class=PrivateRoute)
UserId = Annotated[types.Uuid, Path()]
_BATCH = {
    "users": [
        {
            "email": "ada@example.com",
            "password": "correct horse battery staple",
            "first_name": "Ada",
            "last_name": "Lovelace",
            "roles": ["editor"],
        }
    ]
}


@router.post(
    "/v1/users:batchCreate",
    operation_id="createUsers",
    summary="Create many people",
    responses={
        200: success("What became of each, in their order", UsersMade, IDEMPOTENCY),
        **problems(*ASKED, *WITH_BODY, *WRITE),
    },
    openapi_extra=body("NewUsers", ada=_BATCH),
)
async def create_users(
    request: Request,
    person: Asker,
    new: Annotated[NewUsers, Depends(JsonBody[NewUsers](NewUsers))],
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """Create up to 1,000 people, each on their own. For admins. Hashing their passwords takes its time, a minute or so
    for a full batch; the same request with the same Idempotency-Key goes on where one was cut off.
    """
    set_deadline(BATCH_SECONDS)
    async with a_write(request, ports, person, key) as command:
        answer = await ports.auth.create_users(
            people_pb2.BatchCreateUsersRequest(
                users=[
                    auth_pb2.CreateUserRequest(
                        email=user.email,
                        password=user.password,
                        first_name=user.first_name,
                        last_name=user.last_name,
                        roles=[ROLES.get(role, auth_pb2.ROLE_UNSPECIFIED) for role in user.roles],
                        command_id=str(uuid5(UUID(command.command_id), str(index))),
                    )
                    for index, user in enumerate(new.users)
                ]
            ),
            person,
        )
    made = [_made(result, person) for result in answer.results]
    created = sum(one.user is not None for one in made)
    headers = {REPLAYED: "true"} if command.replayed else {}
    return json_response(UsersMade.model_construct(results=made, created=created), 200, headers)


@router.patch(
    "/v1/users/{user_id}",
    operation_id="changeUser",
    summary="Change a person",
    responses={200: success("The person", User), **problems(*ASKED, *WITH_BODY, *WRITE, 404)},
    openapi_extra=body("ChangeUser", roles={"roles": ["viewer"]}, leave={"disabled": True}),
)
async def change_user(
    request: Request,
    user_id: UserId,
    person: Asker,
    change: Annotated[ChangeUser, Depends(JsonBody[ChangeUser](ChangeUser))],
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """Change names, roles, or whether the person may do anything. For admins; each person may change their own names.
    Other rights hold at once: tokens of before are revoked.
    """
    wanted = people_pb2.UpdateUserRequest(
        user_id=uuid_of("user_id", user_id), roles=[ROLES[role] for role in change.roles or ()]
    )
    for field in ("first_name", "last_name", "disabled"):
        if (value := getattr(change, field)) is not None:
            setattr(wanted, field, value)
    async with a_write(request, ports, person, key):
        user = await ports.auth.update_user(wanted, person)
    return json_response(User.of(user, whole=person.sees(user.user_id)))


@router.post(
    "/v1/users/{user_id}:changePassword",
    operation_id="changePassword",
    summary="Set another password",
    status_code=204,
    responses={204: success("It is set"), **problems(*ASKED, *WITH_BODY, *WRITE, 404)},
    openapi_extra=body(
        "ChangePassword", own={"present": "correct horse battery staple", "password": "another battery staple"}
    ),
)
async def change_password(
    request: Request,
    user_id: UserId,
    person: Asker,
    change: Annotated[ChangePassword, Depends(JsonBody[ChangePassword](ChangePassword))],
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """Set one's own password, by the present one; for admins also another's. All other sessions end."""
    async with a_write(request, ports, person, key):
        await ports.auth.change_password(
            people_pb2.ChangePasswordRequest(
                user_id=uuid_of("user_id", user_id), present=change.present or "", password=change.password
            ),
            person,
        )
    return Response(status_code=204)


@sessions.get(
    "/v1/sessions",
    operation_id="listSessions",
    summary="A person's sessions",
    responses={200: success("The sessions that have not ended, latest first", OpenSessions), **problems(*ASKED)},
)
async def list_sessions(wanted: Annotated[ListSessions, Query()], person: Asker, ports: Backends) -> Response:
    """One's own sessions; for admins also another's."""
    answer = await ports.auth.list_sessions(uuid_of("user_id", wanted.user_id) if wanted.user_id else "", person)
    return json_response(OpenSessions.model_construct(items=[OpenSession.of(one) for one in answer.sessions]))


@sessions.delete(
    "/v1/sessions/{session_id}",
    operation_id="endSession",
    summary="End a session",
    status_code=204,
    responses={204: success("It has ended"), **problems(*ASKED, *WRITE, 404, 422)},
)
async def end_session(
    request: Request,
    session_id: Annotated[types.Uuid, Path()],
    person: Asker,
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """End one of one's own sessions; for admins also another's. Within a second nothing works with its tokens."""
    wanted = uuid_of("session_id", session_id)
    async with a_write(request, ports, person, key, body=b""):
        await ports.auth.end_session(wanted, person)
    return Response(status_code=204)


def _made(result: people_pb2.CreateUserResult, person: Person) -> UserMade:
    if result.WhichOneof("outcome") == "user":
        return UserMade.model_construct(user=User.of(result.user, whole=person.sees(result.user.user_id)))
    problem: dict[str, Any] = {"reason": result.problem.reason, "detail": result.problem.message}
    if result.problem.violations:
        problem["errors"] = [{"field": one.field, "message": one.description} for one in result.problem.violations]
    return UserMade.model_construct(problem=problem)
