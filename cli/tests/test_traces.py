"""Traces from the services' span files: the tree of a person, the JSON of Jaeger."""

import json

import pytest
from almagest_cli import traces

REQUEST = "1" * 32
PROJECTION = "2" * 32
OTHER = "3" * 32


def span(trace, number, *, parent=0, service="gateway", name="step", start=0, end=10, links=(), **more: object):
    return {
        "trace_id": trace,
        "span_id": f"{number:016x}",
        "parent_id": f"{parent:016x}" if parent else "",
        "name": name,
        "kind": "server",
        "service": service,
        "start_ns": 1_700_000_000_000_000_000 + start * 1_000_000,
        "end_ns": 1_700_000_000_000_000_000 + end * 1_000_000,
        "status": "ok",
        "status_message": "",
        "attributes": {},
        "events": [],
        "links": [{"trace_id": to, "span_id": f"{at:016x}"} for to, at in links],
    } | more


@pytest.fixture
def directory(tmp_path):
    """A creation that crossed three services and caused a projection, and an unrelated later request."""
    where = tmp_path / "state" / "traces"
    where.mkdir(parents=True)
    files = {
        "gateway.jsonl": [
            span(REQUEST, 1, name="POST /v1/products", start=0, end=50, attributes={"http.response.status_code": 201}),
            span(REQUEST, 2, parent=1, name="Execute", kind="client", start=2, end=48),
            span(OTHER, 9, name="GET /v1/products", start=500, end=510),
        ],
        "catalog-command.jsonl": [
            span(REQUEST, 3, parent=2, service="catalog-command", name="Execute", start=5, end=45),
            span(REQUEST, 4, parent=3, service="catalog-command", name="Append", kind="client", start=10, end=40),
        ],
        "event-store.jsonl.1": [span(REQUEST, 5, parent=4, service="event-store", name="Append", start=12, end=38)],
        "event-store.jsonl": [
            span(
                REQUEST,
                6,
                parent=5,
                service="event-store",
                name="append_batch",
                start=20,
                end=36,
                status="error",
                status_message="deadlock",
                events=[{"name": "retry", "time_ns": 1_700_000_000_025_000_000, "attributes": {"try": 2}}],
                attributes={"db.system": "postgresql", "rows": 3, "ratio": 0.5, "cached": False, "tables": ["events"]},
            ),
        ],
        "catalog-query.jsonl": [
            span(PROJECTION, 7, service="catalog-query", name="project", start=60, end=70, links=[(REQUEST, 5)]),
            span(PROJECTION, 8, parent=7, service="catalog-query", name="upsert", start=62, end=68),
        ],
    }
    for name, spans in files.items():
        (where / name).write_text("".join(json.dumps(one) + "\n" for one in spans))
    with (where / "worker.jsonl").open("w") as cut_off:
        cut_off.write('{"trace_id": "4')
    return where


def outline(nodes, depth=0):
    return [
        line
        for node in nodes
        for line in [(depth, node.span.service, node.span.name, node.linked), *outline(node.children, depth + 1)]
    ]


def test_a_request_is_one_tree_across_services_with_what_it_caused_below_the_cause(directory):
    """Children stand below their callers; a linked trace stands below the span that it links to, and is marked."""
    assert outline(traces.read(directory).tree(REQUEST)) == [
        (0, "gateway", "POST /v1/products", False),
        (1, "gateway", "Execute", False),
        (2, "catalog-command", "Execute", False),
        (3, "catalog-command", "Append", False),
        (4, "event-store", "Append", False),
        (5, "event-store", "append_batch", False),
        (5, "catalog-query", "project", True),
        (6, "catalog-query", "upsert", False),
    ]


def test_the_last_traces_are_requests_not_what_they_caused(directory):
    """Latest first; a projection is found below its request, not beside it."""
    kept = traces.read(directory)
    assert kept.last(5) == [OTHER, REQUEST]
    assert kept.last(1) == [OTHER]
    assert kept.find("22") == [PROJECTION]
    assert kept.related(REQUEST) == [REQUEST, PROJECTION]


