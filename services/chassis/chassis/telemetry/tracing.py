"""One trace per request, in OpenTelemetry's form, kept where somebody looks.

With `OTEL_EXPORTER_OTLP_ENDPOINT` set spans go there by OTLP over gRPC. Without it they go to a file of JSON lines that
`almagest trace` reads. A recorded span costs tens of microseconds in each process, so not every request is recorded: a
token bucket lets a number of new traces a second through. A person at curl always gets one, a load test pays for few. A
trace that was begun elsewhere is continued as it was begun, recorded or not.
"""

import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import orjson
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
)
from opentelemetry.util.types import Attributes, AttributeValue

from chassis.settings import ServiceSettings

TRACEPARENT = "traceparent"
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SPAN_FILE_DELAY_MILLIS = 200
_LAST_SECONDS = 3.0
"""How long what is left is tried to be sent at the end; a pod has ten seconds more than it drains."""


class RateLimitedSampler(Sampler):
    """Samples at most `per_second` new traces a second, with bursts of as many."""

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._capacity = max(per_second, 1.0) if per_second > 0 else 0.0
        self._tokens = self._capacity
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def should_sample(
        self,
        parent_context: Context | None,  # noqa: ARG002 - the sampler's protocol
        trace_id: int,  # noqa: ARG002
        name: str,  # noqa: ARG002
        kind: SpanKind | None = None,  # noqa: ARG002
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,  # noqa: ARG002
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Take a token if there is one."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._rate)
            self._at = now
            if self._tokens >= 1.0:
                self._tokens -= 1.0
                return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, trace_state)
        return SamplingResult(Decision.DROP, None, trace_state)

    def get_description(self) -> str:
        """The sampler's name and rate."""
        return f"RateLimitedSampler({self._rate:g}/s)"


