"""Calls on a channel: deadline, person and trace of the present call go along, and a failure is a problem."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode

from chassis.caller import ADDRESS_KEY, AGENT_KEY, current_origin
from chassis.deadlines import remaining, timeout_for
from chassis.errors import STATUS_DETAILS_KEY, ConnectionRenewed, RemoteProblem, remote_problem
from chassis.rpc.sending import keeping_the_answer
from chassis.telemetry import tracing
from chassis.telemetry.metrics import CLIENT, RpcMetrics
from chassis.tokens import METADATA_KEY, person_or_none

if TYPE_CHECKING:
    from chassis.rpc.channel import Channel, Connection


_PATIENCE_SECONDS = 3.0
# How gRPC begins to tell that a call never left, since no connection could be made for it; and how it goes on when
# nobody is there, instead of somebody who could not prove who they are.
_NEVER_LEFT = "connections to all backends failing"
_NOBODY = "Connection refused"


class Method:
    """One method on a channel, whichever connection is the present one."""

    def __init__(self, channel: "Channel", kind: str, method: str, serializer: Any, deserializer: Any) -> None:
        self._channel = channel
        self._kind = kind
        self._sends_many = kind.startswith("stream")
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
        self._made_for: Connection | None = None
        self._made: Any = None

    def _callable(self, connection: "Connection") -> Any:
        if connection is not self._made_for:
            make: Callable[..., Any] = getattr(connection.channel, self._kind)
            self._made = make(self._method, self._serializer, self._deserializer)
            self._made_for = connection
        return self._made

    def _call(self, connection: "Connection", request: Any, **options: Any) -> Any:
        call = self._callable(connection)(request, **options)
        return keeping_the_answer(call) if self._sends_many else call

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
        origin = current_origin()
        if origin is not None:
            metadata += [(ADDRESS_KEY, origin.address), (AGENT_KEY, origin.agent)]
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

    def _cut_off(self, error: asyncio.CancelledError, connection: "Connection") -> RemoteProblem:
        """The problem of a call that ended because its connection was closed under it, which gRPC tells as a
        cancellation.

        Raises:
            CancelledError: It is our own task that was cancelled.
        """
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise error
        problem = remote_problem(
            grpc.StatusCode.UNAVAILABLE, service=self._channel.service, details="connection closed", status_details=None
        )
        return ConnectionRenewed(problem.problem, detail=problem.detail) if connection.retired else problem

    def _held_up(self, problem: RemoteProblem) -> bool:
        """Whether a call had no effect, and may pass in a moment: one that a busy service has looked at only when the
        certificate of its connection had expired; or one that never left since, of two sides whose certificates are
        being renewed, one was late.
        """
        if problem.reason == "CALLER_EXPIRED":
            return True
        never_left = problem.code is grpc.StatusCode.UNAVAILABLE and problem.detail.startswith(_NEVER_LEFT)
        return never_left and self._channel.renewing and _NOBODY not in problem.detail


def _finish(span: Span, code: grpc.StatusCode) -> None:
    if span is INVALID_SPAN:
        return
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code is not grpc.StatusCode.OK:
        span.set_status(Status(StatusCode.ERROR, code.name))
    span.end()


class UnaryMethod(Method):
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
        """The answer, within `timeout` seconds, the channel's default, or what the present call has left.

        A call that a certificate has held up is made again, for a while: the one that was late comes.
        """
        began = time.monotonic()
        limit = timeout_for(self._channel.default_timeout if timeout is None else timeout)
        patience = min(limit / 2, _PATIENCE_SECONDS)
        while True:
            try:
                return await self._once(request, limit - (time.monotonic() - began), metadata, wait_for_ready)
            except RemoteProblem as problem:
                left = patience - (time.monotonic() - began)
                if left <= 0 or self._kind != "unary_unary" or not self._held_up(problem):
                    raise
            await self._channel.renewed(left)

    async def _once(self, request: Any, timeout: float, metadata: Any, wait_for_ready: bool | None) -> Any:  # noqa: FBT001 - as gRPC's stubs take them
        connection = self._channel.connection
        span, traceparent = self._begin_span()
        code = grpc.StatusCode.CANCELLED
        began = self._metrics.begin()
        connection.begin()
        try:
            answer = await self._call(
                connection,
                request,
                timeout=timeout,
                metadata=self._metadata(metadata, traceparent),
                wait_for_ready=wait_for_ready,
            )
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise self._problem(error) from error
        except asyncio.CancelledError as error:
            problem = self._cut_off(error, connection)
            code = problem.code
            try:
                raise problem from error
            finally:
                # As in `StreamCall._anew`.
                del problem
        else:
            code = grpc.StatusCode.OK
            return answer
        finally:
            connection.end()
            self._metrics.end(began, code)
            _finish(span, code)


class StreamMethod(Method):
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
        """A call that is begun at once and ends after `timeout` seconds if given."""
        limit = timeout
        if timeout is not None or remaining() is not None:
            limit = timeout_for(timeout if timeout is not None else float("inf"))
        until = None if limit is None else time.monotonic() + limit

        def begin() -> "tuple[Any, Connection]":
            left = None if until is None else max(0.0, until - time.monotonic())
            return self._begin(request, left, metadata, wait_for_ready)

        return StreamCall(self, begin)

    def _begin(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        wait_for_ready: bool | None,  # noqa: FBT001 - as gRPC's stubs take them
    ) -> "tuple[Any, Connection]":
        connection = self._channel.connection
        span, traceparent = self._begin_span()
        began = self._metrics.begin()
        connection.begin()
        try:
            call = self._call(
                connection,
                request,
                timeout=timeout,
                metadata=self._metadata(metadata, traceparent),
                wait_for_ready=wait_for_ready,
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

        connection.carries(call)
        call.add_done_callback(done)
        return call, connection

    def problem(self, error: BaseException, connection: "Connection") -> RemoteProblem:
        """What an error of a call on a connection means.

        Raises:
            BaseException: the error, when it is none of the call's.
        """
        if isinstance(error, grpc.aio.AioRpcError):
            return self._problem(error)
        if isinstance(error, asyncio.CancelledError):
            return self._cut_off(error, connection)
        raise error

    async def may_begin_anew(self, problem: RemoteProblem, waited: float) -> bool:
        """Whether a call that has brought nothing yet is to be made again after `waited` seconds, and now."""
        left = _PATIENCE_SECONDS - waited
        moved = isinstance(problem, ConnectionRenewed) and self._method in self._channel.retryable
        if left <= 0 or self._kind != "unary_stream" or not (moved or self._held_up(problem)):
            return False
        await self._channel.renewed(left)
        return True


class StreamCall:
    """A streaming call that runs: iterate over it, or `read()`; leaving the loop, or `cancel()`, ends it.

    As long as it has brought nothing, it is made again like a unary one. Afterwards whoever reads knows where to go on.
    """

    def __init__(self, method: StreamMethod, begin: "Callable[[], tuple[Any, Connection]]") -> None:
        self._method = method
        self._begin = begin
        self._began = time.monotonic()
        self._brought = False
        self._call, self._connection = begin()

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            while True:
                try:
                    async for message in self._call:
                        self._brought = True
                        yield message
                except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                    await self._anew(error)
                else:
                    return
        finally:
            self._call.cancel()

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""
        while True:
            try:
                message = await self._call.read()
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                await self._anew(error)
            else:
                self._brought = True
                return message

    async def _anew(self, error: BaseException) -> None:
        """Make the call again if it may be; otherwise raise what its error means."""
        problem = self._method.problem(error, self._connection)
        waited = 0.0 if isinstance(problem, ConnectionRenewed) else time.monotonic() - self._began
        try:
            if self._brought or not await self._method.may_begin_anew(problem, waited):
                raise problem from error
        finally:
            # An exception knows this frame, and must not be known by it: the call, and with it its channel, would live
            # on until the garbage is collected.
            del problem
        self._call, self._connection = self._begin()

    async def write(self, request: Any) -> None:
        """Send a message, on a call that streams both ways."""
        await self._mapped(self._call.write(request))

    async def done_writing(self) -> None:
        """Say that no more messages are sent."""
        await self._mapped(self._call.done_writing())

    async def _mapped(self, step: Any) -> Any:
        try:
            return await step
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            raise self._method.problem(error, self._connection) from error

    def cancel(self) -> bool:
        """End the call; answers whether it was still running."""
        return bool(self._call.cancel())

    def done(self) -> bool:
        """Whether the call has ended."""
        return bool(self._call.done())
