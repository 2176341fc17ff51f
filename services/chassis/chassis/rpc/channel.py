"""A channel to another service that stays the same object while certificates come and go.

gRPC for Python cannot change the credentials of a channel. So generated stubs are built once, on a `Channel`, and each
call goes through whichever real channel is current: when the identity changes, a new one is opened, waited for and put
in place, and the old one is closed when its calls have ended.
"""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Self

import grpc
import orjson
import structlog
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode

from chassis.deadlines import remaining, timeout_for
from chassis.errors import STATUS_DETAILS_KEY, RemoteProblem, Unavailable, remote_problem
from chassis.identity.source import Identity, IdentitySource
from chassis.identity.spiffe import SpiffeId
from chassis.rpc import METADATA_BYTES
from chassis.telemetry import tracing
from chassis.telemetry.metrics import CLIENT, RpcMetrics
from chassis.tokens import METADATA_KEY, person_or_none

_READY_SECONDS = 5.0
_DRAIN_SECONDS = 30.0

_logger = structlog.stdlib.get_logger(__name__)


class _Connection:
    """One real channel, opened with one identity, and how many calls use it."""

    def __init__(self, target: str, identity: Identity, options: list[tuple[str, Any]]) -> None:
        self.identity = identity
        self.channel = grpc.aio.secure_channel(
            target,
            grpc.ssl_channel_credentials(identity.trust_bundle, identity.private_key, identity.certificate_chain),
            options=options,
        )
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        self._calls += 1
        self._idle.clear()

    def end(self) -> None:
        self._calls -= 1
        if self._calls == 0:
            self._idle.set()

    async def retire(self) -> None:
        """Close when no call uses it any more, or after a while at the latest."""
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            _logger.info("calls on a retired connection are ended", calls=self._calls)
        finally:
            await self.channel.close()


