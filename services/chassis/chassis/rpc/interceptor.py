"""The door of every service: one interceptor that each RPC passes, in this order.

The caller's certificate, the policy of the method, the deadline, the person's transaction token and its scopes; then
the use case; then its error through the service's table. Span, metrics and access log go around it all. Each handler of
`grpc.aio` runs in a task of its own, so what is set in context variables here ends with the call and is never reset.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import grpc
import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from chassis import policy as policies
from chassis.caller import ADDRESS_KEY, AGENT_KEY, current_caller, set_caller, set_origin
from chassis.deadlines import set_deadline
from chassis.errors import (
    STATUS_DETAILS_KEY,
    ErrorTable,
    InvalidRequest,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    status_of,
)
from chassis.identity.denials import DenyList
from chassis.policy import Person, Policy, Rule
from chassis.refusals import REASONS, Refusals
from chassis.revocations import Revocation
from chassis.rpc.connections import Connections, address_of
from chassis.rpc.peer import Peers
from chassis.telemetry import tracing
from chassis.telemetry.metrics import SERVER, RpcMetrics
from chassis.tokens import METADATA_KEY, Claims, TokenVerifier, accept_tokens_of, revoked, set_person

_SLOW_SECONDS = 1.0
_CODES = {code.value[0]: code for code in grpc.StatusCode}
# What is wrong with the server, as OpenTelemetry's conventions for RPC servers have it. A caller that was refused is no
# error of the one who refused.
_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)

_access = structlog.stdlib.get_logger("chassis.access")
_access_level = logging.getLogger("chassis.access")

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:  # generic for the type checker only
    Context = Handler = Any


class ChassisInterceptor(grpc.aio.ServerInterceptor):
    """Admits, measures and answers for every RPC of a server."""

    def __init__(
        self,
        *,
        trust_domain: str,
        policy: Policy,
        verifier: TokenVerifier,
        errors: ErrorTable,
        denials: DenyList | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._refusals = refusals or Refusals()
        self._trust_domain = trust_domain
        self._policy = policy
        self._verifier = verifier
        self._errors = errors
        denials = denials or DenyList()
        self._peers = Peers(denials)
        self.connections = Connections(denials)
        self._handlers: dict[str, Handler] = {}
        self._endless: set[asyncio.Task[Any]] = set()
        self._streams: dict[asyncio.Task[Any], Claims] = {}
        self._revoked: set[asyncio.Task[Any]] = set()
        self._draining = False
        verifier.revocations.listen(self._heard)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler of a method, inside its door. Doors are built once per method."""
        method = handler_call_details.method
        guarded = self._handlers.get(method)
        if guarded is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                # gRPC answers UNIMPLEMENTED.
                return None
            guarded = self._handlers[method] = _Door(self, method, self._policy.get(method), handler).handler()
        return guarded

    def drain(self) -> None:
        """End the streams that would never end by themselves, so that their callers go elsewhere, and refuse new
        ones.
        """
        self._draining = True
        for task in list(self._endless):
            task.cancel()

    async def admit(
        self, context: Context, metadata: dict[str, Any], rule: Rule | None, *, method: str, streaming: bool
    ) -> None:
        """Let a call pass, with its caller, deadline and person set for the rest of its task, or raise."""
        peer = self._peers.identify(context.auth_context())
        self.connections.entered(asyncio.current_task(), peer, address_of(context.peer()), streaming=streaming)
        caller = peer.spiffe_id
        if (
            rule is None
            or caller.trust_domain != self._trust_domain
            or not (caller.service in rule.callers or policies.ANY_WORKLOAD in rule.callers)
        ):
            raise PermissionDenied("The calling workload may not call this method.", reason="CALLER_NOT_ALLOWED")
        set_caller(caller, method)
        if ADDRESS_KEY in metadata or AGENT_KEY in metadata:
            set_origin(str(metadata.get(ADDRESS_KEY, "")), str(metadata.get(AGENT_KEY, "")))
        left: Any = context.time_remaining()  # None, whatever the stubs say, when there is no deadline
        if left is None:
            if not streaming:
                raise InvalidRequest((), "A unary call needs a deadline.", reason="DEADLINE_REQUIRED")
            if self._draining:
                raise Unavailable("The service is shutting down.", reason="DRAINING", retry_after=0.1)
        set_deadline(left)
        if rule.tokens_of:
            accept_tokens_of(rule.tokens_of)
        if rule.person is Person.REQUIRED:
            await self._admit_person(metadata.get(METADATA_KEY, ""), rule, streaming=streaming)
        if left is None:
            task = asyncio.current_task()
            if task is not None:
                self._endless.add(task)
                task.add_done_callback(self._endless.discard)

    async def _admit_person(self, token: str, rule: Rule, *, streaming: bool) -> None:
        claims = await self._verifier.verify(token)
        claims.require(*rule.scopes)
        set_person(claims)
        if streaming:
            self._on_behalf_of(claims)

    def _on_behalf_of(self, claims: Claims) -> None:
        """A stream was admitted by a token, which may be revoked before the stream has ended."""
        task = asyncio.current_task()
        if task is not None:
            self._streams[task] = claims
            task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[Any]) -> None:
        self._streams.pop(task, None)
        self._revoked.discard(task)

    def _heard(self, _revocation: Revocation) -> None:
        """End the streams of tokens that are good no more."""
        for task, claims in list(self._streams.items()):
            if task not in self._revoked and self._verifier.revocations.covers(claims):
                self._revoked.add(task)
                task.cancel()

    def ended(self, task: asyncio.Task[Any]) -> Exception | None:
        """Why we have cancelled a call ourselves."""
        if task in self._revoked:
            return revoked()
        if (reason := self.connections.why_ended(task)) is not None:
            return reason
        if self._draining:
            return Unavailable("The service is shutting down.", reason="DRAINING", retry_after=0.1)
        return None

    def refused(self, error: Exception, method: str, context: Context) -> None:
        """Count an answer that no workload in order gets. Tokens are counted where they are verified."""
        if isinstance(error, Unauthenticated | PermissionDenied) and error.reason in REASONS:
            self._refusals.add(self._peers.name(context.auth_context()), method, error.reason)

    def problem(self, error: Exception) -> tuple[grpc.StatusCode, str, bytes]:
        """What a failed call answers: code, message, and the serialized `google.rpc.Status`."""
        problem = self._errors.problem(error)
        return _CODES[problem.code], problem.message, status_of(problem).SerializeToString()


