"""Traces that the services keep as JSON lines when there is no collector: gathered, shown as a tree, written for
Jaeger.

What happens later because of a request (a projection, a job) has a trace of its own that is linked to the span that
caused it. The tree shows those under that span, so that one request is seen with everything that it set off.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True)
class Span:
    """One step of a trace, as the chassis writes it. Times are nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    service: str
    start_ns: int
    end_ns: int
    status: str
    status_message: str
    attributes: Mapping[str, Any]
    events: tuple[Mapping[str, Any], ...]
    links: tuple[tuple[str, str], ...]

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def failed(self) -> bool:
        """Whether it ended in an error."""
        return self.status.upper().endswith("ERROR")


@dataclass(frozen=True)
class Node:
    """A span in the tree.

    Attributes:
        span: the span.
        linked: whether it belongs to another trace, which this place in the tree caused.
        children: what it called, and what it caused, in order of time.
    """

    span: Span
    linked: bool
    children: tuple["Node", ...]


class Traces:
    """All spans that were kept, by trace."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._by_trace: dict[str, dict[str, Span]] = defaultdict(dict)
        self._caused: dict[tuple[str, str], list[Span]] = defaultdict(list)
        for span in spans:
            if span.span_id in self._by_trace[span.trace_id]:
                continue
            self._by_trace[span.trace_id][span.span_id] = span
            for link in span.links:
                if link[0] != span.trace_id:
                    self._caused[link].append(span)

    def last(self, count: int) -> list[str]:
        """The ids of the latest traces that no other trace caused, latest first."""
        starts: list[tuple[int, str]] = []
        for trace_id, spans in self._by_trace.items():
            roots = [span for span in spans.values() if span.parent_id not in spans]
            if not any(link[1] in self._by_trace.get(link[0], ()) for span in spans.values() for link in span.links):
                starts.append((min(span.start_ns for span in roots), trace_id))
        return [trace_id for _, trace_id in sorted(starts, reverse=True)[:count]]

    def find(self, prefix: str) -> list[str]:
        """The ids of the traces that begin so."""
        return sorted(trace_id for trace_id in self._by_trace if trace_id.startswith(prefix.lower()))

    def tree(self, trace_id: str) -> list[Node]:
        """The spans of a trace below their roots, each with what it called and what it caused."""
        return self._roots(self._by_trace.get(trace_id, {}), linked=False, seen={trace_id})

    def related(self, trace_id: str) -> list[str]:
        """The trace, and all that it caused, directly or not."""
        found = [trace_id]
        for one in found:
            spans = self._by_trace.get(one, {})
            for span_id in spans:
                found.extend(
                    span.trace_id for span in self._caused.get((one, span_id), ()) if span.trace_id not in found
                )
        return found

    def jaeger(self, trace_ids: Iterable[str]) -> dict[str, Any]:
        """The traces in the form that Jaeger's UI opens ("JSON file") and its query API answers."""
        return {"data": [self._jaeger_trace(trace_id) for trace_id in trace_ids]}

    def _roots(self, spans: Mapping[str, Span], *, linked: bool, seen: set[str]) -> list[Node]:
        children: dict[str, list[Span]] = defaultdict(list)
        for span in spans.values():
            # One whose parent was not kept, or is the caller's own, stands at the top.
            children[span.parent_id if span.parent_id in spans else ""].append(span)
        return [self._node(span, children, linked=linked, seen=seen) for span in _in_time(children[""])]

    def _node(self, span: Span, children: Mapping[str, list[Span]], *, linked: bool, seen: set[str]) -> Node:
        below = [
            self._node(child, children, linked=False, seen=seen) for child in _in_time(children.get(span.span_id, []))
        ]
        for caused in _in_time(self._caused.get((span.trace_id, span.span_id), [])):
            if caused.trace_id not in seen:
                # A trace that several spans caused is shown once, below the first.
                seen.add(caused.trace_id)
                below.extend(self._roots(self._by_trace[caused.trace_id], linked=True, seen=seen))
        return Node(span=span, linked=linked, children=tuple(sorted(below, key=lambda node: node.span.start_ns)))

    def _jaeger_trace(self, trace_id: str) -> dict[str, Any]:
        spans = _in_time(self._by_trace.get(trace_id, {}).values())
        processes = {
            service: f"p{number}" for number, service in enumerate(sorted({s.service for s in spans}), start=1)
        }
        return {
            "traceID": trace_id,
            "spans": [_jaeger_span(span, processes[span.service]) for span in spans],
            "processes": {key: {"serviceName": service, "tags": []} for service, key in processes.items()},
            "warnings": None,
        }


def read(directory: Path) -> Traces:
    """The spans below a directory: each service's present file and the ones before it. A line cut off by a crash is
    passed over.
    """
    return Traces(span for path in sorted(directory.glob("*.jsonl*")) for span in _spans(path))


def _spans(path: Path) -> Iterator[Span]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                content = orjson.loads(line)
            except ValueError:
                continue
            yield Span(
                trace_id=content["trace_id"],
                span_id=content["span_id"],
                parent_id=content.get("parent_id") or "",
                name=content["name"],
                kind=content.get("kind") or "",
                service=content["service"],
                start_ns=int(content["start_ns"]),
                end_ns=int(content["end_ns"]),
                status=content.get("status") or "",
                status_message=content.get("status_message") or "",
                attributes=content.get("attributes") or {},
                events=tuple(content.get("events") or ()),
                links=tuple((link["trace_id"], link["span_id"]) for link in content.get("links") or ()),
            )


def _in_time(spans: Iterable[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: (span.start_ns, span.span_id))


def _jaeger_span(span: Span, process: str) -> dict[str, Any]:
    tags = [_tag(name, value) for name, value in sorted(span.attributes.items())]
    if kind := re.sub(r".*\.", "", span.kind).lower():
        tags.append(_tag("span.kind", kind))
    if span.status:
        tags.append(_tag("otel.status_code", re.sub(r".*\.", "", span.status).upper()))
    if span.failed:
        tags.append(_tag("error", value=True))
        tags.append(_tag("otel.status_description", span.status_message))
    references = [("CHILD_OF", span.trace_id, span.parent_id)] if span.parent_id else []
    references += [("FOLLOWS_FROM", *link) for link in span.links]
    return {
        "traceID": span.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "references": [{"refType": kind, "traceID": trace, "spanID": parent} for kind, trace, parent in references],
        "startTime": span.start_ns // 1000,
        "duration": max(1, (span.end_ns - span.start_ns) // 1000),
        "tags": tags,
        "logs": [_jaeger_log(event) for event in span.events],
        "processID": process,
        "warnings": None,
    }


def _jaeger_log(event: Mapping[str, Any]) -> dict[str, Any]:
    attributes: Mapping[str, Any] = event.get("attributes") or {}
    fields = [_tag("event", event.get("name", "")), *(_tag(name, value) for name, value in attributes.items())]
    return {"timestamp": int(event.get("time_ns") or 0) // 1000, "fields": fields}


def _tag(name: str, value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"key": name, "type": "bool", "value": value}
        case int():
            return {"key": name, "type": "int64", "value": value}
        case float():
            return {"key": name, "type": "float64", "value": value}
        case str():
            return {"key": name, "type": "string", "value": value}
        case _:
            return {"key": name, "type": "string", "value": orjson.dumps(value).decode()}
