"""Problems (RFC 9457): the one table from whatever goes wrong to what a client is told.

Everything that fails behind the door arrives as a `RemoteProblem` with a gRPC status and a reason; what fails at the
door is raised as a `Refused`. Both become the same JSON. Texts of unexpected exceptions never do: they go to the log,
under the trace id that the client is given.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Final

import grpc
import structlog
from almagest.rpc.v1 import problem_pb2
from chassis.errors import ChassisError, RemoteProblem
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from gateway.encoding import encode

MEDIA_TYPE: Final = "application/problem+json"
TYPE_BASE: Final = "https://almagest.dev/problems/"
DEFAULT_RETRY_SECONDS = 1

_logger = structlog.stdlib.get_logger(__name__)


class FieldError(BaseModel):
    """A field of the request that is wrong."""

    model_config = ConfigDict(frozen=True)

    field: Annotated[str, Field(description="Its path in the request.", examples=["attributes.doors"])]
    message: Annotated[str, Field(description="What is wrong, or what would be right.", examples=["must be 1 to 7"])]


class Problem(BaseModel):
    """Why a request failed (RFC 9457)."""

    model_config = ConfigDict(frozen=True)

    type: Annotated[
        str,
        Field(description="Names the kind of problem.", examples=["https://almagest.dev/problems/revision-conflict"]),
    ]
    title: Annotated[str, Field(description="The kind of problem in a few words.", examples=["Precondition Failed"])]
    status: Annotated[int, Field(ge=400, le=599, description="The HTTP status.", examples=[412])]
    detail: Annotated[str, Field(description="What happened, for people.")]
    instance: Annotated[str, Field(description="The path of the request.", examples=["/v1/products"])]
    reason: Annotated[
        str, Field(description="A stable name of the cause, for programs.", examples=["REVISION_CONFLICT"])
    ]
    trace_id: Annotated[
        str,
        Field(
            description="The trace of the request, 32 hexadecimal digits.",
            examples=["4bf92f3577b34da6a3ce929d0e0e4736"],
        ),
    ]
    errors: Annotated[tuple[FieldError, ...], Field(description="The wrong fields, where that is the cause.")] = ()
    metadata: Annotated[
        dict[str, str], Field(description="Facts for programs.", examples=[{"actual_revision": "4"}])
    ] = {}


TITLES: Mapping[int, str] = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
REASONS: Mapping[int, str] = {
    400: "INVALID_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "ROUTE_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "BODY_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    500: "INTERNAL",
}
UNEXPECTED = "The request failed in an unexpected way. Its trace id leads to the cause in the log."


@dataclass
class Refused(HTTPException):
    """A request that is refused at the door."""

    status: int
    reason: str
    message: str
    errors: Sequence[tuple[str, str]] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    extra_headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        """Be what Starlette knows, too, so that its machinery lets it through."""
        super().__init__(self.status, self.message, headers=dict(self.extra_headers) or None)

    __hash__ = Exception.__hash__

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def unauthenticated(message: str, *, reason: str = "UNAUTHENTICATED", invalid_token: bool = False) -> Refused:
    """Nobody is known to have asked (RFC 6750)."""
    challenge = 'Bearer realm="almagest"' + (', error="invalid_token"' if invalid_token else "")
    return Refused(401, reason, message, extra_headers={"WWW-Authenticate": challenge})


def bad_request(field_name: str, message: str, *, reason: str = "INVALID_REQUEST") -> Refused:
    """One part of the request is wrong."""
    return Refused(400, reason, f"{field_name}: {message}", errors=[(field_name, message)])


@dataclass(frozen=True)
class Asked:
    """What the answer to a problem depends on in the request."""

    method: str
    path: str
    trace_id: str
    has_if_match: bool = False


_STATUS: Mapping[int, int] = {
    code.value[0]: status
    for code, status in {
        grpc.StatusCode.INVALID_ARGUMENT: 400,
        grpc.StatusCode.UNAUTHENTICATED: 401,
        grpc.StatusCode.PERMISSION_DENIED: 403,
        grpc.StatusCode.NOT_FOUND: 404,
        grpc.StatusCode.ALREADY_EXISTS: 409,
        grpc.StatusCode.ABORTED: 409,
        grpc.StatusCode.FAILED_PRECONDITION: 409,
        grpc.StatusCode.OUT_OF_RANGE: 400,
        grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
        grpc.StatusCode.UNAVAILABLE: 503,
        grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    }.items()
}
_KEY_REUSED = frozenset({"COMMAND_ID_REUSED", "COMMAND_REUSED", "APPEND_ID_REUSED"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


def status_of(problem: problem_pb2.Problem, asked: Asked) -> int:
    """The HTTP status of a problem from behind the door."""
    if problem.reason in _KEY_REUSED:
        return 422
    if problem.reason.endswith("_TOO_LARGE"):
        return 413
    status = _STATUS.get(problem.code, 500)
    if problem.code == grpc.StatusCode.INVALID_ARGUMENT.value[0] and asked.method in _WITH_BODY:
        return 422
    if problem.reason == "REVISION_CONFLICT" and asked.has_if_match:
        return 412
    if problem.code == grpc.StatusCode.NOT_FOUND.value[0] and asked.has_if_match and asked.method in _WITH_BODY:
        return 412
    return status


class Answer:
    """A problem as status, headers and body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.status = status
        self.body = body
        self.headers = headers


