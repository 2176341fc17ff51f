"""What can be seen of appends: spans for those that are traced, metrics for all."""

import asyncio
import json

import httpx
from chassis.telemetry.tracing import flush_tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


async def spans_of(directory, trace):
    """The spans of a trace, by name."""
    await asyncio.to_thread(flush_tracing)
    lines = [json.loads(line) for path in directory.glob("*.jsonl") for line in path.read_text().splitlines()]
    return {line["name"]: line for line in lines if line["trace_id"] == trace}


async def test_a_traced_append_shows_its_stream_and_its_sql(databases, replica, tmp_path):
    """`append <stream>` continues the item's own trace, and the batch's statement is its child; an untraced neighbour
    leaves nothing.
    """
    async with replica(databases, trace_directory=tmp_path, trace_rate_per_second=0.0) as store:
        item = store.command.item
        traced, silent = store.command.stream(), store.command.stream()
        await store.command.appended(
            *(item(store.command.stream()) for _ in range(10)),
            item(traced, traceparent=f"00-{TRACE}-{PARENT}-01"),
            item(silent, traceparent=f"00-{TRACE[::-1]}-{PARENT}-00"),
        )
        spans = await spans_of(tmp_path, TRACE)
        assert set(spans) == {f"append {traced}", "append_batch"}
        append, batch = spans[f"append {traced}"], spans["append_batch"]
        assert append["parent_id"] == PARENT
        assert append["attributes"]["almagest.outcome"] == "appended"
        assert batch["parent_id"] == append["span_id"]
        assert batch["attributes"]["db.system"] == "postgresql"
        assert 1 <= batch["attributes"]["db.operation.batch.size"] <= 12
        assert append["start_ns"] <= batch["start_ns"] <= batch["end_ns"] <= append["end_ns"]
        assert await spans_of(tmp_path, TRACE[::-1]) == {}


async def test_a_traced_conflict_is_an_error_span(databases, replica, tmp_path):
    """With the name of what went wrong."""
    async with replica(databases, trace_directory=tmp_path, trace_rate_per_second=0.0) as store:
        stream = store.command.stream()
        await store.command.append(store.command.item(stream, expected=4, traceparent=f"00-{TRACE}-{PARENT}-01"))
        span = (await spans_of(tmp_path, TRACE))[f"append {stream}"]
        assert (span["status"], span["attributes"]["almagest.outcome"]) == ("error", "RevisionConflict")


async def test_the_metrics_tell_what_happened(store):
    """Outcomes, events, batch sizes, queue and heads per shard, on the HTTP side."""

    async def sample(name, **labels):
        async with httpx.AsyncClient() as http:
            text = (await http.get(f"http://127.0.0.1:{store.http_port}/metrics")).text
        total = 0.0
        for line in text.splitlines():
            if line.partition("{")[0] == name and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total

    async def all_samples():
        return [
            await sample("almagest_event_store_appends_total", outcome="appended"),
            await sample("almagest_event_store_appends_total", outcome="replayed"),
            await sample("almagest_event_store_appends_total", outcome="RevisionConflict"),
            await sample("almagest_event_store_events_total"),
            await sample("almagest_event_store_batch_appends_sum"),
        ]

    before = await all_samples()
    item = store.command.item(store.command.stream(), 3)
    first, *_ = await store.command.append(item, item, store.command.item(store.command.stream(), expected=9))
    after = await all_samples()
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 3, 3]
    assert await sample("almagest_event_store_head", shard=first.appended.position.shard) == 3
    assert await sample("almagest_event_store_queued_appends") == 0


async def test_readiness_asks_every_shard(store):
    """Ready when all databases answer."""
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"http://127.0.0.1:{store.http_port}/readyz")).status_code == 200
        assert (await http.get(f"http://127.0.0.1:{store.http_port}/livez")).status_code == 200
