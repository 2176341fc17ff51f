"""Spans that go to a collector, by a real OTLP receiver over gRPC."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from chassis.settings import ServiceSettings
from chassis.telemetry import tracing
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_spans_arrive_at_the_endpoint_that_is_set(tmp_path: Path) -> None:
    """With an endpoint, spans go there under the service's name, and no file is written."""
    received: list[Any] = []

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            received.extend(request.resource_spans)
            return trace_service_pb2.ExportTraceServiceResponse()

    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        settings = ServiceSettings(
            identity_directory=tmp_path, trace_directory=tmp_path / "traces", otlp_endpoint=f"http://127.0.0.1:{port}"
        )
        tracing.configure_tracing(settings, "event-store")
        parent = tracing.context_from(TRACEPARENT)
        tracing.record_span("sql", parent=parent, start_ns=1, end_ns=2)
        tracing.shutdown_tracing()
        server.stop(None).wait()
    (resource,) = received
    names = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert names["service.name"] == "event-store"
    (span,) = resource.scope_spans[0].spans
    assert (span.name, span.trace_id.hex()) == ("sql", TRACEPARENT.split("-")[1])
    assert not (tmp_path / "traces").exists()


def test_a_collector_that_does_not_answer_does_not_keep_a_process_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be sent in the last seconds is given up, else an orderly end would take longer than a pod is given."""
    monkeypatch.setattr(tracing, "_LAST_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracing.configure_tracing(ServiceSettings(identity_directory=tmp_path, otlp_endpoint=endpoint), "event-store")
        parent = tracing.context_from(TRACEPARENT)
        for _ in range(600):
            tracing.record_span("sql", parent=parent, start_ns=1, end_ns=2)
        begun = time.monotonic()
        tracing.shutdown_tracing()
        took = time.monotonic() - begun
    assert took < 8
