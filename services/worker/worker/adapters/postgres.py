"""Jobs in Postgres: the truth.

Every write of a running job names its attempt, and one that is no longer the current one changes nothing
(`LeaseLost`). Time is the
database's own, so that workers need not agree about it.
"""

import uuid
from collections.abc import Sequence

import asyncpg
from almagest.rpc.v1 import problem_pb2
from chassis.database.pool import Database

from worker.adapters.database import connected, transacting
from worker.application.problems import from_message, to_message
from worker.domain.errors import LeaseLost, UploadForgotten
from worker.domain.job import (
    IMPORT,
    Ending,
    Format,
    ImportOptions,
    Job,
    JobState,
    NewJob,
    OnError,
    Problem,
    Progress,
    RefusedRow,
)

_COLUMNS = """job_id, type, name, state, submitted_by, command_id, fingerprint, traceparent, format, on_error, dry_run,
reason,
    bytes_total, bytes_done, lines_done, rows_created, rows_changed, rows_unchanged, rows_refused, consistency_tokens,
    error,
    cancel_requested, attempts, stalls, created_at, started_at, ended_at, revision, source_url, fetched,
    bytes_fetched"""

_SUBMIT = f"""
    INSERT INTO jobs (job_id, type, name, state, submitted_by, command_id, fingerprint, traceparent, format, on_error,
    dry_run, reason,
        bytes_total, source_url, fetched)
    VALUES ($1, '{IMPORT}', $2, 'queued', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12 = '')
    ON CONFLICT (submitted_by, command_id) DO NOTHING
    RETURNING {_COLUMNS}
"""  # noqa: S608 - made of constants
_COMPLETE = "UPDATE job_files SET complete = true, touched_at = now() WHERE job_id = $1 AND NOT complete"
_BY_COMMAND = f"SELECT {_COLUMNS} FROM jobs WHERE submitted_by = $1 AND command_id = $2"  # noqa: S608
_GET = f"SELECT {_COLUMNS} FROM jobs WHERE job_id = $1 AND ($2::text IS NULL OR submitted_by = $2)"  # noqa: S608
_LIST = f"""
    SELECT {_COLUMNS} FROM jobs
    WHERE ($1::text IS NULL OR submitted_by = $1)
        AND ($2::uuid IS NULL OR job_id < $2) AND ($3::text[] IS NULL OR state = ANY ($3))
    ORDER BY job_id DESC LIMIT $4
"""  # noqa: S608
_LIST_OWN = _LIST.replace("($1::text IS NULL OR submitted_by = $1)", "submitted_by = $1")
# A job that waits ends at once; one that runs ends when its worker has noticed.
_CANCEL = f"""
    UPDATE jobs SET
        cancel_requested = true,
        state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END,
        ended_at = CASE state WHEN 'queued' THEN now() ELSE ended_at END,
        revision = revision + 1
    WHERE job_id = $1 AND ($2::text IS NULL OR submitted_by = $2)
        AND state IN ('queued', 'running') AND NOT cancel_requested
    RETURNING {_COLUMNS}
"""  # noqa: S608
_TAKE = """
    state = 'running', attempts = attempts + 1, stalls = stalls + 1, lease_owner = $1,
    lease_expires = now() + make_interval(secs => $2), started_at = coalesce(started_at, now()), revision = revision + 1
"""
_DUE = "((state = 'queued' AND due_at <= now()) OR (state = 'running' AND lease_expires < now()))"
_CLAIM = f"UPDATE jobs SET {_TAKE} WHERE job_id = $3 AND {_DUE} RETURNING {_COLUMNS}"  # noqa: S608
_CLAIM_DUE = f"""
    UPDATE jobs SET {_TAKE} WHERE job_id IN (
        SELECT job_id FROM jobs WHERE {_DUE} ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED
    ) RETURNING {_COLUMNS}
"""  # noqa: S608
_RENEW = """
    UPDATE jobs SET lease_expires = now() + make_interval(secs => $3)
    FROM unnest($1::uuid[], $2::integer[]) AS held (job_id, attempt)
    WHERE jobs.job_id = held.job_id AND jobs.attempts = held.attempt AND jobs.state = 'running'
    RETURNING jobs.job_id, jobs.attempts, jobs.cancel_requested
"""
# Counters are totals, so the same write twice, after a commit whose answer was lost, is the same as once.
_ADVANCE = """
    WITH advanced AS (
        UPDATE jobs SET
            bytes_done = $3, lines_done = $4, rows_created = $5, rows_changed = $6, rows_unchanged = $7, rows_refused =
            $8,
            consistency_tokens = $9, stalls = 0, revision = revision + 1
        WHERE job_id = $1 AND attempts = $2 AND state = 'running'
        RETURNING cancel_requested
    ), reported AS (
        INSERT INTO refused_rows (job_id, line, sku, problem)
        SELECT $1, refused.line, refused.sku, refused.problem
        FROM unnest($10::bigint[], $11::text[], $12::bytea[]) AS refused (line, sku, problem)
        WHERE EXISTS (SELECT FROM advanced)
        ON CONFLICT DO NOTHING
    )
    SELECT cancel_requested FROM advanced
"""
_END = """
    UPDATE jobs SET state = $3, error = $4, ended_at = now(), lease_owner = NULL, lease_expires = NULL,
        revision = revision + 1
    WHERE job_id = $1 AND attempts = $2 AND state = 'running'
"""
_RELEASE = """
    UPDATE jobs SET state = 'queued', due_at = now() + make_interval(secs => $3),
        lease_owner = NULL, lease_expires = NULL,
        stalls = CASE WHEN $4 THEN greatest(stalls - 1, 0) ELSE stalls END, revision = revision + 1
    WHERE job_id = $1 AND attempts = $2 AND state = 'running'
"""
_REFUSED = "SELECT line, sku, problem FROM refused_rows WHERE job_id = $1 AND line > $2 ORDER BY line LIMIT $3"
_FORGET_UPLOADS = "DELETE FROM job_files WHERE NOT complete AND touched_at < now() - make_interval(secs => $1)"
_FORGET_FILES = """
    DELETE FROM job_files USING jobs
    WHERE jobs.job_id = job_files.job_id AND job_files.complete AND jobs.ended_at < now() - make_interval(secs => $1)
"""
_QUEUE = """
    SELECT
        count(*) FILTER (WHERE state = 'queued') AS queued,
        count(*) FILTER (WHERE state = 'running') AS running,
        coalesce(
            extract(epoch FROM now() - min(due_at) FILTER (WHERE state = 'queued' AND due_at <= now())), 0
        )::float8 AS age
    FROM jobs WHERE state IN ('queued', 'running')
"""


