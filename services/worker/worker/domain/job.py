"""A job: what was asked for, how far it is, how it ended.

The row in Postgres is the truth, and every change of a running job carries the number of the attempt (the fencing
number) that makes it: a worker
that was paused and comes back finds that its number is no longer the current one.
"""

import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

IMPORT = "import"
"""The type of an import."""


class JobState(enum.StrEnum):
    """Where a job stands. The values are the storage format."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Nothing changes after this."""
        return self in _ENDED


_ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Format(enum.StrEnum):
    """How a file is written."""

    NDJSON = "ndjson"
    CSV = "csv"


class OnError(enum.StrEnum):
    """What an import does about a row that is refused."""

    STOP = "stop"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import."""

    format: Format
    on_error: OnError = OnError.STOP
    dry_run: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something was refused: the fields of `almagest.rpc.v1.Problem`, as plain data."""

    code: int
    reason: str
    message: str
    violations: tuple[tuple[str, str], ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that was not imported: its line from 1, its SKU when it could be read, and why."""

    line: int
    sku: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import is.

    `bytes_done` and `lines_done` are also the place where another attempt goes on: everything before them has taken
    effect and is counted. `bytes_total` is not known while a file is being fetched.
    """

    bytes_total: int
    bytes_done: int = 0
    lines_done: int = 0
    rows_created: int = 0
    rows_changed: int = 0
    rows_unchanged: int = 0
    rows_refused: int = 0
    bytes_fetched: int = 0

    @property
    def rows_done(self) -> int:
        """Rows dealt with."""
        return self.rows_created + self.rows_changed + self.rows_unchanged + self.rows_refused


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its row tells it."""

    job_id: uuid.UUID
    type: str
    name: str
    state: JobState
    options: ImportOptions
    progress: Progress
    submitted_by: str
    command_id: uuid.UUID
    fingerprint: bytes
    traceparent: str
    attempts: int
    stalls: int
    cancel_requested: bool
    error: Problem | None
    consistency_tokens: tuple[str, ...]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    revision: int
    source_url: str = ""
    fetched: bool = True


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that is being submitted."""

    job_id: uuid.UUID
    name: str
    options: ImportOptions
    submitted_by: str
    command_id: uuid.UUID
    fingerprint: bytes
    traceparent: str
    bytes_total: int
    source_url: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ends a job."""

    state: JobState
    error: Problem | None = None
