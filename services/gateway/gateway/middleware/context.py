"""The frame of each request: its trace, its deadline, its limits, its metrics, and an answer whatever happens."""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

import structlog
from chassis.caller import set_origin
from chassis.deadlines import set_deadline
from chassis.telemetry.tracing import context_from, tracer
from opentelemetry import context as otel_context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from prometheus_client import Counter, Gauge, Histogram

from gateway.application.quotas import Quotas
from gateway.middleware.headers import guarded
from gateway.middleware.quotas import Limits, Meter, address_of
from gateway.problems import Answer, Asked, Refused, answer_to

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

UNMATCHED = "unmatched"
_CLIENT_GONE = 499
_SERVER_ERROR = 500
_LOOK_AFTER_SECONDS = 0.05
_REFUSED = 400
_DRAIN_BYTES = 4 * 1024 * 1024
_DRAIN_SECONDS = 1.0
_SAFE = frozenset({"GET", "HEAD"})
# What watches over the door must not be turned away by it.
_UNMETERED = frozenset({"/healthz", "/readyz", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?(?:$|[,;\s])", re.IGNORECASE)
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_requests = Counter("almagest_http_requests_total", "HTTP requests by outcome.", ("method", "route", "status"))
_seconds = Histogram("almagest_http_seconds", "How long HTTP requests took.", ("method", "route"), buckets=_BUCKETS)
_running = Gauge("almagest_http_running", "HTTP requests that run.")

_logger = structlog.stdlib.get_logger("gateway.access")


class _Outcome:
    """What became of a request."""

    __slots__ = ("complete", "gone", "status")

    def __init__(self) -> None:
        self.status = 0
        self.complete = False
        self.gone = False


class RequestContext:
    """Wraps the application. `route_name` gives the path template of a request that was routed, for metrics and span
    names.

    Reads are given up when their client goes away. Writes are not: their outcome is worth knowing by the repeat that is
    sure to come. HEAD is served as GET, and its answer ends where the body would begin.
    """

    def __init__(
        self,
        application: Application,
        *,
        request_seconds: float,
        maximum_header_bytes: int,
        quotas: Quotas,
        limits: Limits,
        route_name: Callable[[Scope], str],
    ) -> None:
        self._application = application
        self._quotas = quotas
        self._limits = limits
        self._request_seconds = request_seconds
        self._maximum_header_bytes = maximum_header_bytes
        self._route_name = route_name
        self._metrics: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._application(scope, receive, send)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        began = time.perf_counter()
        method: str = scope["method"]
        if method == "HEAD":
            # A copy: the server looks at its own, which says that no body will come.
            scope = {**scope, "method": "GET", "almagest.method": method}
        size, traceparent, prefer, if_match, hosts = self._look_at(scope["headers"])
        set_deadline(self._deadline(prefer))
        span = tracer().start_span(method, context=context_from(traceparent), kind=SpanKind.SERVER)
        otel_context.attach(set_span_in_context(span))
        trace_id = format(span.get_span_context().trace_id, "032x")
        asked = Asked(scope["method"], scope["path"], trace_id, if_match)
        scope["almagest.asked"] = asked
        outcome = _Outcome()
        if method not in _SAFE:
            receive = _Receiver(receive)
        meter = Meter(self._quotas, self._limits)
        send = _Sender(scope, send, outcome, trace_id.encode(), receive, meter, with_body=method != "HEAD")
        _running.inc()
        try:
            size += len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
            self._check_size(size)
            _check_target(scope, hosts)
            if scope["path"] not in _UNMETERED:
                address = self._address(scope)
                set_origin(address, _agent(scope))
                meter.charge_address(address)
            await self._run(scope, receive, send, outcome)
        except Exception as error:
            if outcome.status == 0:
                await _say(answer_to(error, asked), send)
            elif not outcome.complete:
                # Half an answer is sent; the server cuts the connection, so that nobody takes it for a whole one.
                _logger.exception("failed while answering")
                outcome.status = _SERVER_ERROR
                raise
        finally:
            _running.dec()
            self._finish(scope, span, method, outcome, time.perf_counter() - began)

    def _check_size(self, size: int) -> None:
        if size > self._maximum_header_bytes:
            raise Refused(
                431, "HEADERS_TOO_LARGE", f"Path and headers are larger than {self._maximum_header_bytes} bytes."
            )

    @staticmethod
    def _look_at(headers: list[tuple[bytes, bytes]]) -> tuple[int, str, str, bool, int]:
        size = hosts = 0
        traceparent = prefer = ""
        if_match = False
        for name, value in headers:
            size += len(name) + len(value)
            if name == b"traceparent":
                traceparent = value.decode("latin-1")
            elif name == b"prefer":
                prefer = value.decode("latin-1")
            elif name == b"if-match":
                if_match = True
            elif name == b"host" and value:
                hosts += 1
        return size, traceparent, prefer, if_match, hosts

    def _address(self, scope: Scope) -> str:
        client = scope.get("client")
        peer: str = client[0] if client else ""
        if not self._limits.trusted_proxies:
            return address_of(peer, (), self._limits)
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return address_of(peer, ",".join(forwarded).split(",") if forwarded else (), self._limits)

    def _deadline(self, prefer: str) -> float:
        if prefer:
            wait = _PREFER_WAIT.search(prefer)
            if wait is not None:
                return min(self._request_seconds, float(wait[1]))
        return self._request_seconds

    async def _run(self, scope: Scope, receive: Receive, send: Send, outcome: _Outcome) -> None:
        if scope["method"] not in _SAFE:
            await self._application(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI servers run applications in tasks
        watches: list[asyncio.Task[None]] = []
        # Most reads are over before it is worth asking whether anybody still waits for them.
        look = loop.call_later(
            _LOOK_AFTER_SECONDS, lambda: watches.append(loop.create_task(_watch(receive, task, outcome)))
        )
        try:
            await self._application(scope, receive, send)
        except asyncio.CancelledError:
            if not outcome.gone:
                raise
            task.uncancel()
            if not outcome.complete:
                outcome.status = _CLIENT_GONE
        finally:
            look.cancel()
            for watch in watches:
                watch.cancel()

    def _finish(self, scope: Scope, span: Span, method: str, outcome: _Outcome, took: float) -> None:
        route = self._route_name(scope)
        if method not in _METHODS:
            method = "other"
        key = (method, route, outcome.status)
        metrics = self._metrics.get(key)
        if metrics is None:
            metrics = self._metrics[key] = (
                _requests.labels(method, route, outcome.status),
                _seconds.labels(method, route),
            )
        metrics[0].inc()
        metrics[1].observe(took)
        if span.is_recording():
            span.update_name(f"{method} {route}")
            span.set_attributes(
                {
                    "http.request.method": method,
                    "http.route": route,
                    "url.path": scope["path"],
                    "http.response.status_code": outcome.status,
                    "network.protocol.version": scope.get("http_version", ""),
                }
            )
            if outcome.status >= _SERVER_ERROR:
                span.set_status(Status(StatusCode.ERROR))
            # With the trace there is a line in the log; a load test writes neither.
            _logger.info(
                "request", method=method, route=route, status=outcome.status, milliseconds=round(took * 1000, 2)
            )
        span.end()


class _Receiver:
    """Knows whether the body has been read.

    A request may be refused before its body has come. Many clients take an answer that comes while they still send for
    an error of the connection, and never see it; so some of the rest is taken and thrown away first, though not all
    that anybody might send.
    """

    __slots__ = ("_over", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._over = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._over = True
        return message

    async def drain(self) -> None:
        """Take what still comes, within bounds of size and time."""
        taken = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._over and taken < _DRAIN_BYTES:
                    taken += len((await self()).get("body", b""))


class _Sender:
    """Adds to each answer what all of them have."""

    __slots__ = ("_meter", "_outcome", "_receive", "_scope", "_send", "_trace_id", "_with_body")

    def __init__(
        self,
        scope: Scope,
        send: Send,
        outcome: _Outcome,
        trace_id: bytes,
        receive: Receive,
        meter: Meter,
        *,
        with_body: bool,
    ) -> None:
        self._scope = scope
        self._send = send
        self._meter = meter
        self._receive = receive
        self._outcome = outcome
        self._trace_id = trace_id
        self._with_body = with_body

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._outcome.status = message["status"]
            headers = [*message.get("headers", ()), (b"trace-id", self._trace_id), *self._meter.headers()]
            message["headers"] = guarded(self._scope, headers)
            if message["status"] >= _REFUSED and isinstance(self._receive, _Receiver):
                await self._receive.drain()
        elif message["type"] == "http.response.body":
            more = message.get("more_body", False)
            if not self._with_body:
                await self._end(more=more)
                return
            if not more:
                self._outcome.complete = True
        await self._send(message)

    async def _end(self, *, more: bool) -> None:
        """End an answer to HEAD; a stream, which may go on for long, is not waited for."""
        if self._outcome.complete:
            return
        self._outcome.complete = True
        await self._send({"type": "http.response.body", "body": b""})
        task = asyncio.current_task()
        if more and task is not None:
            self._outcome.gone = True
            task.cancel()


async def _watch(receive: Receive, task: asyncio.Task[Any], outcome: _Outcome) -> None:
    """Give a read up when its client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    outcome.gone = True
    task.cancel()


def _agent(scope: Scope) -> str:
    """What the client says of itself."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"user-agent"), "")


def _check_target(scope: Scope, hosts: int) -> None:
    """Keep `%2F` in a segment from becoming a separator of segments, and refuse what is no text, or names no host
    (RFC 9112, section 3.2).
    """
    if hosts != 1 and (hosts or scope.get("http_version") == "1.1"):
        raise Refused(400, "INVALID_REQUEST", "The request must have one Host header.")
    raw: bytes = (scope.get("raw_path") or b"").partition(b"?")[0]
    if b"%00" in raw or b"%00" in scope["query_string"]:
        raise Refused(400, "INVALID_REQUEST", "The path or query has the character U+0000.")
    if b"%" not in raw and raw:
        return
    upper = raw.upper()
    if b"%2F" in upper:
        scope["path"] = unquote(re.sub(rb"%2[Ff]", b"%252F", raw).decode("latin-1"))
    if "\ufffd" in scope["path"] or any("\udc80" <= character <= "\udcff" for character in scope["path"]):
        raise Refused(400, "INVALID_REQUEST", "The path is not UTF-8.")


async def _say(answer: Answer, send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [
                (b"content-length", str(len(answer.body)).encode()),
                *((name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": answer.body})