class PostgresJobs:
    """Jobs and their reports. `owner` is the submitter who asks, or None for one who may see all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def submit(self, new: NewJob) -> Job | None:
        """Make the job of a file that has come, or is to be fetched; None when its command id is taken.

        Raises:
            UploadForgotten: The sweep has given the upload up.
        """
        async with transacting(self._database) as connection:
            row = await connection.fetchrow(
                _SUBMIT,
                new.job_id,
                new.name,
                new.submitted_by,
                new.command_id,
                new.fingerprint,
                new.traceparent,
                new.options.format.value,
                new.options.on_error.value,
                new.options.dry_run,
                new.options.reason,
                new.bytes_total,
                new.source_url,
            )
            if row is None:
                return None
            if not new.source_url and await connection.execute(_COMPLETE, new.job_id) != "UPDATE 1":
                raise UploadForgotten
        return _job(row)

    async def find_by_command(self, submitted_by: str, command_id: uuid.UUID) -> Job | None:
        """The job that a person's command made, if there is one."""
        return await self._one(_BY_COMMAND, submitted_by, command_id)

    async def find(self, job_id: uuid.UUID, owner: str | None) -> Job | None:
        """A job, if there is one that the owner may see."""
        return await self._one(_GET, job_id, owner)

    async def page(
        self, owner: str | None, *, before: uuid.UUID | None, states: Sequence[JobState], size: int
    ) -> Sequence[Job]:
        """Jobs, latest first."""
        wanted = [state.value for state in states] or None
        async with connected(self._database) as connection:
            rows = await connection.fetch(_LIST if owner is None else _LIST_OWN, owner, before, wanted, size)
        return [_job(row) for row in rows]

    async def request_cancel(self, job_id: uuid.UUID, owner: str | None) -> Job | None:
        """Ask a job to stop, if it has not ended and was not asked before; None: nothing changed."""
        return await self._one(_CANCEL, job_id, owner)

    async def refused_rows(self, job_id: uuid.UUID, *, after_line: int, size: int) -> Sequence[RefusedRow]:
        """A job's report, by line."""
        async with connected(self._database) as connection:
            rows = await connection.fetch(_REFUSED, job_id, after_line, size)
        return [RefusedRow(row["line"], row["sku"], _problem(row["problem"])) for row in rows]

    async def claim(self, job_id: uuid.UUID, *, worker: str, lease_seconds: float) -> Job | None:
        """Take a lease on a job that is due or whose lease has run out; None when it is neither."""
        return await self._one(_CLAIM, worker, lease_seconds, job_id)

    async def claim_due(self, count: int, *, worker: str, lease_seconds: float) -> Sequence[Job]:
        """The same for whatever has been due longest."""
        async with connected(self._database) as connection:
            rows = await connection.fetch(_CLAIM_DUE, worker, lease_seconds, count)
        return [_job(row) for row in rows]

    async def renew(
        self, held: Sequence[tuple[uuid.UUID, int]], *, lease_seconds: float
    ) -> dict[tuple[uuid.UUID, int], bool]:
        """Renew leases. Those that still hold, and whether their job was asked to stop."""
        async with connected(self._database) as connection:
            rows = await connection.fetch(
                _RENEW, [job_id for job_id, _ in held], [attempt for _, attempt in held], lease_seconds
            )
        return {(row["job_id"], row["attempts"]): row["cancel_requested"] for row in rows}

    async def advance(
        self,
        job_id: uuid.UUID,
        attempt: int,
        progress: Progress,
        *,
        refused: Sequence[RefusedRow],
        tokens: Sequence[str],
        ending: Ending | None,
    ) -> bool:
        """Write down how far the attempt is, what it refused, and how the job ended if it did: all or nothing.

        Returns:
            Whether the job was asked to stop.

        Raises:
            LeaseLost: The attempt is no longer the current one.
        """
        values = (
            job_id,
            attempt,
            progress.bytes_done,
            progress.lines_done,
            progress.rows_created,
            progress.rows_changed,
            progress.rows_unchanged,
            progress.rows_refused,
            list(tokens),
            [row.line for row in refused],
            [row.sku for row in refused],
            [to_message(row.problem).SerializeToString() for row in refused],
        )
        if ending is None:
            async with connected(self._database) as connection:
                row = await connection.fetchrow(_ADVANCE, *values)
        else:
            async with transacting(self._database) as connection:
                row = await connection.fetchrow(_ADVANCE, *values)
                if row is not None:
                    await connection.execute(_END, job_id, attempt, ending.state.value, _stored(ending.error))
        if row is None:
            if ending is not None and await self._ended_so(job_id, attempt, ending):
                return False
            raise LeaseLost(job_id, attempt)
        return row["cancel_requested"]

    async def end(self, job_id: uuid.UUID, attempt: int, ending: Ending) -> None:
        """End a job.

        Raises:
            LeaseLost: The attempt is no longer the current one.
        """
        async with connected(self._database) as connection:
            done = await connection.execute(_END, job_id, attempt, ending.state.value, _stored(ending.error))
        if done != "UPDATE 1" and not await self._ended_so(job_id, attempt, ending):
            raise LeaseLost(job_id, attempt)

    async def release(self, job_id: uuid.UUID, attempt: int, *, delay: float, excused: bool) -> bool:
        """Give the job back, due after `delay` seconds; `excused`: the attempt does not count as without progress."""
        async with connected(self._database) as connection:
            return await connection.execute(_RELEASE, job_id, attempt, delay, excused) == "UPDATE 1"

    async def queue(self) -> tuple[int, int, float]:
        """How many jobs wait, how many run, and for how many seconds the one that waits longest has been due."""
        async with connected(self._database) as connection:
            row = await connection.fetchrow(_QUEUE)
        assert row is not None  # noqa: S101 - an aggregate has a row
        return row["queued"], row["running"], row["age"]

    async def forget_files(self, *, uploads_idle: float, retention: float) -> None:
        """Delete uploads that stood still for too long, and the files of jobs that ended long enough ago. Both in
        seconds.
        """
        async with connected(self._database) as connection:
            await connection.execute(_FORGET_UPLOADS, uploads_idle)
            await connection.execute(_FORGET_FILES, retention)

    async def _ended_so(self, job_id: uuid.UUID, attempt: int, ending: Ending) -> bool:
        """Whether this very attempt has ended the job so: the answer was lost, and it is asked again."""
        async with connected(self._database) as connection:
            row = await connection.fetchrow("SELECT attempts, state FROM jobs WHERE job_id = $1", job_id)
        return row is not None and row["attempts"] == attempt and row["state"] == ending.state.value

    async def _one(self, query: str, *values: object) -> Job | None:
        async with connected(self._database) as connection:
            row = await connection.fetchrow(query, *values)
        return None if row is None else _job(row)