class Channel(grpc.aio.Channel):
    """The way to one service: deadlines, identity, person, trace and problems on each call.

    A failed call raises `RemoteProblem`. Calls to a method in `retryable` (full paths) are tried up to three times when
    the service cannot be reached; name only methods that may take effect twice.
    """

    def __init__(
        self,
        target: str,
        *,
        service: str,
        identity: IdentitySource,
        default_timeout: float = 5.0,
        retryable: frozenset[str] = frozenset(),
        max_message_bytes: int = 8 * 1024 * 1024,
    ) -> None:
        self._target = target
        self._source = identity
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.service = service
        self.default_timeout = default_timeout
        trust_domain = identity.current().spiffe_id.trust_domain
        self._options = _options(SpiffeId.of(service, trust_domain), retryable, max_message_bytes)
        self._connection = self._open(identity.current())
        self._swapping: asyncio.Task[None] | None = None
        self._unsubscribe = identity.subscribe(self._identity_changed)

    @property
    def connection(self) -> _Connection:
        """The present connection.

        Raises:
            Unavailable: The channel is closed.
        """
        if self._closed:
            raise Unavailable("The service is shutting down.")
        return self._connection

    def _open(self, identity: Identity) -> _Connection:
        return _Connection(self._target, identity, self._options)

    def _identity_changed(self, _identity: Identity) -> None:
        if self._swapping is None and not self._closed:
            self._swapping = self.spawn(self._swap())

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work beside the calls, until the channel is closed, in a context that belongs to no call."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _swap(self) -> None:
        try:
            while self._connection.identity is not (identity := self._source.current()):
                fresh = self._open(identity)
                try:
                    async with asyncio.timeout(_READY_SECONDS):
                        await fresh.channel.channel_ready()
                except TimeoutError:
                    # It is not there at the moment. The new identity is right all the same, and the old one about to
                    # expire.
                    pass
                except asyncio.CancelledError:
                    await fresh.channel.close()
                    raise
                old, self._connection = self._connection, fresh
                self.spawn(old.retire())
        finally:
            self._swapping = None

    async def close(self, grace: float | None = None) -> None:
        """End all calls, after `grace` seconds if given, and close every connection."""
        if self._closed:
            return
        self._closed = True
        self._unsubscribe()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        """The state of the present connection."""
        return self.connection.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the present connection leaves a state."""
        await self.connection.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the service can be reached."""
        await self.connection.channel.channel_ready()

    def unary_unary(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,  # noqa: FBT001, FBT002 - gRPC's signature
    ) -> Any:
        """What generated stubs call a unary method by."""
        return _UnaryMethod(self, "unary_unary", method, request_serializer, response_deserializer)

    def stream_unary(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """What generated stubs call a client-streaming method by; it takes an iterator of requests."""
        return _UnaryMethod(self, "stream_unary", method, request_serializer, response_deserializer)

    def unary_stream(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """What generated stubs call a server-streaming method by."""
        return _StreamMethod(self, "unary_stream", method, request_serializer, response_deserializer)

    def stream_stream(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """What generated stubs call a method by that streams both ways."""
        return _StreamMethod(self, "stream_stream", method, request_serializer, response_deserializer)


class _Method:
    """One method on a channel, whichever connection is the present one."""

    def __init__(self, channel: Channel, kind: str, method: str, serializer: Any, deserializer: Any) -> None:
        self._channel = channel
        self._kind = kind
        self._method = method
        self._serializer = serializer
        self._deserializer = deserializer
        self._name = method.lstrip("/")
        service, _, name = self._name.partition("/")
        self._attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": name,
            "peer.service": channel.service,
        }
        self._metrics = RpcMetrics(CLIENT, method)
        self._made_for: _Connection | None = None
        self._made: Any = None

    def _callable(self, connection: _Connection) -> Any:
        if connection is not self._made_for:
            make: Callable[..., Any] = getattr(connection.channel, self._kind)
            self._made = make(self._method, self._serializer, self._deserializer)
            self._made_for = connection
        return self._made

    def _begin_span(self) -> tuple[Span, str]:
        """A client span when the present one is recorded, and the traceparent to send in any case.

        Work that belongs to no request, such as a batch of many, sends a trace of its own that is not recorded, so that
        it does not use up what the other side may record.
        """
        current = trace.get_current_span().get_span_context()
        if current.is_valid and current.trace_flags.sampled:
            span = tracing.tracer().start_span(self._name, kind=SpanKind.CLIENT, attributes=self._attributes)
            return span, tracing.traceparent_of(span.get_span_context())
        if current.is_valid:
            return INVALID_SPAN, tracing.traceparent_of(current)
        return INVALID_SPAN, tracing.unrecorded()

    def _metadata(self, given: Any, traceparent: str) -> list[tuple[str, Any]]:
        metadata = [(key, value) for key, value in given or ()]
        metadata.append((tracing.TRACEPARENT, traceparent))
        person = person_or_none()
        if person is not None and all(key != METADATA_KEY for key, _ in metadata):
            metadata.append((METADATA_KEY, person.token))
        return metadata

    def _problem(self, error: grpc.aio.AioRpcError) -> RemoteProblem:
        trailing: Any = error.trailing_metadata()
        details = trailing.get(STATUS_DETAILS_KEY) if trailing is not None else None
        return remote_problem(
            error.code(),
            service=self._channel.service,
            details=error.details(),
            status_details=details if isinstance(details, bytes) else None,
        )

    def _cut_off(self, error: asyncio.CancelledError) -> RemoteProblem:
        """The problem of a call that ended because its connection was closed under it, which gRPC tells as a
        cancellation.

        Raises:
            CancelledError: It is our own task that was cancelled.
        """
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise error
        return remote_problem(
            grpc.StatusCode.UNAVAILABLE, service=self._channel.service, details="connection closed", status_details=None
        )


def _finish(span: Span, code: grpc.StatusCode) -> None:
    if span is INVALID_SPAN:
        return
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code is not grpc.StatusCode.OK:
        span.set_status(Status(StatusCode.ERROR, code.name))
    span.end()


class _UnaryMethod(_Method):
    """A method that answers once."""

    async def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        wait_for_ready: bool | None = None,
        **_ignored: Any,
    ) -> Any:
        limit = timeout_for(self._channel.default_timeout if timeout is None else timeout)
        connection = self._channel.connection
        span, traceparent = self._begin_span()
        code = grpc.StatusCode.CANCELLED
        began = self._metrics.begin()
        connection.begin()
        try:
            answer = await self._callable(connection)(
                request, timeout=limit, metadata=self._metadata(metadata, traceparent), wait_for_ready=wait_for_ready
            )
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise self._problem(error) from error
        except asyncio.CancelledError as error:
            problem = self._cut_off(error)
            code = problem.code
            raise problem from error
        else:
            code = grpc.StatusCode.OK
            return answer
        finally:
            connection.end()
            self._metrics.end(began, code)
            _finish(span, code)


class _StreamMethod(_Method):
    """A method that answers many times. A deadline is set only when one is given, or when the present call has one."""

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        wait_for_ready: bool | None = None,
        **_ignored: Any,
    ) -> "StreamCall":
        limit = timeout
        if timeout is not None or remaining() is not None:
            limit = timeout_for(timeout if timeout is not None else float("inf"))
        connection = self._channel.connection
        span, traceparent = self._begin_span()
        began = self._metrics.begin()
        connection.begin()
        try:
            call = self._callable(connection)(
                request, timeout=limit, metadata=self._metadata(metadata, traceparent), wait_for_ready=wait_for_ready
            )
        except BaseException:
            connection.end()
            self._metrics.end(began, grpc.StatusCode.UNKNOWN)
            _finish(span, grpc.StatusCode.UNKNOWN)
            raise

        async def measure() -> None:
            code: grpc.StatusCode = await call.code()
            self._metrics.end(began, code)
            _finish(span, code)

        def done(_call: Any) -> None:
            connection.end()
            self._channel.spawn(measure())

        call.add_done_callback(done)
        return StreamCall(call, self._problem, self._cut_off)


