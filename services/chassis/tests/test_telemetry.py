"""Logs without secrets, spans in bounded files, traces that are continued."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from chassis.settings import ServiceSettings
from chassis.telemetry import tracing
from chassis.telemetry.logging import REDACTED, redacted
from chassis.telemetry.tracing import FileSpanExporter, RateLimitedSampler
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_secrets_are_redacted_at_any_depth() -> None:
    """By the name of the key, whatever its case and surroundings; other values stay."""
    event = {
        "user": {"Email": "a@example.org", "name": "Anna", "tokens": [{"refresh_token": "r"}, {"kind": "x"}]},
        "headers": [{"Authorization": "Bearer t", "accept": "json"}],
        "database_dsn": "postgresql://u:p@h/d",
    }
    assert redacted(event) == {
        "user": {"Email": REDACTED, "name": "Anna", "tokens": REDACTED},
        "headers": [{"Authorization": REDACTED, "accept": "json"}],
        "database_dsn": REDACTED,
    }


@dataclass(frozen=True)
class _Person:
    email: str
    first_name: str
    number: int


def test_persons_are_redacted_in_texts_and_objects() -> None:
    """Addresses in the midst of exceptions and URLs, names by their keys, dataclasses that JSON would write out."""
    assert redacted("no such user ada.lovelace+x@mail.example.org, try again") == f"no such user {REDACTED}, try again"
    assert redacted({"path": "/v1/users?email=ada%40example.org&x=1"}) == {"path": f"/v1/users?email={REDACTED}&x=1"}
    assert redacted([{"person": _Person("a@example.org", "Ada", 7)}]) == [
        {"person": {"email": REDACTED, "first_name": REDACTED, "number": 7}}
    ]
    assert redacted("a @ b, and 12 @ 3 euros each") == "a @ b, and 12 @ 3 euros each"
    assert redacted({"full_name": "Ada Lovelace", "name": "Lamp"}) == {"full_name": REDACTED, "name": "Lamp"}


_PERSONS = """
import logging, structlog
from dataclasses import dataclass
from almagest.auth.v1 import auth_pb2
from chassis.telemetry.logging import configure_logging
configure_logging("auth", "INFO")
log = structlog.stdlib.get_logger("ours")
@dataclass
class User:
    email: str
    first_name: str
user = User("ada@example.org", "Augusta")
log.info("made", user=user, users=[user], by_id={1: user})
log.info("message", user=auth_pb2.User(email="ada@example.org", first_name="Augusta"))
log.info("a letter to ada@example.org", odd=Exception("ada@example.org"))
logging.getLogger("theirs").warning("user %s", "ada@example.org")
try:
    raise LookupError("ada@example.org")
except LookupError:
    log.exception("failed")
"""


def test_no_line_shows_a_person() -> None:
    """Whatever of them is logged, by us or by a library, with a traceback or without."""
    done = subprocess.run([sys.executable, "-c", _PERSONS], capture_output=True, check=True)
    assert len(done.stderr.splitlines()) == 5
    assert b"ada@" not in done.stderr
    assert b"Augusta" not in done.stderr
    assert b"LookupError" in done.stderr


_LOGGING = """
import logging, structlog
from chassis.telemetry.logging import configure_logging
from chassis.telemetry import tracing
from chassis.settings import ServiceSettings
from pathlib import Path
configure_logging("event-store", "INFO")
tracing.configure_tracing(ServiceSettings(identity_directory=Path(".")), "event-store")
log = structlog.stdlib.get_logger("ours")
with tracing.tracer().start_as_current_span("x", context=tracing.context_from("%s")):
    log.info("signed in", password="hunter2", person={"email": "a@example.org"}, n=1)
log.debug("too much")
logging.getLogger("theirs").warning("a %%s thing", "strange")
try:
    raise ValueError("broken")
except ValueError:
    log.exception("failed")
