"""One request is one trace: received as a collector would receive it, from every service."""

import os
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from harness.door import Door
from harness.running import running_system
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """What Jaeger does with OTLP, as far as a test cares: it keeps the spans, by service."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self._changed = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:
        with self._changed:
            for resource in request.resource_spans:
                names = {item.key: item.value.string_value for item in resource.resource.attributes}
                self.spans += [(names["service.name"], span) for scope in resource.scope_spans for span in scope.spans]
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, found: Any, *, within: float = 30) -> Any:
        """What `found(spans)` answers, once that is something."""
        deadline = time.monotonic() + within
        with self._changed:
            while not (result := found(self.spans)):
                if not self._changed.wait(deadline - time.monotonic()):
                    seen = sorted({(service, span.name) for service, span in self.spans})
                    raise TimeoutError(f"not received within {within} s; received: {seen}")
            return result


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, str]]:
    server = grpc.server(ThreadPoolExecutor(4))
    receiver = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield receiver, f"http://127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: tuple[Collector, str]) -> Iterator[Door]:
    """A system that sends its traces to the collector."""
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector[1]
    try:
        with running_system(tmp_path_factory.mktemp("traced")) as system, Door.to(system) as door:
            yield door
    finally:
        del os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]


def test_creating_a_product_is_one_trace_from_the_door_to_the_database(
    traced: Door, collector: tuple[Collector, str]
) -> None:
    """Gateway, catalog-command, event-store and its SQL are in the caller's trace, each below the one before; the projection is linked to it."""
    receiver, _ = collector
    trace_id = secrets.token_hex(16)
    parent_id = secrets.token_hex(8)
    response = traced.call(
        "POST",
        "/v1/products",
        json={
            "sku": "TRACED-1",
            "kind": "general",
            "name": "A product with a past",
            "category": "traced",
            "attributes": {"brand": "Hipparchus"},
        },
        headers={"traceparent": f"00-{trace_id}-{parent_id}-01"},
    )
    assert response.status_code == 201, response.text
    assert response.headers["Trace-Id"] == trace_id

    def complete(spans: list[tuple[str, Span]]) -> Any:
        ours = [(service, span) for service, span in spans if span.trace_id.hex() == trace_id]
        linked = [
            span
            for service, span in spans
            if service == "catalog-query" and trace_id in {link.trace_id.hex() for link in span.links}
        ]
        path = _path_from_the_database(ours, to=parent_id)
        return (ours, path) if path and linked else None

    ours, path = receiver.wait_for(complete)

    assert path == ["event-store", "catalog-command", "gateway"]
    assert not [span.name for _, span in ours if span.status.code == span.status.STATUS_CODE_ERROR]


def _path_from_the_database(spans: list[tuple[str, Span]], *, to: str) -> list[str]:
    """The services on the way from the SQL up to the caller's span; empty while a span of the way is still missing."""
    by_id = {span.span_id: (service, span) for service, span in spans}
    sql = (
        span for service, span in spans if service == "event-store" and _attribute(span, "db.system") == "postgresql"
    )
    above = next((("event-store", span) for span in sql), None)
    path: list[str] = []
    while above is not None:
        service, span = above
        if path[-1:] != [service]:
            path.append(service)
        if span.parent_span_id.hex() == to:
            return path
        above = by_id.get(span.parent_span_id)
    return []


def _attribute(span: Span, name: str) -> str:
    """An attribute under its old or its present name (`db.system` became `db.system.name`)."""
    return next((item.value.string_value for item in span.attributes if item.key in {name, f"{name}.name"}), "")
