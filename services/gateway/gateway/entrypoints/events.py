"""Server-sent events, with something to hear at least every few seconds, so that nothing on the way takes the silence
for an end.
"""

import asyncio
from collections.abc import AsyncIterator

import structlog
from chassis.errors import RemoteProblem
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

HEARTBEAT_SECONDS = 10.0
_RETRY = b"retry: 1000\n\n"
_HEARTBEAT = b": still here\n\n"

_logger = structlog.stdlib.get_logger(__name__)


class EventStream(Response):
    """Sends events as they come, and ends when they do. When their source fails, the stream ends, and the client, as
    told, comes again.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(b"", 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end."""
        del scope, receive
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": _RETRY, "more_body": True})
        coming: asyncio.Future[bytes | None] | None = None
        try:
            while True:
                if coming is None:
                    coming = asyncio.ensure_future(_next(self._events))
                done, _ = await asyncio.wait({coming}, timeout=HEARTBEAT_SECONDS)
                if not done:
                    await send({"type": "http.response.body", "body": _HEARTBEAT, "more_body": True})
                    continue
                event = coming.result()
                coming = None
                if event is None:
                    break
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except RemoteProblem as problem:
            _logger.info("an event stream was cut off", problem_reason=problem.reason)
        finally:
            if coming is not None and not coming.done():
                coming.cancel()
                await asyncio.wait({coming})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _next(events: AsyncIterator[bytes]) -> bytes | None:
    return await anext(events, None)
