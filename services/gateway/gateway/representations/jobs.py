"""Jobs and their reports."""

from datetime import datetime
from typing import Annotated, Any

from almagest.jobs.v1 import jobs_pb2
from pydantic import Field

from gateway import types
from gateway.representations.shapes import ItemProblem, Shape, at, item_problem, maybe


class Progress(Shape):
    """How far an import is."""

    bytes_total: int
    bytes_done: int
    rows_done: int
    rows_created: int
    rows_changed: int
    rows_unchanged: int
    rows_refused: int
    bytes_fetched: Annotated[
        int, Field(description="How much of a file has been fetched; `bytes_total` is told once all of it is there.")
    ]


class ImportOptions(Shape):
    """How to import."""

    format: types.ImportFormat
    on_error: types.OnError
    dry_run: bool
    reason: str | None


class Job(Shape):
    """A piece of work."""

    job_id: types.Uuid
    type: Annotated[str, Field(examples=["import"])]
    name: str | None
    state: types.JobState
    progress: Progress
    options: ImportOptions
    submitted_by: types.Uuid
    attempts: Annotated[int, Field(description="How often a worker has begun it.")]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error: ItemProblem | None
    cancel_requested: bool
    consistency_tokens: Annotated[list[str], Field(description="For reads that must see all that it wrote.")]
    trace_id: str | None
    revision: types.Revision
    source_url: Annotated[
        str | None, Field(description="Where the file was to be fetched from, without its query; null: it was sent.")
    ]


class JobPage(Shape):
    """Jobs, latest first."""

    items: list[Job]
    next_cursor: str | None


STATES = {
    "queued": jobs_pb2.JOB_STATE_QUEUED,
    "running": jobs_pb2.JOB_STATE_RUNNING,
    "succeeded": jobs_pb2.JOB_STATE_SUCCEEDED,
    "failed": jobs_pb2.JOB_STATE_FAILED,
    "cancelled": jobs_pb2.JOB_STATE_CANCELLED,
}


_STATE_NAMES = {number: name for name, number in STATES.items()}


ENDED = frozenset({jobs_pb2.JOB_STATE_SUCCEEDED, jobs_pb2.JOB_STATE_FAILED, jobs_pb2.JOB_STATE_CANCELLED})


FORMATS = {
    "ndjson": jobs_pb2.IMPORT_FORMAT_NDJSON,
    "csv": jobs_pb2.IMPORT_FORMAT_CSV,
}


_FORMAT_NAMES = {number: name for name, number in FORMATS.items()}


def job(message: jobs_pb2.Job) -> dict[str, Any]:
    """A job as the worker tells it."""
    progress, options = message.progress, message.options
    return {
        "job_id": message.job_id,
        "type": message.type,
        "name": message.name or None,
        "state": _STATE_NAMES.get(message.state, "queued"),
        "progress": {name: getattr(progress, name) for name in Progress.model_fields},
        "options": {
            "format": _FORMAT_NAMES.get(options.format, "ndjson"),
            "on_error": "skip" if options.on_error == jobs_pb2.ON_ERROR_SKIP else "stop",
            "dry_run": options.dry_run,
            "reason": options.reason or None,
        },
        "submitted_by": message.submitted_by,
        "attempts": message.attempts,
        "created_at": at(message.created_at),
        "started_at": maybe(message, "started_at"),
        "ended_at": maybe(message, "ended_at"),
        "error": item_problem(message.error) if message.HasField("error") else None,
        "cancel_requested": message.cancel_requested,
        "consistency_tokens": list(message.consistency_tokens),
        "trace_id": message.trace_id or None,
        "revision": message.revision,
        "source_url": message.source_url or None,
    }


class RefusedRow(Shape):
    """A row that was not imported."""

    line: Annotated[int, Field(description="From 1; in CSV the header is line 1.")]
    sku: str | None
    problem: ItemProblem


class RefusedPage(Shape):
    """Refused rows, by line."""

    items: list[RefusedRow]
    next_cursor: str | None


def refused_row(message: jobs_pb2.RefusedRow) -> dict[str, Any]:
    """A row of an import's report."""
    return {"line": message.line, "sku": message.sku or None, "problem": item_problem(message.problem)}
