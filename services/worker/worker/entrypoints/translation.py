"""Between the wire and what the use cases take."""

import base64
import re
import uuid
from collections.abc import Iterable
from datetime import datetime

from almagest.jobs.v1 import jobs_pb2
from chassis.errors import InvalidRequest
from chassis.telemetry.tracing import span_context_from
from google.protobuf.timestamp_pb2 import Timestamp

from worker.application.problems import to_message
from worker.application.submit import NewImport
from worker.domain.job import Format, ImportOptions, Job, JobState, OnError, RefusedRow

MAXIMUM_NAME = 200
MAXIMUM_REASON = 500

_FORMATS = {jobs_pb2.IMPORT_FORMAT_NDJSON: Format.NDJSON, jobs_pb2.IMPORT_FORMAT_CSV: Format.CSV}
_FORMAT_NUMBERS = {value: number for number, value in _FORMATS.items()}
_ON_ERROR = {
    jobs_pb2.ON_ERROR_UNSPECIFIED: OnError.STOP,
    jobs_pb2.ON_ERROR_STOP: OnError.STOP,
    jobs_pb2.ON_ERROR_SKIP: OnError.SKIP,
}
_ON_ERROR_NUMBERS = {OnError.STOP: jobs_pb2.ON_ERROR_STOP, OnError.SKIP: jobs_pb2.ON_ERROR_SKIP}
_STATE_NUMBERS = {
    JobState.QUEUED: jobs_pb2.JOB_STATE_QUEUED,
    JobState.RUNNING: jobs_pb2.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: jobs_pb2.JOB_STATE_SUCCEEDED,
    JobState.FAILED: jobs_pb2.JOB_STATE_FAILED,
    JobState.CANCELLED: jobs_pb2.JOB_STATE_CANCELLED,
}
_STATES: dict[int, JobState] = {int(number): state for state, number in _STATE_NUMBERS.items()}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UUID = "must be a UUID, for example 0198c5a2-7c1e-7000-8000-0123456789ab"


def new_import(header: jobs_pb2.ImportHeader, *, submitted_by: str, traceparent: str) -> NewImport:
    """What the header of an upload announces.

    Raises:
        InvalidRequest: Fields are wrong; all of them are named.
    """
    wrong: list[tuple[str, str]] = []
    options = header.options
    command_id = _uuid(header.command_id, "header.command_id", wrong)
    if options.format not in _FORMATS:
        wrong.append(("header.options.format", "must be NDJSON or CSV"))
    if options.on_error not in _ON_ERROR:
        wrong.append(("header.options.on_error", "must be stop or skip"))
    if len(header.name) > MAXIMUM_NAME or _CONTROL.search(header.name):
        wrong.append(("header.name", f"must have at most {MAXIMUM_NAME} characters, none of them control characters"))
    if len(options.reason) > MAXIMUM_REASON or _CONTROL.search(options.reason):
        wrong.append(
            ("header.options.reason", f"must have at most {MAXIMUM_REASON} characters, none of them control characters")
        )
    if header.source_url and header.HasField("size_bytes"):
        wrong.append(("header.size_bytes", "is not for a file that is fetched"))
    if wrong or command_id is None:
        raise InvalidRequest(wrong)
    return NewImport(
        command_id=command_id,
        name=header.name,
        options=ImportOptions(
            format=_FORMATS[options.format],
            on_error=_ON_ERROR[options.on_error],
            dry_run=options.dry_run,
            reason=options.reason,
        ),
        size=header.size_bytes if header.HasField("size_bytes") else None,
        submitted_by=submitted_by,
        traceparent=traceparent,
        source_url=header.source_url,
    )


def job_id_of(text: str) -> uuid.UUID:
    """The job id of a request.

    Raises:
        InvalidRequest: It is none.
    """
    wrong: list[tuple[str, str]] = []
    job_id = _uuid(text, "job_id", wrong)
    if job_id is None:
        raise InvalidRequest(wrong)
    return job_id


def states_of(numbers: Iterable[int]) -> list[JobState]:
    """The states of a request.

    Raises:
        InvalidRequest: One is unknown.
    """
    try:
        return [_STATES[number] for number in numbers]
    except KeyError:
        raise InvalidRequest([("states", "must be states of a job")]) from None


def page_size_of(asked: int, *, usual: int, maximum: int) -> int:
    """How many to answer.

    Raises:
        InvalidRequest: More than the maximum.
    """
    if asked > maximum:
        raise InvalidRequest([("page_size", f"must be 1 to {maximum}, or 0 for {usual}")])
    return asked or usual


def page_token(position: bytes) -> str:
    """A token for what comes behind a position."""
    return base64.urlsafe_b64encode(position).decode().rstrip("=")


def position_of(token: str, length: int) -> bytes | None:
    """The position that a token stands for; None for the first page.

    Raises:
        InvalidRequest: It is no token of ours.
    """
    if not token:
        return None
    try:
        position = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        position = b""
    if len(position) != length:
        raise InvalidRequest([("page_token", "must be the next_page_token of the page before")])
    return position


def job_message(job: Job) -> jobs_pb2.Job:
    """A job as the wire has it."""
    span = span_context_from(job.traceparent)
    progress = job.progress
    return jobs_pb2.Job(
        job_id=str(job.job_id),
        type=job.type,
        name=job.name,
        state=_STATE_NUMBERS[job.state],
        progress=jobs_pb2.ImportProgress(
            bytes_total=progress.bytes_total,
            bytes_done=progress.bytes_done,
            rows_done=progress.rows_done,
            rows_created=progress.rows_created,
            rows_changed=progress.rows_changed,
            rows_unchanged=progress.rows_unchanged,
            rows_refused=progress.rows_refused,
            bytes_fetched=progress.bytes_fetched,
        ),
        options=jobs_pb2.ImportOptions(
            format=_FORMAT_NUMBERS[job.options.format],
            on_error=_ON_ERROR_NUMBERS[job.options.on_error],
            dry_run=job.options.dry_run,
            reason=job.options.reason,
        ),
        submitted_by=job.submitted_by,
        attempts=job.attempts,
        created_at=_timestamp(job.created_at),
        started_at=_timestamp(job.started_at),
        ended_at=_timestamp(job.ended_at),
        error=None if job.error is None else to_message(job.error),
        cancel_requested=job.cancel_requested,
        consistency_tokens=job.consistency_tokens,
        trace_id="" if span is None else f"{span.trace_id:032x}",
        revision=job.revision,
        source_url=job.source_url.partition("?")[0],
    )


def refused_message(row: RefusedRow) -> jobs_pb2.RefusedRow:
    """A refused row as the wire has it."""
    return jobs_pb2.RefusedRow(line=row.line, sku=row.sku, problem=to_message(row.problem))


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _uuid(text: str, field: str, wrong: list[tuple[str, str]]) -> uuid.UUID | None:
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != text.lower():
        wrong.append((field, _UUID))
        return None
    return parsed
