"""People from before their names and addresses were sealed, and the way back.

A plain value and its sealed one change places in one statement per batch, so that at no moment either is missing, and
what breaks off goes on where it ended. Old versions of the rows still lie in the table's files then, until VACUUM FULL
writes the table anew.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from uuid import UUID

from chassis.sealing.columns import column_context
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auth.adapters.data_keys import DataKeys
from auth.domain.identifiers import bucket_in

_BATCH = 500
FIELDS = ("email", "first_name", "last_name")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something is that is done in batches."""

    step: str
    total: int
    done: int


async def seal_people(
    engines: Sequence[AsyncEngine], keys: DataKeys, *, batch: int = _BATCH
) -> AsyncGenerator[Progress]:
    """Seal everybody who is not sealed yet. Ids and shards stay."""
    step = "sealing people"
    total, done = await _count(engines, "sealed_email IS NULL"), 0
    yield Progress(step, total, done)
    for engine in engines:
        while sealed := await _seal_some(engine, keys, batch):
            done += sealed
            yield Progress(step, max(total, done), done)


async def open_people(
    engines: Sequence[AsyncEngine], keys: DataKeys, *, batch: int = _BATCH
) -> AsyncGenerator[Progress]:
    """Put everybody into the plain columns again, for a version that knows no others."""
    step = "opening people"
    total, done = await _count(engines, "email IS NULL"), 0
    yield Progress(step, total, done)
    for engine in engines:
        while opened := await _open_some(engine, keys, batch):
            done += opened
            yield Progress(step, max(total, done), done)


async def some_unsealed(engines: Sequence[AsyncEngine]) -> bool:
    """Whether there is somebody who is not sealed yet."""
    present = text(
        "SELECT EXISTS (SELECT FROM information_schema.columns WHERE table_name = 'users' AND column_name = 'email')"
    )
    for engine in engines:
        async with engine.connect() as connection:
            if not await connection.scalar(present):
                return False
    return await _count(engines, "sealed_email IS NULL") > 0


async def rewritten(engines: Sequence[AsyncEngine]) -> None:
    """Leave no old version of a row in the files of the tables."""
    for engine in engines:
        async with engine.connect() as connection:
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await alone.execute(text("VACUUM (FULL, ANALYZE) users"))


async def _count(engines: Sequence[AsyncEngine], criterion: str) -> int:
    total = 0
    for engine in engines:
        async with engine.connect() as connection:
            found = await connection.scalar(text(f"SELECT count(*) FROM users WHERE {criterion}"))  # noqa: S608 - our own words
            total += found or 0
    return total


async def _seal_some(engine: AsyncEngine, keys: DataKeys, batch: int) -> int:
    async with engine.begin() as connection:
        rows = await _some(connection, "sealed_email IS NULL", FIELDS, batch)
        if not rows:
            return 0
        sealed = {
            field: [
                keys.ring.seal(getattr(row, field).encode(), context=column_context("users", field, row.id))
                for row in rows
            ]
            for field in FIELDS
        }
        await connection.execute(_exchange("sealed_", "bytea", cleared=""), {"ids": [row.id for row in rows], **sealed})
        # The bucket of these people is in their ids, which others know: it stays, and is told apart from those that
        # are made with a key.
        entries = [
            (entry.value, row.id, entry.key_id)
            for row in rows
            for entry in keys.entries(row.email, bucket=bucket_in(row.id))
        ]
        await connection.execute(
            text(
                "INSERT INTO email_indexes (value, user_id, key_id, unkeyed) SELECT *, true"
                " FROM unnest(CAST(:values AS bytea[]), CAST(:users AS uuid[]), CAST(:keys AS bytea[]))"
            ),
            dict(zip(("values", "users", "keys"), map(list, zip(*entries, strict=True)), strict=True)),
        )
        return len(rows)


async def _open_some(engine: AsyncEngine, keys: DataKeys, batch: int) -> int:
    async with engine.begin() as connection:
        rows = await _some(connection, "email IS NULL", [f"sealed_{field}" for field in FIELDS], batch)
        if not rows:
            return 0
        opened = {
            field: [
                keys.ring.open(getattr(row, f"sealed_{field}"), context=column_context("users", field, row.id)).decode()
                for row in rows
            ]
            for field in FIELDS
        }
        ids: list[UUID] = [row.id for row in rows]
        await connection.execute(_exchange("", "text", cleared="sealed_"), {"ids": ids, **opened})
        await connection.execute(
            text("DELETE FROM email_indexes WHERE user_id = ANY(CAST(:ids AS uuid[]))"), {"ids": ids}
        )
        return len(rows)


async def _some(
    connection: AsyncConnection, criterion: str, columns: Sequence[str], batch: int
) -> Sequence[Row[tuple[object, ...]]]:
    wanted = f"SELECT id, {', '.join(columns)} FROM users WHERE {criterion} ORDER BY id LIMIT :batch FOR UPDATE"  # noqa: S608 - our own words
    return (await connection.execute(text(wanted), {"batch": batch})).all()


def _exchange(prefix: str, kind: str, *, cleared: str) -> TextClause:
    changes = ", ".join(f"{prefix}{field} = given.{field}, {cleared}{field} = NULL" for field in FIELDS)
    given = ", ".join(f"CAST(:{field} AS {kind}[])" for field in FIELDS)
    return text(
        f"UPDATE users SET {changes} FROM unnest(CAST(:ids AS uuid[]), {given})"  # noqa: S608 - our own words
        f" AS given (id, {', '.join(FIELDS)}) WHERE users.id = given.id"
    )