def test_a_span_whose_parent_was_not_kept_stands_at_the_top(directory):
    """A caller's own parent, or one rotated away, does not make its children vanish."""
    (directory / "event-store.jsonl.1").unlink()
    assert (0, "event-store", "append_batch", False) in outline(traces.read(directory).tree(REQUEST))


def test_traces_that_link_to_each_other_end(directory):
    """A circle of links is walked once."""
    (directory / "gateway.jsonl").write_text(
        "".join(
            json.dumps(one) + "\n"
            for one in [span(REQUEST, 1, links=[(OTHER, 9)]), span(OTHER, 9, links=[(REQUEST, 1)])]
        )
    )
    kept = traces.read(directory)
    assert len(outline(kept.tree(REQUEST))) > 1
    assert set(kept.related(OTHER)) >= {REQUEST, OTHER}


def test_jaegers_json_has_every_span_with_references_tags_and_processes(directory):
    """The form that Jaeger's UI opens: microseconds, parents as CHILD_OF, links as FOLLOWS_FROM, typed tags, logs."""
    request, projection = traces.read(directory).jaeger([REQUEST, PROJECTION])["data"]
    assert request["traceID"] == REQUEST
    spans = {one["spanID"]: one for one in request["spans"]}
    assert len(spans) == 6
    assert {process["serviceName"] for process in request["processes"].values()} == {
        "gateway",
        "catalog-command",
        "event-store",
    }
    sql = spans[f"{6:016x}"]
    assert request["processes"][sql["processID"]]["serviceName"] == "event-store"
    assert sql["references"] == [{"refType": "CHILD_OF", "traceID": REQUEST, "spanID": f"{5:016x}"}]
    assert (sql["startTime"], sql["duration"]) == (1_700_000_000_020_000, 16_000)
    assert sql["logs"] == [
        {
            "timestamp": 1_700_000_000_025_000,
            "fields": [
                {"key": "event", "type": "string", "value": "retry"},
                {"key": "try", "type": "int64", "value": 2},
            ],
        }
    ]
    tags = {tag["key"]: (tag["type"], tag["value"]) for tag in sql["tags"]}
    assert tags["rows"] == ("int64", 3)
    assert tags["ratio"] == ("float64", 0.5)
    assert tags["cached"] == ("bool", False)
    assert tags["tables"] == ("string", '["events"]')
    assert tags["error"] == ("bool", True)
    assert tags["span.kind"] == ("string", "server")
    project = next(one for one in projection["spans"] if one["operationName"] == "project")
    assert project["references"] == [{"refType": "FOLLOWS_FROM", "traceID": REQUEST, "spanID": f"{5:016x}"}]


@pytest.mark.usefixtures("directory")
def test_the_command_shows_the_tree_and_writes_the_file(almagest, tmp_path):
    """By the beginning of an id; the file holds the request and what it caused."""
    shown = almagest("trace", "1111")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert f"trace {REQUEST}" in lines[0]
    assert "POST /v1/products 50.0 ms" in lines[1]
    assert "status_code=201" in lines[1]
    assert "later, trace 22222222" in next(line for line in lines if "project" in line)
    assert "deadlock" in shown.out
    file = tmp_path / "jaeger.json"
    assert almagest("trace", REQUEST, "--output", str(file)).code == 0
    assert [one["traceID"] for one in json.loads(file.read_text())["data"]] == [REQUEST, PROJECTION]
    assert almagest("trace", "--last", "2", "--json").json["data"][0]["traceID"] == OTHER


def test_a_trace_that_is_not_kept_says_where_to_look(directory, almagest):
    """An unknown id, an ambiguous one, and an empty directory each say what to do."""
    unknown = almagest("trace", "abc", "--json")
    assert (unknown.code, unknown.out) == (1, "")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in json.loads(unknown.err)["hint"]
    assert "more of its digits" in almagest("trace", "").err
    for file in directory.iterdir():
        file.unlink()
    assert "No traces are kept" in almagest("trace").err