def answer_to(error: Exception, asked: Asked) -> Answer:
    """What a client is told about an exception. One that nobody expects is logged here."""
    if isinstance(error, RemoteProblem):
        return _remote(error, asked)
    if isinstance(error, Refused):
        return _answer(
            error.status,
            error.reason,
            error.message,
            asked,
            errors=error.errors,
            metadata=error.metadata,
            headers=error.extra_headers,
        )
    if isinstance(error, ChassisError):
        problem = problem_pb2.Problem(
            code=error.code.value[0],
            reason=error.reason,
            message=error.message,
            metadata=error.metadata,
            violations=[problem_pb2.FieldViolation(field=name, description=text) for name, text in error.violations],
        )
        return _remote(RemoteProblem(problem, retry_after=error.retry_after), asked)
    if isinstance(error, HTTPException):
        status = error.status_code
        return _answer(
            status, REASONS.get(status, "REFUSED"), _framework_detail(status), asked, headers=error.headers or {}
        )
    if isinstance(error, TimeoutError):
        return _answer(504, "DEADLINE_EXCEEDED", "The time for this request is over.", asked)
    _logger.error("unexpected error", exc_info=error, path=asked.path)
    return _answer(500, "INTERNAL", UNEXPECTED, asked)


def _framework_detail(status: int) -> str:
    return {
        404: "There is nothing at this path.",
        405: "This path does not know this method; the Allow header names those that it knows.",
    }.get(status, TITLES.get(status, "The request was refused.") + ".")


def _remote(error: RemoteProblem, asked: Asked) -> Answer:
    problem = error.problem
    if problem.reason.startswith("CALLER_"):
        # That a service would not have *us* is our misconfiguration, and no business of the client's.
        _logger.error("refused by a service", problem_reason=problem.reason, detail=error.detail)
        return _answer(500, "INTERNAL", UNEXPECTED, asked)
    status = status_of(problem, asked)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        _logger.error("a service failed", problem_reason=problem.reason, detail=error.detail)
        return _answer(500, "INTERNAL", UNEXPECTED, asked)
    headers: dict[str, str] = {}
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers["Retry-After"] = str(max(DEFAULT_RETRY_SECONDS, math.ceil(error.retry_after or 0)))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="almagest", error="invalid_token"'
    errors = [(name, item.description) for item in problem.violations if (name := public_field(item.field, asked.path))]
    return _answer(
        status,
        problem.reason or TITLES[status].upper().replace(" ", "_"),
        # The service's own sentence begins with a path that the client never wrote.
        f"{errors[0][0]}: {errors[0][1]}" if errors else problem.message,
        asked,
        errors=errors,
        metadata=dict(problem.metadata),
        headers=headers,
    )


def _answer(
    status: int,
    reason: str,
    detail: str,
    asked: Asked,
    *,
    errors: Iterable[tuple[str, str]] = (),
    metadata: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    body: dict[str, Any] = {
        "type": TYPE_BASE + reason.lower().replace("_", "-"),
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "instance": asked.path,
        "reason": reason,
        "trace_id": asked.trace_id,
        "errors": [{"field": name, "message": text} for name, text in errors],
        "metadata": dict(metadata or {}),
    }
    return Answer(status, encode(body), {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store", **(headers or {})})


_RENAMED: Mapping[str, str] = {
    "page_token": "cursor",
    "kinds": "kind",
    "statuses": "status",
    "categories": "category",
    "types": "type",
    "cursor": "after",
    "consistency_token": "Almagest-Consistency",
    "consistency_tokens": "Almagest-Consistency",
    "recorded_from": "from",
    "recorded_to": "to",
}


def public_field(field_path: str, request_path: str = "") -> str:
    """The field of the public request that a field of an internal message came from; empty when there is none of its
    own.

    `commands[0].create.description.car.vehicle.make` is `attributes.make` to the client.
    """
    parts = field_path.split(".")
    if parts[0].startswith("commands["):
        parts = parts[2:]
    if parts and parts[0] in ("description", "filter", "page", "moment"):
        parts = parts[1:]
    if len(parts) > 1 and parts[0] in ("from", "to"):
        # A version of a diff, which the client names in one word.
        parts = parts[:1]
    if parts and parts[0] in ("general", "car", "truck"):
        parts = ["attributes", *parts[1:]]
        if len(parts) > 1 and parts[1] == "vehicle":
            del parts[1]
    if len(parts) > 1 and parts[0] == "price" and request_path.endswith(("/price", "/price:correct")):
        parts = parts[1:]
    if parts:
        name, bracket, index = parts[0].partition("[")
        parts[0] = _RENAMED[name] if name in _RENAMED else name + bracket + index
    return ".".join(parts)
