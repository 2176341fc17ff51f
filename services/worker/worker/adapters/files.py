"""Uploaded files in Postgres, in chunks of one size, so that any offset is found by division.

Chunks are stored as they come, in statements of their own: a transaction that waits for a client's network would hold
a connection and the
clean-up of the whole database for as long as the client likes. Nobody sees a file before its job is committed; one
that is broken off is deleted at
once, and if its worker died, by the sweep.
"""

import uuid

from chassis.database.pool import Database

from worker.adapters.database import connected
from worker.domain.errors import UploadForgotten

CHUNK_BYTES = 256 * 1024

_STORE = """
    WITH touched AS (UPDATE job_files SET touched_at = now() WHERE job_id = $1 AND NOT complete RETURNING job_id)
    INSERT INTO job_file_chunks (job_id, number, data) SELECT job_id, $2, $3 FROM touched
"""


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

    async def chunk(self, job_id: uuid.UUID, number: int) -> bytes | None:
        """One chunk; None behind the last."""
        async with connected(self._database) as connection:
            return await connection.fetchval(
                "SELECT data FROM job_file_chunks WHERE job_id = $1 AND number = $2", job_id, number
            )