class _Malformed:
    """What arrived in place of a request: bytes that are no such message."""


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """A deserializer that leaves it to the door to refuse.

    gRPC deserializes before any of our code runs, and answers what fails there with UNKNOWN and the name of the
    exception, to whoever called.
    """
    if deserialize is None:
        return None

    def lenient(body: bytes) -> Any:
        try:
            return deserialize(body)
        except Exception:  # noqa: BLE001 - it is answered in the door, once it is known who calls
            return _Malformed()

    return lenient


def _well_formed(request: Any) -> Any:
    """The request, once it is known to be one; the messages of a stream are looked at as they are taken."""
    if isinstance(request, _Malformed):
        raise InvalidRequest((), "The request is not a valid message of this method.", reason="REQUEST_MALFORMED")
    return _each_well_formed(cast("AsyncIterable[Any]", request)) if isinstance(request, AsyncIterable) else request


async def _each_well_formed(messages: AsyncIterable[Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield _well_formed(message)


class _Call:
    """One call on its way through a door: what is around the use case."""

    __slots__ = ("_began", "_code", "_context", "_door", "_metadata", "_span")

    def __init__(self, door: "_Door", context: Context) -> None:
        self._door = door
        self._context = context
        self._metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        self._code = grpc.StatusCode.OK
        self._began = door.metrics.begin()
        self._span = tracing.continue_trace(
            self._metadata.get(tracing.TRACEPARENT, ""), door.span_name, SpanKind.SERVER, door.attributes
        )

    async def admit(self) -> None:
        door = self._door
        await door.interceptor.admit(
            self._context, self._metadata, door.rule, method=door.span_name, streaming=door.streaming
        )

    async def fail(self, error: BaseException) -> None:
        """Answer an exception of the use case; returns when it must be raised as it is."""
        if isinstance(error, grpc.aio.AbortError):
            self._code = _as_code(self._context.code())
            return
        if isinstance(error, asyncio.CancelledError):
            self._code = grpc.StatusCode.CANCELLED
            task = asyncio.current_task()
            reason = None if task is None or self._context.cancelled() else self._door.interceptor.ended(task)
            if task is None or reason is None:
                return
            task.uncancel()
            error = reason
        if not isinstance(error, Exception):
            self._code = grpc.StatusCode.UNKNOWN
            return
        if isinstance(error, NotImplementedError):
            self._code = grpc.StatusCode.UNIMPLEMENTED
            await self._context.abort(self._code, "The method is not implemented.")
        if self._span.is_recording():
            self._span.record_exception(error)
        self._door.interceptor.refused(error, self._door.span_name, self._context)
        self._code, message, details = self._door.interceptor.problem(error)
        await self._context.abort(self._code, message, ((STATUS_DETAILS_KEY, details),))

    def end(self) -> None:
        code = self._code
        self._door.interceptor.connections.left(asyncio.current_task())
        seconds = self._door.metrics.end(self._began, code)
        span = self._span
        recorded = span.is_recording()
        if recorded:
            span.set_attribute("rpc.grpc.status_code", code.value[0])
            if code in _FAULTS:
                span.set_status(Status(StatusCode.ERROR, code.name))
        # Every failed, slow or traced call has its line; the others only when somebody debugs, since a line costs as
        # much as a small call.
        if recorded or code is not grpc.StatusCode.OK or seconds > _SLOW_SECONDS:
            _access.info("rpc", method=self._door.method, code=code.name, seconds=round(seconds, 6), caller=_caller())
        elif _access_level.isEnabledFor(logging.DEBUG):
            _access.debug("rpc", method=self._door.method, code=code.name, seconds=round(seconds, 6), caller=_caller())
        if recorded:
            span.end()


def _caller() -> str:
    try:
        return str(current_caller())
    except LookupError:
        return ""


def _as_code(code: Any) -> grpc.StatusCode:
    return code if isinstance(code, grpc.StatusCode) else _CODES.get(code, grpc.StatusCode.UNKNOWN)


class _Door:
    """The door of one method: what is known before any call, and the four shapes of handlers."""

    def __init__(self, interceptor: ChassisInterceptor, method: str, rule: Rule | None, handler: Handler) -> None:
        self.interceptor = interceptor
        self.method = method
        self.rule = rule
        self.span_name = method.lstrip("/")
        service, _, name = self.span_name.partition("/")
        self.attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        self.metrics = RpcMetrics(SERVER, method)
        self.streaming = bool(handler.request_streaming or handler.response_streaming)
        self._handler = handler

    def handler(self) -> Handler:
        """The handler of gRPC that goes through this door."""
        inner = self._handler
        serializers = {
            "request_deserializer": _lenient(inner.request_deserializer),
            "response_serializer": inner.response_serializer,
        }
        if inner.response_streaming:
            behaviour: Any = inner.stream_stream if inner.request_streaming else inner.unary_stream
            # gRPC tells generators, which yield their answers, from coroutines, which write them to the context.
            guarded = (
                self._generator(behaviour) if inspect.isasyncgenfunction(behaviour) else self._coroutine(behaviour)
            )
            make = (
                grpc.stream_stream_rpc_method_handler
                if inner.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(guarded, **serializers)
        if inner.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._coroutine(inner.stream_unary), **serializers)
        return grpc.unary_unary_rpc_method_handler(self._coroutine(inner.unary_unary), **serializers)

    def _coroutine(self, behaviour: Any) -> Any:
        async def guarded(request: Any, context: Context) -> Any:
            call = _Call(self, context)
            try:
                await call.admit()
                answer = behaviour(_well_formed(request), context)
                return await answer if inspect.isawaitable(answer) else answer
            except BaseException as error:
                await call.fail(error)
                raise
            finally:
                call.end()

        return guarded

    def _generator(self, behaviour: Any) -> Any:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            call = _Call(self, context)
            answers: Any = None
            try:
                await call.admit()
                answers = behaviour(_well_formed(request), context)
                async for answer in answers:
                    yield answer
            except GeneratorExit:
                raise
            except BaseException as error:
                await call.fail(error)
                raise
            finally:
                if answers is not None:
                    await answers.aclose()
                call.end()

        return guarded


def trace_id() -> str:
    """The trace id of the present call, for answers that name it; empty when there is none."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""
