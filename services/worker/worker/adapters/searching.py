"""Uploaded files are searched over the borders of the pieces that they are kept in."""

import uuid
from collections.abc import AsyncGenerator

from chassis.database.pool import Database
from chassis.searching.needles import Found, Needles

from worker.adapters.database import connected

_FIRST = uuid.UUID(int=0)
_NEXT = "SELECT job_id FROM job_files WHERE job_id > $1 ORDER BY job_id LIMIT 1"
_PIECE = "SELECT data FROM job_file_chunks WHERE job_id = $1 AND number = $2"


async def search_uploads(database: Database, needles: Needles) -> AsyncGenerator[Found]:
    """Search all files that are kept, and tell how far it is, in files. Each counts once."""
    async with connected(database) as connection:
        found = Found("uploaded files", total=await connection.fetchval("SELECT count(*) FROM job_files"))
    yield found
    job_id: uuid.UUID | None = _FIRST
    while True:
        async with connected(database) as connection:
            job_id = await connection.fetchval(_NEXT, job_id)
        if job_id is None:
            break
        one, tail, number = Found("", total=1), b"", 0
        while not one.findings:
            async with connected(database) as connection:
                piece = await connection.fetchval(_PIECE, job_id, number)
            if piece is None:
                break
            needles.count(tail + piece, one)
            tail, number = piece[-needles.longest :], number + 1
        found.findings += bool(one.findings)
        found.mentions += bool(one.mentions) and not one.findings
        found.searched = min(found.total, found.searched + 1)
        yield found
    found.searched = found.total
    yield found