class FileSpanExporter(SpanExporter):
    """Writes one flat JSON object per span to a file, and keeps at most that file and the one before it, each of
    `max_bytes`.
    """

    def __init__(self, path: Path, *, service: str, max_bytes: int = 16 * 1024 * 1024) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._older = path.with_name(path.name + ".1")
        self._service = service
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._file = path.open("ab", buffering=0)
        self._size = self._file.tell()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the spans, whole lines only, rotating when the file would grow over its size."""
        with self._lock:
            if self._file.closed:
                return SpanExportResult.FAILURE
            chunk = bytearray()
            for span in spans:
                line = orjson.dumps(span_line(span, self._service), default=str) + b"\n"
                if self._size + len(chunk) + len(line) > self._max_bytes and self._size + len(chunk):
                    self._write(chunk)
                    chunk = bytearray()
                    self._rotate()
                chunk += line
            self._write(chunk)
        return SpanExportResult.SUCCESS

    def _write(self, chunk: bytearray) -> None:
        if chunk:
            self._file.write(chunk)
            self._size += len(chunk)

    def _rotate(self) -> None:
        self._file.close()
        self._path.replace(self._older)
        self._file = self._path.open("ab", buffering=0)
        self._size = 0

    def shutdown(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the exporter's protocol
        """Nothing waits here."""
        return True


def span_line(span: ReadableSpan, service: str) -> dict[str, object]:
    """A span as the flat object of a line."""
    context = span.get_span_context()
    return {
        "trace_id": f"{context.trace_id:032x}" if context else "",
        "span_id": f"{context.span_id:016x}" if context else "",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else "",
        "name": span.name,
        "kind": span.kind.name.lower(),
        "service": service,
        "start_ns": span.start_time or 0,
        "end_ns": span.end_time or 0,
        "status": span.status.status_code.name.lower(),
        "status_message": span.status.description or "",
        "attributes": dict(span.attributes or {}),
        "events": [
            {"name": event.name, "time_ns": event.timestamp, "attributes": dict(event.attributes or {})}
            for event in span.events
        ],
        "links": [
            {"trace_id": f"{link.context.trace_id:032x}", "span_id": f"{link.context.span_id:016x}"}
            for link in span.links
        ],
    }


class _Tracing:
    """The provider of this process: made once at start, replaced only by tests that run several services in one
    process.
    """

    def __init__(self) -> None:
        self.provider: TracerProvider | None = None
        self.exporter: SpanExporter | None = None
        self.tracer: Tracer = trace.NoOpTracer()


_tracing = _Tracing()


def configure_tracing(settings: ServiceSettings, service: str) -> None:
    """Begin to record spans of `service`, where the settings say; without an endpoint and a directory they are made but
    not kept.
    """
    shutdown_tracing()
    provider = TracerProvider(
        sampler=ParentBased(RateLimitedSampler(settings.trace_rate_per_second)),
        resource=Resource.create({"service.name": service, "service.namespace": "almagest"}),
        shutdown_on_exit=False,
    )
    exporter = _exporter(settings, service)
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_SPAN_FILE_DELAY_MILLIS))
    _tracing.provider, _tracing.exporter = provider, exporter
    _tracing.tracer = provider.get_tracer("almagest")


def _exporter(settings: ServiceSettings, service: str) -> SpanExporter | None:
    if settings.otlp_endpoint:
        # Imported only where it is used: it brings tens of megabytes along.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        insecure = urlsplit(settings.otlp_endpoint).scheme != "https"
        return OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=insecure, timeout=5)
    if settings.trace_directory is not None:
        return FileSpanExporter(
            settings.trace_directory / f"{service}.jsonl", service=service, max_bytes=settings.trace_file_bytes
        )
    return None


def shutdown_tracing() -> None:
    """Send what is left, and stop. Blocks for as long as that takes, so it is the last thing that a process does.

    A collector that is away is waited for by the library for half a minute, and so would be whoever ends the process:
    after a few seconds what is left is given up.
    """
    provider, _tracing.provider = _tracing.provider, None
    exporter, _tracing.exporter = _tracing.exporter, None
    _tracing.tracer = trace.NoOpTracer()
    if provider is None:
        return
    if exporter is None:
        provider.shutdown()
        return
    late = threading.Timer(_LAST_SECONDS, exporter.shutdown)
    late.daemon = True
    late.start()
    provider.shutdown()
    late.cancel()
    late.join()


def flush_tracing(timeout_millis: int = 5_000) -> None:
    """Send what is waiting to be sent. Blocks."""
    if _tracing.provider is not None:
        _tracing.provider.force_flush(timeout_millis)


def tracer() -> Tracer:
    """The tracer of this process. Spans that it starts continue the current one."""
    return _tracing.tracer


def traceparent_of(context: SpanContext) -> str:
    """The W3C `traceparent` of a span; empty when there is none."""
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}"


def inject() -> str:
    """The `traceparent` of the current span; empty when there is none."""
    return traceparent_of(trace.get_current_span().get_span_context())


def unrecorded() -> str:
    """The `traceparent` of a new trace that nobody records."""
    return f"00-{random.getrandbits(128) | 1:032x}-{random.getrandbits(64) | 1:016x}-00"


def span_context_from(traceparent: str) -> SpanContext | None:
    """The span that a `traceparent` names; None when it is empty or not valid, as W3C Trace Context asks to restart
    then.
    """
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or (match[1] == "00" and match[5]):
        return None
    context = SpanContext(
        trace_id=int(match[2], 16),
        span_id=int(match[3], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match[4], 16) & 1),
    )
    return context if context.is_valid else None


def context_from(traceparent: str) -> Context:
    """An OpenTelemetry context in which spans continue the one that a `traceparent` names; an empty one when it names
    none.
    """
    span_context = span_context_from(traceparent)
    if span_context is None:
        return Context()
    return trace.set_span_in_context(NonRecordingSpan(span_context), Context())


def link_to(traceparent: str) -> Link | None:
    """A link to the span that a `traceparent` names."""
    span_context = span_context_from(traceparent)
    return None if span_context is None else Link(span_context)


def record_span(
    name: str,
    *,
    parent: Context,
    start_ns: int,
    end_ns: int,
    attributes: Mapping[str, AttributeValue] | None = None,
    links: Sequence[Link] = (),
    kind: SpanKind = SpanKind.INTERNAL,
    error: str | None = None,
) -> str:
    """Record a span after the fact, for work that was done for many requests at once. Times are `time.time_ns()`.

    Nothing is done when the parent is not recorded. Answers the new span's `traceparent`, empty if there is none.
    """
    if not trace.get_current_span(parent).get_span_context().trace_flags.sampled:
        return ""
    span = _tracing.tracer.start_span(
        name, context=parent, kind=kind, attributes=attributes, links=links, start_time=start_ns
    )
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(end_ns)
    return traceparent_of(span.get_span_context())


def continue_trace(traceparent: str, name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]) -> trace.Span:
    """Begin a span below the one that a `traceparent` names, and make it current for the rest of this task.

    When that trace is not recorded, no span is made, and the one named stands for it: a fraction of the cost.
    """
    span_context = span_context_from(traceparent)
    if span_context is None:
        span = _tracing.tracer.start_span(name, context=Context(), kind=kind, attributes=attributes)
    else:
        span = NonRecordingSpan(span_context)
        if span_context.trace_flags.sampled:
            parent = trace.set_span_in_context(span, Context())
            span = _tracing.tracer.start_span(name, context=parent, kind=kind, attributes=attributes)
    make_current(span)
    return span


def make_current(span: trace.Span) -> None:
    """Make a span the current one for the rest of this task, which must end with it."""
    otel_context.attach(trace.set_span_in_context(span))
