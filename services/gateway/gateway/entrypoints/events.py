"""Server-sent events, with something to hear at least every few seconds, so that nothing on the way takes the silence
for an end.
"""

import asyncio
from collections.abc import AsyncIterator

import structlog
from chassis.errors import ChassisError, RemoteProblem
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

HEARTBEAT_SECONDS = 10.0
STALLED_SECONDS = 60.0
_RETRY = b"retry: 1000\n\n"
_HEARTBEAT = b": still here\n\n"

_logger = structlog.stdlib.get_logger(__name__)


class EventStream(Response):
    """Sends events as they come, and ends when they do. When their source fails, the stream ends, and the client, as
    told, comes again. A client that takes nothing for long is let go: it, too, can come again.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        media_type: str | None = None,
        preamble: bytes | None = None,
        heartbeat: bytes | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        super().__init__(b"", 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type)
        del self.headers["content-length"]
        self._events = events
        self._preamble = _RETRY if preamble is None else preamble
        self._heartbeat = _HEARTBEAT if heartbeat is None else heartbeat
        self._heartbeat_seconds = heartbeat_seconds
        self._stalled_seconds = stalled_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end."""
        del scope, receive
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        coming: asyncio.Future[bytes | None] | None = None
        try:
            if self._preamble:
                await self._say(send, self._preamble)
            while True:
                if coming is None:
                    coming = asyncio.ensure_future(_next(self._events))
                done, _ = await asyncio.wait({coming}, timeout=self._heartbeat_seconds)
                if not done:
                    await self._say(send, self._heartbeat)
                    continue
                event = coming.result()
                coming = None
                if event is None:
                    break
                await self._say(send, event)
        except (RemoteProblem, ChassisError) as error:
            reason = error.problem.reason if isinstance(error, RemoteProblem) else error.reason
            _logger.info("an event stream was cut off", problem_reason=reason)
        except _Stalled:
            _logger.info("a client took nothing of its event stream for long")
            return
        finally:
            if coming is not None and not coming.done():
                coming.cancel()
                await asyncio.wait({coming})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _say(self, send: Send, body: bytes) -> None:
        limit = asyncio.timeout(self._stalled_seconds)
        try:
            async with limit:
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except TimeoutError:
            if limit.expired():
                raise _Stalled from None
            raise


class _Stalled(Exception):
    """The client takes nothing."""


async def _next(events: AsyncIterator[bytes]) -> bytes | None:
    return await anext(events, None)