class StreamCall:
    """A streaming call that runs: iterate over it, or `read()`; leaving the loop, or `cancel()`, ends it."""

    def __init__(
        self,
        call: Any,
        problem: Callable[[grpc.aio.AioRpcError], RemoteProblem],
        cut_off: Callable[[asyncio.CancelledError], RemoteProblem],
    ) -> None:
        self._call = call
        self._problem = problem
        self._cut_off = cut_off

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for message in self._call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._problem(error) from error
        except asyncio.CancelledError as error:
            raise self._cut_off(error) from error
        finally:
            self._call.cancel()

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""
        return await self._mapped(self._call.read())

    async def write(self, request: Any) -> None:
        """Send a message, on a call that streams both ways."""
        await self._mapped(self._call.write(request))

    async def done_writing(self) -> None:
        """Say that no more messages are sent."""
        await self._mapped(self._call.done_writing())

    async def _mapped(self, step: Any) -> Any:
        try:
            return await step
        except grpc.aio.AioRpcError as error:
            raise self._problem(error) from error
        except asyncio.CancelledError as error:
            raise self._cut_off(error) from error

    def cancel(self) -> bool:
        """End the call; answers whether it was still running."""
        return bool(self._call.cancel())

    def done(self) -> bool:
        """Whether the call has ended."""
        return bool(self._call.done())


def _options(spiffe_id: SpiffeId, retryable: frozenset[str], max_message_bytes: int) -> list[tuple[str, Any]]:
    return [
        # The identity that the server must prove: gRPC for Python looks at DNS names only, and this is the image of the
        # SPIFFE id.
        ("grpc.ssl_target_name_override", spiffe_id.dns_name),
        # Connections are never shared between channels, else a new channel would go on with the old certificate.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", _service_config(retryable)),
    ]


def _service_config(retryable: frozenset[str]) -> str:
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retryable:
        names = [path.lstrip("/").partition("/") for path in sorted(retryable)]
        config["methodConfig"] = [
            {
                "name": [{"service": service, "method": method} for service, _, method in names],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
        # A budget: when a tenth of the calls fail, retries stop adding to the load of a service that is down.
        config["retryThrottling"] = {"maxTokens": 10, "tokenRatio": 0.1}
    return orjson.dumps(config).decode()
