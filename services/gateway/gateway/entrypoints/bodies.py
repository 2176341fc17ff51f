"""Bodies of requests: read within limits of size and time, taken as JSON only in one sense, checked strictly."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from chassis.deadlines import remaining
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from gateway.encoding import InvalidJson, decode
from gateway.problems import Refused
from gateway.requests.schedules import SCHEDULED_PRICE, SCHEDULED_PUBLICATION

Model = TypeVar("Model")
CHUNK_BYTES = 256 * 1024
_MARGIN_SECONDS = 0.05


class JsonBody(Generic[Model]):
    """A FastAPI dependency that gives the body as a model, and leaves its bytes in `request.state.body`.

    FastAPI's own reading of bodies knows no limits, takes duplicate keys and NaN, and validates without strictness.
    """

    def __init__(self, model: Any) -> None:
        self.adapter: TypeAdapter[Model] = TypeAdapter(model)

    async def __call__(self, request: Request) -> Model:
        """Read, parse and check.

        Raises:
            Refused: It is not what the operation takes.
        """
        _check_type(request)
        body = await read_body(request, limit=request.app.state.settings.maximum_body_bytes)
        request.state.body = body
        try:
            value = decode(body)
        except InvalidJson as error:
            raise Refused(400, "INVALID_JSON", str(error)) from None
        try:
            return self.adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise Refused(
                422,
                "INVALID_BODY",
                "The body is not what this operation takes.",
                errors=[
                    (_place(item["loc"]), item["msg"]) for item in error.errors(include_url=False, include_input=False)
                ],
            ) from None


_TAGS = frozenset({"general", "car", "truck", SCHEDULED_PRICE, SCHEDULED_PUBLICATION})


def _place(location: tuple[int | str, ...]) -> str:
    # A union puts the kind, or the tag, in front of the path.
    parts = location[1:] if location and location[0] in _TAGS else location
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "body"


def _check_type(request: Request) -> None:
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    media_type = media_type.strip().lower()
    charset = parameters.partition("charset=")[2].strip(" \"'").lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise Refused(415, "UNSUPPORTED_MEDIA_TYPE", "The body must be JSON: Content-Type application/json.")
    if charset not in ("", "utf-8", "utf8"):
        raise Refused(415, "UNSUPPORTED_MEDIA_TYPE", "JSON is always UTF-8.")
    check_encoding(request)


def content_encoding(request: Request) -> str:
    """How the body is packed; `identity`: it is not."""
    encoding = ", ".join(request.headers.getlist("content-encoding")).strip().lower()
    return {"": "identity", "x-gzip": "gzip"}.get(encoding, encoding)


def check_encoding(request: Request, *, taken: str = "identity") -> None:
    """See that the body is not packed. JSON is small; files have a way of their own.

    Args:
        request: whose body it is.
        taken: what the operation takes instead, for the answer.

    Raises:
        Refused: It is.
    """
    encoding = content_encoding(request)
    if encoding != "identity":
        raise Refused(
            415,
            "UNSUPPORTED_ENCODING",
            f"This is not taken with Content-Encoding {encoding[:40]}, only with {taken}.",
            extra_headers={"Accept-Encoding": taken},
        )


def too_large(limit: int) -> Refused:
    """The answer to a body over the limit."""
    return Refused(413, "BODY_TOO_LARGE", f"The body is larger than {limit} bytes.")


def size_of(request: Request) -> int | None:
    """What Content-Length says, if it is there; servers refuse what is no number."""
    length = request.headers.get("content-length")
    return int(length) if length is not None and length.isascii() and length.isdigit() else None


async def read_body(request: Request, *, limit: int) -> bytes:
    """The whole body.

    Raises:
        Refused: It is over the limit, too slow, or cut off.
    """
    size = size_of(request)
    if size is not None and size > limit:
        raise too_large(limit)
    left = remaining()
    chunks: list[bytes] = []
    total = 0
    try:
        async with asyncio.timeout(None if left is None else max(left - _MARGIN_SECONDS, 0)):
            async for chunk in stream(request.receive):
                total += len(chunk)
                if total > limit:
                    raise too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise Refused(408, "BODY_TOO_SLOW", "The body did not arrive within the time for the request.") from None
    if size is not None and total != size:
        raise _cut_off()
    return b"".join(chunks)


async def stream(receive: Callable[[], Awaitable[Any]], *, idle_seconds: float | None = None) -> AsyncIterator[bytes]:
    """The body as it comes.

    Raises:
        Refused: It is cut off, or nothing came for too long.
    """
    more = True
    while more:
        try:
            async with asyncio.timeout(idle_seconds):
                message = await receive()
        except TimeoutError:
            if idle_seconds is None:
                raise
            raise Refused(408, "BODY_TOO_SLOW", f"Nothing of the body came for {idle_seconds:g} seconds.") from None
        if message["type"] != "http.request":
            raise _cut_off()
        more = message.get("more_body", False)
        body = message.get("body", b"")
        if body:
            yield body


def _cut_off() -> Refused:
    return Refused(400, "BODY_CUT_OFF", "The body ended before its end.")


async def blocks(chunks: AsyncIterator[bytes], size: int = CHUNK_BYTES) -> AsyncIterator[bytes]:
    """The same bytes in pieces of `size`, the last of which may be smaller."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        while len(buffer) >= size:
            yield bytes(buffer[:size])
            del buffer[:size]
    if buffer:
        yield bytes(buffer)
