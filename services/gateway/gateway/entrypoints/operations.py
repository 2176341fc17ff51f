"""For those who run it: health, metrics, and the documentation. Nothing here asks who one is."""

import asyncio
import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import Annotated

import swagger_ui_bundle
from fastapi import APIRouter, Path, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from gateway.encoding import encode
from gateway.entrypoints.dependencies import json_response, matches
from gateway.entrypoints.documentation import problems, success
from gateway.entrypoints.openapi import for_swagger_ui
from gateway.middleware.headers import nonce_of
from gateway.problems import Refused
from gateway.representations.operations import Health, Ready

router = APIRouter(tags=["operations"])

_OURS = {"start.js": "text/javascript"}
_THEIRS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_TEXT = {"type": "string"}


@router.get(
    "/healthz",
    operation_id="health",
    summary="Does it live?",
    responses={200: success("It does", Health), **problems()},
)
async def healthz() -> Response:
    """The process lives."""
    return json_response({"status": "ok"})


@router.get(
    "/readyz",
    operation_id="ready",
    summary="Can it do its work?",
    responses={200: success("It can", Ready), 503: success("It cannot", Ready), **problems()},
)
async def readyz(request: Request) -> Response:
    """Whether every service behind the gateway has been reached since its start; `probes` tells which can be now."""
    ready, probes = await request.app.state.readiness.check()
    return json_response({"ready": ready, "probes": probes}, 200 if ready else 503)


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    responses={200: success("The metrics", _TEXT, media_type="text/plain"), **problems()},
)
async def metrics() -> Response:
    """Everything that this process counts."""
    return Response(await asyncio.to_thread(generate_latest), media_type=CONTENT_TYPE_LATEST)


@router.get(
    "/openapi.json",
    operation_id="openapi",
    summary="This description",
    responses={
        200: success("OpenAPI 3.1", {"type": "object"}, media_type="application/json; charset=utf-8"),
        **problems(),
    },
    include_in_schema=False,
)
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return _cached(request, encode(request.app.openapi()), "application/json")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The documentation as a page, of which each answer is another: its nonce is good for this one only."""
    page = _asset("docs.html", ours=True).replace(b"{nonce}", nonce_of(request.scope).encode())
    return Response(page, media_type="text/html; charset=utf-8")


@router.get("/docs/openapi-3.0.json", include_in_schema=False)
async def docs_openapi(request: Request) -> Response:
    """The OpenAPI document as the page understands it."""
    return _cached(request, encode(for_swagger_ui(request.app.openapi())), "application/json")


@router.get("/docs/{name}", include_in_schema=False)
async def docs_asset(request: Request, name: Annotated[str, Path()]) -> Response:
    """What the page needs."""
    media_type = _OURS.get(name) or _THEIRS.get(name)
    if media_type is None:
        raise Refused(404, "ROUTE_NOT_FOUND", "There is nothing at this path.")
    return _cached(request, _asset(name, ours=name in _OURS), media_type)


@lru_cache(maxsize=8)
def _asset(name: str, *, ours: bool) -> bytes:
    if ours:
        return files("gateway").joinpath("assets", name).read_bytes()
    return (swagger_ui_bundle.swagger_ui_path / name).read_bytes()


def _cached(request: Request, content: bytes, media_type: str) -> Response:
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)
