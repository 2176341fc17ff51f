"""The ASGI application, made of ports: the real ones in earnest, fakes in tests."""

from collections.abc import Mapping
from typing import Any

from chassis.http import Readiness
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from gateway.application.people import People
from gateway.application.ports import Ports
from gateway.entrypoints import imports, jobs, openapi, operations, products, projections, sessions, users, vehicles
from gateway.middleware.context import UNMATCHED, Application, RequestContext, Scope
from gateway.problems import Asked, Refused, answer_to
from gateway.settings import Settings

_METHOD_NOT_ALLOWED = 405


def create_app(settings: Settings, ports: Ports, readiness: Readiness) -> Application:
    """The application, framed by what every request has: trace, deadline, limits, metrics."""
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
            Exception: _failure,
        },
    )
    application.state.settings = settings
    application.state.ports = ports
    application.state.people = People(ports.auth)
    application.state.readiness = readiness
    # First, since routes are tried in their order: it is what is asked for most. Its neighbours with a verb or more path do not match it.
    application.router.routes.append(products.GET_PRODUCT)
    for module in (sessions, users, products, vehicles, imports, jobs, projections, operations):
        application.include_router(module.router)
    application.openapi = lambda: _openapi(application)
    return RequestContext(
        application,
        request_seconds=settings.request_seconds,
        maximum_header_bytes=settings.maximum_header_bytes,
        route_names=_route_names(application),
    )


def _openapi(application: FastAPI) -> dict[str, Any]:
    if application.openapi_schema is None:
        documented = FastAPI()
        documented.add_api_route(
            products.GET_PRODUCT.path,
            products.documented_get_product,
            operation_id="getProduct",
            summary="One product",
            tags=["products"],
            responses=products.GET_PRODUCT_RESPONSES,
        )
        for route in application.routes:
            if route is not products.GET_PRODUCT:
                documented.router.routes.append(route)
        application.openapi_schema = openapi.document(documented)
    return application.openapi_schema


def _route_names(application: FastAPI) -> Any:
    names: Mapping[Any, str] = {
        endpoint: path
        for route in application.routes
        if (endpoint := getattr(route, "endpoint", None)) is not None and (path := getattr(route, "path", None))
    }

    def name_of(scope: Scope) -> str:
        return names.get(scope.get("endpoint"), UNMATCHED)

    return name_of


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
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found


async def _parameters_not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what this handler is registered for
    errors = [(".".join(str(part) for part in item["loc"][1:]), str(item["msg"])) for item in error.errors()]
    return _answer(
        request, Refused(400, "INVALID_REQUEST", "Path, query or headers are not as they must be.", errors=errors)
    )


async def _failure(request: Request, error: Exception) -> Response:
    return _answer(request, error)