"""


def test_lines_are_json_with_trace_ids_and_without_secrets() -> None:
    """From structlog and from the standard library alike, on stderr, one object a line, nothing on stdout."""
    done = subprocess.run([sys.executable, "-c", _LOGGING % TRACEPARENT], capture_output=True, check=True)
    assert done.stdout == b""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["signed in", "a strange thing", "failed"]
    assert lines[0]["trace_id"] == TRACEPARENT.split("-")[1]
    assert (lines[0]["password"], lines[0]["person"], lines[0]["n"]) == (REDACTED, {"email": REDACTED}, 1)
    assert all(line["service"] == "event-store" and line["timestamp"] for line in lines)
    assert "ValueError: broken" in lines[2]["exception"]
    assert b"hunter2" not in done.stderr


_POOL = """
import asyncio
from chassis.database.engine import create_engine
from chassis.telemetry.logging import configure_logging
configure_logging("event-store", "INFO")
asyncio.run(create_engine("postgresql://nobody@127.0.0.1:1/nothing", name="events_0", size=2).dispose())
"""


def test_the_end_of_a_pool_is_no_news() -> None:
    """What SQLAlchemy says of its pools stays out of the log."""
    done = subprocess.run([sys.executable, "-c", _POOL], capture_output=True, check=True)
    assert done.stderr == b""


def _spans(exporter: FileSpanExporter, count: int) -> None:
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for number in range(count):
        provider.get_tracer("t").start_span(f"span {number}", context=Context(), attributes={"n": number}).end()
    provider.shutdown()


def test_span_files_are_bounded_and_keep_the_latest(tmp_path: Path) -> None:
    """Whatever is written, two files of the given size remain, of whole lines, with the latest spans in them."""
    path = tmp_path / "gateway.jsonl"
    _spans(FileSpanExporter(path, service="gateway", max_bytes=4096), 200)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["gateway.jsonl", "gateway.jsonl.1"]
    assert all(file.stat().st_size <= 4096 for file in files)
    kept = [
        orjson.loads(line)["attributes"]["n"] for file in reversed(files) for line in file.read_bytes().splitlines()
    ]
    assert kept == list(range(200 - len(kept), 200))
    _spans(FileSpanExporter(path, service="gateway", max_bytes=4096), 1)
    assert path.stat().st_size <= 4096


def test_a_span_line_holds_what_the_reader_wants(tmp_path: Path) -> None:
    """The fields of a line, with a link and an event."""
    path = tmp_path / "s.jsonl"
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(FileSpanExporter(path, service="worker")))
    link = tracing.link_to(TRACEPARENT)
    assert link is not None
    span = provider.get_tracer("t").start_span("run", context=tracing.context_from(TRACEPARENT), links=[link])
    span.add_event("began", {"n": 1})
    span.end()
    provider.shutdown()
    line: dict[str, Any] = orjson.loads(path.read_bytes())
    assert set(line) == {
        "trace_id", "span_id", "parent_id", "name", "kind", "service", "start_ns", "end_ns",
        "status", "status_message", "attributes", "events", "links",
    }  # fmt: skip
    _, trace_id, parent, _ = TRACEPARENT.split("-")
    assert (line["trace_id"], line["parent_id"], line["service"]) == (trace_id, parent, "worker")
    assert line["links"] == [{"trace_id": trace_id, "span_id": parent}]
    assert line["events"][0]["name"] == "began"


def test_new_traces_are_limited_and_continued_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst passes up to the rate, then nothing until time has passed."""
    now = 0.0
    # Not the function itself, by which the event loop of all tests goes.
    monkeypatch.setattr("chassis.telemetry.tracing.time", SimpleNamespace(monotonic=lambda: now))
    sampler = RateLimitedSampler(5)

    def sampled() -> int:
        return sum(sampler.should_sample(None, 1, "x").decision.is_sampled() for _ in range(100))

    assert sampled() == 5
    assert sampled() == 0
    now = 1.0
    assert sampled() == 5
    now = 100.0
    assert sampled() == 5
    assert RateLimitedSampler(0).should_sample(None, 1, "x").decision.is_sampled() is False


@given(st.one_of(st.text(), st.from_regex(r"00-[0-9a-f]{30,34}-[0-9a-f]{14,18}-[0-9a-f]{2}", fullmatch=True)))
def test_any_text_in_place_of_a_traceparent_is_harmless(text: str) -> None:
    """What is not valid starts anew; what is valid comes out as it went in."""
    context = tracing.span_context_from(text)
    if context is not None:
        assert tracing.traceparent_of(context).split("-")[1:3] == text.split("-")[1:3]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        TRACEPARENT + "-more",
        TRACEPARENT + "\n",
    ],
)
def test_an_invalid_traceparent_names_no_span(text: str) -> None:
    """As W3C Trace Context says."""
    assert tracing.span_context_from(text) is None
    assert tracing.link_to(text) is None


def test_work_done_for_many_is_recorded_under_those_that_are_recorded(tmp_path: Path) -> None:
    """`record_span` writes a span for a recorded parent and does nothing for another."""
    settings = ServiceSettings(identity_directory=tmp_path, trace_directory=tmp_path)
    tracing.configure_tracing(settings, "event-store")
    unrecorded = TRACEPARENT[:-2] + "00"
    assert tracing.record_span("sql", parent=tracing.context_from(unrecorded), start_ns=1, end_ns=2) == ""
    made = tracing.record_span("sql", parent=tracing.context_from(TRACEPARENT), start_ns=1, end_ns=2, error="late")
    tracing.shutdown_tracing()
    (line,) = [orjson.loads(line) for line in (tmp_path / "event-store.jsonl").read_bytes().splitlines()]
    assert (line["start_ns"], line["end_ns"], line["status"], line["status_message"]) == (1, 2, "error", "late")
    assert made.split("-")[1:3] == [line["trace_id"], line["span_id"]]
