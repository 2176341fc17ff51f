"""Uploaded files in Postgres, in chunks of one size, so that any offset is found by division.

Chunks are stored as they come, in statements of their own: a transaction that waits for a client's network would hold
a connection and the
clean-up of the whole database for as long as the client likes. Nobody sees a file before its job is committed; one
that is broken off is deleted at
once, and if its worker died, by the sweep.
"""

import uuid

from chassis.database.pool import Database

from worker.adapters.database import connected, transacting
from worker.domain.errors import LeaseLost, UploadForgotten

CHUNK_BYTES = 256 * 1024

_STORE = """
    WITH touched AS (UPDATE job_files SET touched_at = now() WHERE job_id = $1 AND NOT complete RETURNING job_id)
    INSERT INTO job_file_chunks (job_id, number, data) SELECT job_id, $2, $3 FROM touched
"""

_RESTARTED = """
    UPDATE jobs SET bytes_fetched = 0, revision = revision + 1
    WHERE job_id = $1 AND attempts = $2 AND state = 'running' AND NOT fetched
"""
# The update locks the row of the job: an attempt that has been overtaken writes nothing any more.
_KEEP = """
    WITH held AS (
        UPDATE jobs SET bytes_fetched = $5, revision = revision + 1
        WHERE job_id = $1 AND attempts = $2 AND state = 'running' RETURNING cancel_requested
    ), touched AS (
        UPDATE job_files SET touched_at = now()
        WHERE job_id = $1 AND NOT complete AND EXISTS (SELECT FROM held) RETURNING job_id
    ), kept AS (
        INSERT INTO job_file_chunks (job_id, number, data) SELECT job_id, $3, $4 FROM touched ON CONFLICT DO NOTHING
    )
    SELECT cancel_requested, EXISTS (SELECT FROM touched) AS there FROM held
"""
_FETCHED = """
    UPDATE jobs SET fetched = true, bytes_total = $3, bytes_fetched = $3, revision = revision + 1
    WHERE job_id = $1 AND attempts = $2 AND state = 'running'
"""
_COMPLETE = "UPDATE job_files SET complete = true, touched_at = now() WHERE job_id = $1"


class PostgresFiles:
    """Files by the id of their job."""

    chunk_bytes = CHUNK_BYTES

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, job_id: uuid.UUID) -> None:
        """Make room for a file that is coming."""
        async with connected(self._database) as connection:
            await connection.execute("INSERT INTO job_files (job_id) VALUES ($1)", job_id)

    async def store(self, job_id: uuid.UUID, number: int, data: bytes) -> None:
        """Store a chunk; all but the last are `CHUNK_BYTES` long.

        Raises:
            UploadForgotten: The sweep has given the upload up.
        """
        async with connected(self._database) as connection:
            if await connection.execute(_STORE, job_id, number, data) != "INSERT 0 1":
                raise UploadForgotten

    async def discard(self, job_id: uuid.UUID) -> None:
        """Delete a file whose job has not been submitted."""
        async with connected(self._database) as connection:
            await connection.execute("DELETE FROM job_files WHERE job_id = $1 AND NOT complete", job_id)

    async def restart(self, job_id: uuid.UUID, attempt: int) -> None:
        """Make room for a file that an attempt is about to fetch; what another had fetched of it is gone.

        Raises:
            LeaseLost: The attempt is no longer the current one.
        """
        async with transacting(self._database) as connection:
            if await connection.execute(_RESTARTED, job_id, attempt) != "UPDATE 1":
                raise LeaseLost(job_id, attempt)
            await connection.execute("DELETE FROM job_files WHERE job_id = $1 AND NOT complete", job_id)
            await connection.execute("INSERT INTO job_files (job_id) VALUES ($1)", job_id)

    async def keep(self, job_id: uuid.UUID, attempt: int, number: int, data: bytes, *, fetched: int) -> bool:
        """Store a chunk of a file that an attempt fetches, and how many bytes are there with it.

        Returns:
            Whether the job was asked to stop.

        Raises:
            LeaseLost: The attempt is no longer the current one.
            UploadForgotten: The sweep has given the file up.
        """
        async with connected(self._database) as connection:
            row = await connection.fetchrow(_KEEP, job_id, attempt, number, data, fetched)
        if row is None:
            raise LeaseLost(job_id, attempt)
        if not row["there"]:
            raise UploadForgotten
        return row["cancel_requested"]

    async def complete(self, job_id: uuid.UUID, attempt: int, *, size: int) -> None:
        """The file is there: from now on it is the job's, whoever runs it.

        Raises:
            LeaseLost: The attempt is no longer the current one.
            UploadForgotten: The sweep has given the file up.
        """
        async with transacting(self._database) as connection:
            if await connection.execute(_FETCHED, job_id, attempt, size) != "UPDATE 1":
                raise LeaseLost(job_id, attempt)
            if await connection.execute(_COMPLETE, job_id) != "UPDATE 1":
                raise UploadForgotten

    async def chunk(self, job_id: uuid.UUID, number: int) -> bytes | None:
        """One chunk; None behind the last."""
        async with connected(self._database) as connection:
            return await connection.fetchval(
                "SELECT data FROM job_file_chunks WHERE job_id = $1 AND number = $2", job_id, number
            )