def _job(row: asyncpg.Record) -> Job:
    return Job(
        job_id=row["job_id"],
        type=row["type"],
        name=row["name"],
        state=JobState(row["state"]),
        options=ImportOptions(Format(row["format"]), OnError(row["on_error"]), row["dry_run"], row["reason"]),
        progress=Progress(
            bytes_total=row["bytes_total"],
            bytes_done=row["bytes_done"],
            lines_done=row["lines_done"],
            rows_created=row["rows_created"],
            rows_changed=row["rows_changed"],
            rows_unchanged=row["rows_unchanged"],
            rows_refused=row["rows_refused"],
            bytes_fetched=row["bytes_fetched"],
        ),
        submitted_by=row["submitted_by"],
        command_id=row["command_id"],
        fingerprint=row["fingerprint"],
        traceparent=row["traceparent"],
        attempts=row["attempts"],
        stalls=row["stalls"],
        cancel_requested=row["cancel_requested"],
        error=None if row["error"] is None else _problem(row["error"]),
        consistency_tokens=tuple(row["consistency_tokens"]),
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        revision=row["revision"],
        source_url=row["source_url"],
        fetched=row["fetched"],
    )


def _problem(stored: bytes) -> Problem:
    return from_message(problem_pb2.Problem.FromString(stored))


def _stored(problem: Problem | None) -> bytes | None:
    return None if problem is None else to_message(problem).SerializeToString()
