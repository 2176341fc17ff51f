"""The ASGI application, made of ports: the real ones in earnest, fakes in tests."""

from collections.abc import Mapping
from typing import Any

from chassis.errors import ChassisError, RemoteProblem
from chassis.http import Readiness
from chassis.revocations import Revocations
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from gateway.application.changes import Feeds
from gateway.application.payloads import Payloads
from gateway.application.people import People
from gateway.application.ports import Ports
from gateway.application.quotas import Quota, Quotas
from gateway.application.signatures import Signatures
from gateway.entrypoints import (
    audit,
    changes,
    erasures,
    imports,
    jobs,
    keys,
    openapi,
    operations,
    payloads,
    people,
    products,
    projections,
    sessions,
    users,
    vehicles,
)
from gateway.entrypoints.products import one
from gateway.middleware import cors
from gateway.middleware.context import UNMATCHED, Application, Receive, RequestContext, Scope, Send
from gateway.middleware.quotas import Limits
from gateway.problems import Asked, Refused, answer_to
from gateway.settings import Settings

_METHOD_NOT_ALLOWED = 405
_PRODUCTS = "/v1/products/"
_LENGTH = len(_PRODUCTS)
_ROUTERS = (
    sessions.router,
    users.router,
    people.router,
    people.sessions,
    audit.router,
    keys.router,
    erasures.router,
    *products.ROUTERS,
    vehicles.router,
    changes.router,
    imports.router,
    jobs.router,
    projections.router,
    operations.router,
    payloads.router,
)
_ROUTES = tuple(route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute))
_NAMES: Mapping[Any, str] = {route.endpoint: route.path for route in _ROUTES}


def create_app(
    settings: Settings,
    ports: Ports,
    readiness: Readiness,
    quotas: Quotas,
    feeds: Feeds,
    revocations: Revocations | None = None,
) -> Application:
    """The application, framed by what every request has: trace, deadline, limits, metrics."""
    revocations = revocations or Revocations()
    application = FastAPI(
        title=openapi.TITLE,
        version=openapi.VERSION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers={
            RequestValidationError: _parameters_not_valid,
            HTTPException: _http_exception,
            RemoteProblem: _failure,
            ChassisError: _failure,
            TimeoutError: _failure,
            Exception: _failure,
        },
    )
    application.state.settings = settings
    application.state.ports = ports
    # People first: a feed that looks again must not find what was just revoked.
    application.state.payloads = Payloads(ports.payload_keys, ports.nonces)
    application.state.people = People(ports.auth, revocations=revocations)
    application.state.signatures = Signatures(
        ports.access_keys,
        ports.nonces,
        application.state.people,
        revocations=revocations,
        skew=settings.signature_clock_skew_seconds,
        reads_without_memory=settings.signed_reads_without_redis,
    )
    revocations.listen(lambda _: feeds.recheck(revocations))
    application.state.readiness = readiness
    application.state.feeds = feeds
    for router in _ROUTERS:
        application.include_router(router)
    application.openapi = lambda: _openapi(application)
    framed = RequestContext(
        _HotPath(application),
        request_seconds=settings.request_seconds,
        maximum_header_bytes=settings.maximum_header_bytes,
        quotas=quotas,
        limits=Limits(
            _quota("address", settings.address_requests_per_minute),
            _quota("person", settings.person_requests_per_minute),
            settings.trusted_proxies,
        ),
        route_name=_route_name,
    )
    return cors.allowing(settings.cors_origins, framed)


def _quota(name: str, requests_per_minute: int) -> Quota | None:
    return Quota(name, requests_per_minute, 60.0) if requests_per_minute else None


class _HotPath:
    """Takes the reading of one product past the machinery that all others go through: it would cost more than the rest
    of the work.

    What it raises is answered by `RequestContext`, like all that nobody else answers.
    """

    def __init__(self, application: FastAPI) -> None:
        self._application = application
        self._people: People = application.state.people
        self._signatures: Signatures = application.state.signatures
        self._ports: Ports = application.state.ports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path: str = scope["path"]
        if (
            path.startswith(_PRODUCTS)
            and scope["method"] == "GET"
            and not scope["query_string"]
            and (reference := path[_LENGTH:])
            and "/" not in reference
        ):
            scope["endpoint"] = one.get_product_at
            await one.get_product(
                scope,
                send,
                people=self._people,
                signatures=self._signatures,
                ports=self._ports,
                reference=reference,
            )
        else:
            await self._application(scope, receive, send)


def _openapi(application: FastAPI) -> dict[str, Any]:
    if application.openapi_schema is None:
        application.openapi_schema = openapi.document(application, _ROUTES)
    return application.openapi_schema


def _route_name(scope: Scope) -> str:
    return _NAMES.get(scope.get("endpoint"), UNMATCHED)


def _answer(request: Request, error: Exception) -> Response:
    asked: Asked = request.scope["almagest.asked"]
    answer = answer_to(error, asked)
    return Response(answer.body, answer.status, dict(answer.headers))


async def _http_exception(request: Request, error: Exception) -> Response:
    answer = _answer(request, error)
    if answer.status_code == _METHOD_NOT_ALLOWED:
        answer.headers["Allow"] = ", ".join(sorted(_methods_at(request)))
    return answer


def _methods_at(request: Request) -> set[str]:
    """All methods of a path: Starlette names those of the first route only."""
    found: set[str] = set()
    for route in _ROUTES:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found.update(route.methods or ())
    return found | {"HEAD"} if "GET" in found else found


async def _parameters_not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what this handler is registered for
    errors = [(".".join(str(part) for part in item["loc"][1:]), str(item["msg"])) for item in error.errors()]
    return _answer(
        request, Refused(400, "INVALID_REQUEST", "Path, query or headers are not as they must be.", errors=errors)
    )


async def _failure(request: Request, error: Exception) -> Response:
    return _answer(request, error)
