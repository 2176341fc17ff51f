"""The OpenAPI document: FastAPI's, completed with what it cannot know, and a rendition in 3.0 for the docs page.

The newest Swagger UI that comes as a wheel draws OpenAPI 3.0 only, so the page gets the same document with the few
words of 3.1 that differ put into the older form. What is published is 3.1.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from gateway.entrypoints import projection_shapes
from gateway.entrypoints.signed import SignedRoute
from gateway.problems import Problem
from gateway.requests import access_keys, jobs, people, products, schedules

TITLE = "Almagest"
VERSION = "1.0.0"
_DESCRIPTION = """A product catalog in which every change is an event that can be explained.

Log in at `/v1/sessions`, send the access token as `Authorization: Bearer`, or, bound to a key (RFC 9449), as
`Authorization: DPoP`; or issue an access key at `/v1/keys`, and
sign each request with it (RFC 9421, tag `almagest`). Every write answers a `consistency_token`: a read that
carries it in `Almagest-Consistency` waits until it sees that write. Every answer names its trace in `Trace-Id`.
Errors are
`application/problem+json` (RFC 9457), with a stable `reason`. HEAD answers what GET does, without the body.
"""
_TAGS = [
    {"name": "sessions", "description": "Log in and out."},
    {"name": "encryption", "description": "Keys for bodies that nobody between you and the gateway can read."},
    {"name": "users", "description": "People and what they may do."},
    {"name": "audit", "description": "What was done with people, sessions and keys."},
    {"name": "keys", "description": "What programs sign their requests with."},
    {"name": "products", "description": "The catalog."},
    {"name": "schedules", "description": "What takes effect at a time."},
    {"name": "history", "description": "What became of a product, and where its values come from."},
    {"name": "vehicles", "description": "The products that are cars or trucks."},
    {"name": "changes", "description": "Everything that happens, as it happens."},
    {"name": "imports", "description": "Many products at once, from a file."},
    {"name": "jobs", "description": "Work that outlives its request."},
    {"name": "projections", "description": "How fresh reads are, and looking after what they read."},
    {"name": "operations", "description": "For those who run it."},
]
_BODIES: Mapping[str, Any] = {
    "LogIn": people.LogIn,
    "RefreshToken": people.RefreshToken,
    "NewUser": people.NewUser,
    "NewUsers": people.NewUsers,
    "ChangeUser": people.ChangeUser,
    "ChangePassword": people.ChangePassword,
    "NewKey": access_keys.NewKey,
    "RotateKey": access_keys.RotateKey,
    "CreateProduct": products.Create,
    "DescribeProduct": products.Describe,
    "SetPrice": products.SetPrice,
    "Because": products.Because,
    "Discontinue": products.Discontinue,
    "NewSchedule": schedules.NewSchedule,
    "CorrectPrice": products.CorrectPrice,
    "Restore": products.Restore,
    "BatchGet": products.BatchGet,
    "ImportFrom": jobs.ImportFrom,
    "SkipParkedEvent": projection_shapes.Skip,
    "SwitchGeneration": projection_shapes.Switch,
    "RepairProduct": projection_shapes.Repair,
    "Problem": Problem,
}
_BEARER: Mapping[str, list[str]] = {"bearer": []}
_BOUND: Mapping[str, list[str]] = {"dpop": [], "dpopProof": []}
_SIGNED: Mapping[str, list[str]] = {"signature": [], "signatureInput": []}
_SCHEMES: Mapping[str, Any] = {
    "dpop": {
        "type": "http",
        "scheme": "DPoP",
        "description": "The `access_token` of a session that was begun with a proof (RFC 9449).",
    },
    # OpenAPI has no type for what follows: a header that is made anew for each request is described as a key in one.
    "dpopProof": {
        "type": "apiKey",
        "in": "header",
        "name": "DPoP",
        "description": "A fresh proof for each request, by the key that the access token is bound to (RFC 9449).",
    },
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": "The signature by an access key, over what Signature-Input names (RFC 9421), in place of an "
        "Authorization header or a DPoP proof, never beside one.",
    },
    "signatureInput": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature-Input",
        "description": "What is signed, when, until when, once, and with which key (RFC 9421, tag `almagest`).",
    },
}
"""The ways to say who asks that FastAPI does not know. An operation names those that it takes, each good alone."""
_REF = "#/components/schemas/{model}"


def document(application: FastAPI, routes: Iterable[APIRoute]) -> dict[str, Any]:
    """The complete document, in OpenAPI 3.1, of an application with these routes."""
    made = get_openapi(
        title=TITLE,
        version=VERSION,
        summary="A product catalog that can explain itself",
        description=_DESCRIPTION,
        routes=application.routes,
        tags=_TAGS,
        servers=[{"url": "/"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        separate_input_output_schemas=False,
    )
    schemas: dict[str, Any] = made["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for name, model in _BODIES.items():
        schema = TypeAdapter(model).json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[name] = schema
    made["components"]["securitySchemes"].update(_SCHEMES)
    signed = {route.operation_id for route in routes if isinstance(route, SignedRoute)}
    for path in made["paths"].values():
        for operation in path.values():
            _without_default_422(operation)
            if "security" in operation:
                operation["security"] = [_BEARER, _BOUND, *([_SIGNED] if operation["operationId"] in signed else [])]
    return made


def _without_default_422(operation: dict[str, Any]) -> None:
    """FastAPI adds an answer of its own for parameters that are not valid. Ours is 400, and is there."""
    answer = operation["responses"].get("422", {})
    if "HTTPValidationError" in str(answer):
        del operation["responses"]["422"]


def for_swagger_ui(made: Mapping[str, Any]) -> dict[str, Any]:
    """The same in OpenAPI 3.0, with the one way to say who asks that the page knows how to go."""
    older = cast("dict[str, Any]", _older(dict(made)))
    for name in _SCHEMES:
        older["components"]["securitySchemes"].pop(name, None)
    for path in older["paths"].values():
        for operation in path.values():
            if "security" in operation:
                operation["security"] = [_BEARER]
    older["openapi"] = "3.0.3"
    older["info"].pop("summary", None)
    older["info"]["license"].pop("identifier", None)
    return older


def _older(value: Any) -> Any:
    if isinstance(value, list):
        return [_older(inner) for inner in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    schema = {key: _older(inner) for key, inner in cast("dict[str, Any]", value).items()}
    if isinstance(schema.get("examples"), list):
        examples = schema.pop("examples")
        if examples:
            schema.setdefault("example", examples[0])
    if "const" in schema and not isinstance(schema["const"], dict):
        schema["enum"] = [schema.pop("const")]
    if isinstance(schema.get("exclusiveMinimum"), int | float):
        schema["minimum"] = schema.pop("exclusiveMinimum")
        schema["exclusiveMinimum"] = True
    choices = schema.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        rest = [choice for choice in cast("list[Any]", choices) if choice != {"type": "null"}]
        del schema["anyOf"]
        schema["nullable"] = True
        schema.update({"allOf": rest} if len(rest) == 1 else {"anyOf": rest})
    return schema
