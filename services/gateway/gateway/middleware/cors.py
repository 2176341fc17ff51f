"""Which pages of other origins may call this API from a browser (Fetch standard, CORS protocol)."""

from collections.abc import Sequence
from typing import Final

from starlette.middleware.cors import CORSMiddleware

from gateway.middleware.context import Application, Message, Receive, Scope, Send
from gateway.middleware.headers import DATA, guarded

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_ASKED: Final = (
    "Almagest-Consistency",
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "Traceparent",
)
_ANSWERED: Final = (
    "Almagest-Consistency",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Trace-Id",
)
_PREFLIGHT_SECONDS: Final = 600


def allowing(origins: Sequence[str], application: Application) -> Application:
    """The application, open to pages of these origins; without any, as it is.

    It goes by tokens that a page adds itself, so credentials of the browser's own are never asked for.
    """
    if not origins:
        return application
    allowed = CORSMiddleware(
        application,
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=_ASKED,
        expose_headers=_ANSWERED,
        max_age=_PREFLIGHT_SECONDS,
    )

    async def guarding(scope: Scope, receive: Receive, send: Send) -> None:
        """Preflights are answered without asking the application, which guards all other answers."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if not any(name == DATA[0][0] for name, _ in headers):
                    message["headers"] = guarded(scope, headers)
            await send(message)

        await allowed(scope, receive, sending)

    return guarding
