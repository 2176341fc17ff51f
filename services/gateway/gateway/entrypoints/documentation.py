"""How operations are documented: which problems each can answer, which headers, which body. `entrypoints/openapi.py`
puts it together.
"""

from collections.abc import Mapping
from typing import Any

from gateway.problems import MEDIA_TYPE, TITLES

ALWAYS = (400, 431, 500)
"""What any request can be answered, whatever it asks for."""
ASKED = (401, 403, 429, 503, 504)
"""What a request can be answered that a service works for."""
WITH_BODY = (408, 413, 415, 422)
"""What a request with a body can be answered."""
WRITE = (409,)
READ_HEADERS: Mapping[str, Any] = {
    "Almagest-Consistency": {
        "description": "The position that the answer is at least as new as, for later reads.",
        "schema": {"type": "string"},
    }
}
HELD: Mapping[str, Any] = {
    "Almagest-Held": {
        "description": (
            "The revision of an event that could not be applied: what was written since is not in this answer. Absent:"
            " nothing is held."
        ),
        "schema": {"type": "integer"},
    }
}
ETAG: Mapping[str, Any] = {
    "ETag": {"description": "The product's revision, quoted.", "schema": {"type": "string", "examples": ['"3"']}}
}
LOCATION: Mapping[str, Any] = {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}
LINK: Mapping[str, Any] = {
    "Link": {"description": 'The next page, rel="next" (RFC 8288); absent on the last.', "schema": {"type": "string"}}
}
IDEMPOTENCY: Mapping[str, Any] = {
    "Idempotency-Replayed": {
        "description": "`true` when this is the answer to an earlier request with the same key.",
        "schema": {"type": "string"},
    }
}
_TRACE: Mapping[str, Any] = {
    "Trace-Id": {"description": "The trace of the request.", "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
}
_RETRY: Mapping[str, Any] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
_QUOTAS: Mapping[str, Any] = {
    "RateLimit": {
        "description": "What is left of each quota (`r` requests), and when all of it is back (`t` seconds).",
        "schema": {"type": "string"},
        "example": '"person";r=59999;t=1',
    },
    "RateLimit-Policy": {
        "description": "The quotas: `q` requests in `w` seconds.",
        "schema": {"type": "string"},
        "example": '"person";q=60000;w=60',
    },
}
_CHALLENGE: Mapping[str, Any] = {"WWW-Authenticate": {"description": "RFC 6750.", "schema": {"type": "string"}}}
_EXTRA: Mapping[int, Mapping[str, Any]] = {401: _CHALLENGE, 429: {**_RETRY, **_QUOTAS}, 503: _RETRY}
_MEANING: Mapping[int, str] = {
    400: "Path, query, headers or JSON are not as they must be",
    401: "No valid access token",
    403: "The person may not do this",
    404: "There is none",
    408: "The body came too slowly",
    409: "The state of the resource forbids it, or the same request still runs",
    412: "The product has another revision than If-Match asks for",
    413: "Too large",
    415: "Not the media type or encoding of this operation",
    422: "Well-formed, but not valid; or the idempotency key was used with another request",
    429: "Too much at once",
    431: "Path and headers are too large",
    500: "Unexpected; the trace id leads to the cause",
    503: "Not at the moment; also: not yet as fresh as asked",
    504: "Not within the time for the request",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that an operation can answer, besides those that all can."""
    return {
        status: {
            "description": _MEANING.get(status, TITLES[status]),
            "headers": {**_TRACE, **_EXTRA.get(status, {})},
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*ALWAYS, *statuses})
    }


def success(
    description: str, model: Any = None, *headers: Mapping[str, Any], media_type: str = "application/json"
) -> dict[str, Any]:
    """An answer that is no problem."""
    documented: dict[str, Any] = {
        "description": description,
        "headers": {name: value for group in (_TRACE, _QUOTAS, *headers) for name, value in group.items()},
    }
    if model is not None and media_type == "application/json":
        documented["model"] = model
    elif model is not None:
        documented["content"] = {media_type: {"schema": model}}
    return documented


def body(name: str, **examples: Any) -> dict[str, Any]:
    """The JSON body of an operation: the schema by name, with examples."""
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{name}"}}
    if examples:
        content["examples"] = {key: {"value": value} for key, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}
