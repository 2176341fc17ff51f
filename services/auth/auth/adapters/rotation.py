"""New keys for what is sealed, while everything goes on.

Each step is found again in the database, so that a rotation that breaks off goes on where it was: a key is `next`,
`active` or `retired`, and a row is sealed with this key or with that. Rows are done in bounded batches, each a
transaction of its own that holds only its rows. Between a change of keys and the steps that rely on it lies the time in
which every replica reads the keys anew (`settle`).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from chassis.sealing.columns import column_context
from chassis.sealing.subjects import wrapping_context as subject_context
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auth.adapters.data_keys import DataKeys, Purpose, State, wrapping_context
from auth.adapters.sealed_tables import DataKeyRow
from auth.adapters.sealing import KeyEncryptionKey
from auth.adapters.sealing_people import FIELDS, Progress
from auth.domain.errors import RotationRunning
from auth.domain.identifiers import bucket_in

_LOCK = 0x616C6D61_726F7461  # "almarota": one rotation at a time
_BATCH = 500
_FIRST = UUID(int=0)


class Keys(StrEnum):
    """What is rotated."""

    COLUMNS = "columns"
    INDEX = "index"
    WRAPPING = "wrapping"
    ALL = "all"


class _Wrapped(NamedTuple):
    """A column of secrets that are sealed under the key-encryption key."""

    table: str
    keys: tuple[str, ...]
    column: str
    context: Callable[[Mapping[str, Any]], str]


def _of_data_key(row: Mapping[str, Any]) -> str:
    return wrapping_context(Purpose(row["purpose"]), row["key_id"])


def _of_subject(row: Mapping[str, Any]) -> str:
    return subject_context(row["subject_id"])


def _named(kind: str, column: str) -> Callable[[Mapping[str, Any]], str]:
    def context(row: Mapping[str, Any]) -> str:
        return f"{kind} {row[column]}"

    return context


WRAPPED = (
    _Wrapped("data_keys", ("key_id", "purpose"), "wrapped", _of_data_key),
    _Wrapped("subject_keys", ("subject_id",), "wrapped", _of_subject),
    _Wrapped("signing_keys", ("kid",), "sealed_private_key", _named("signing key", "kid")),
    _Wrapped("payload_keys", ("kid",), "sealed_private_key", _named("payload key", "kid")),
    _Wrapped("access_keys", ("id",), "sealed_secret", _named("access key", "id")),
    _Wrapped("erasures", ("user_id",), "sealed_terms", _named("erasure", "user_id")),
)
"""All that is sealed under the key-encryption key; a test compares it with the columns of the databases."""


class Rotation:
    """Rotates the keys of all shards."""

    def __init__(
        self,
        engines: Sequence[AsyncEngine],
        keys: DataKeys,
        key_encryption_key: KeyEncryptionKey,
        *,
        clock: Callable[[], datetime],
        settle: timedelta,
        batch: int = _BATCH,
    ) -> None:
        self._engines = engines
        self._keys = keys
        self._key_encryption_key = key_encryption_key
        self._clock = clock
        self._settle = settle
        self._batch = batch

    async def run(self, which: Keys) -> AsyncGenerator[Progress]:
        """Rotate, and tell how far it is.

        Raises:
            RotationRunning: one at a time.
        """
        steps = {
            Keys.WRAPPING: self._wrap_anew,
            Keys.COLUMNS: self._seal_columns_anew,
            Keys.INDEX: self._index_anew,
        }
        async with self._alone():
            for keys, step in steps.items():
                if which in {keys, Keys.ALL}:
                    async with aclosing(step()) as told:
                        async for progress in told:
                            yield progress

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None]:
        """A lock for as long as it runs. A connection of its own holds it, so that it goes when the process does."""
        async with self._engines[0].connect() as connection:
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            if not await alone.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}):
                raise RotationRunning
            try:
                yield
            finally:
                await alone.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})

    async def _seal_columns_anew(self) -> AsyncGenerator[Progress]:
        async for progress in self._introduce(Purpose.COLUMNS):
            yield progress
        await self._promote(Purpose.COLUMNS)
        async for progress in self._wait_for(Purpose.COLUMNS, State.ACTIVE):
            yield progress
        active = self._keys.ring.primary.id
        async for progress in self._over_people(
            "sealing names and addresses anew", _NOT_SEALED_WITH, active, self._seal
        ):
            yield progress
        await self._destroy_unused(Purpose.COLUMNS, _SOMEBODY_SEALED_WITH)

    async def _index_anew(self) -> AsyncGenerator[Progress]:
        async for progress in self._introduce(Purpose.EMAIL_INDEX):
            yield progress
        async with self._keys.exclusively() as session:
            keys = await self._keys.of(session, Purpose.EMAIL_INDEX)
        newest = keys.get(State.NEXT, keys[State.ACTIVE])
        async for progress in self._over_people(
            "indexing addresses anew", _NOT_INDEXED_WITH, newest.key_id, self._index
        ):
            yield progress
        await self._promote(Purpose.EMAIL_INDEX)
        async for progress in self._wait_for(Purpose.EMAIL_INDEX, State.ACTIVE):
            yield progress
        async with self._keys.exclusively() as session:
            retired = await self._keys.retired(session, Purpose.EMAIL_INDEX)
        for key in retired:
            for engine in self._engines:
                await self._batches(engine, _FORGET_ENTRIES, {"key": key.key_id})
        # An address that is blocked after its person was forgotten cannot be indexed anew by anybody: its key stays.
        await self._destroy_unused(Purpose.EMAIL_INDEX, "SELECT EXISTS (SELECT FROM email_indexes WHERE key_id = :key)")

    async def _introduce(self, purpose: Purpose) -> AsyncGenerator[Progress]:
        """Have a next key that every replica knows, unless an earlier rotation is to be finished first."""
        async with self._keys.exclusively() as session:
            present = await self._keys.of(session, purpose)
            unfinished = [key for key in await self._keys.retired(session, purpose) if await self._holds_people(key)]
            if State.NEXT not in present and not unfinished:
                await self._keys.add(session, purpose, State.NEXT)
        async for progress in self._wait_for(purpose, State.NEXT):
            yield progress

    async def _promote(self, purpose: Purpose) -> None:
        async with self._keys.exclusively() as session:
            keys = await self._keys.of(session, purpose)
            if State.NEXT in keys:
                # Retired first: the database knows that only one key is active at any moment.
                await self._keys.move(session, keys[State.ACTIVE], State.RETIRED)
                await self._keys.move(session, keys[State.NEXT], State.ACTIVE)

    async def _wait_for(self, purpose: Purpose, state: State) -> AsyncGenerator[Progress]:
        """Wait until every replica has read of the last change."""
        async with self._keys.exclusively() as session:
            key = (await self._keys.of(session, purpose)).get(state)
        if key is not None:
            step = f"waiting until every replica knows the {state} key"
            total = int(self._settle.total_seconds())
            while (left := (key.changed_at + self._settle - self._clock()).total_seconds()) > 0:
                yield Progress(step, total, max(0, total - int(left) - 1))
                await asyncio.sleep(min(left, 1.0))
            yield Progress(step, total, total)
        await self._keys.read()

    async def _over_people(
        self, step: str, criterion: str, key_id: bytes, change: Callable[[AsyncConnection, Sequence[Any]], Any]
    ) -> AsyncGenerator[Progress]:
        """Change everybody who meets a criterion, in batches, until nobody does."""
        total, done = 0, 0
        count = text(f"SELECT count(*) FROM users WHERE {criterion}")  # noqa: S608 - our own words
        for engine in self._engines:
            async with engine.connect() as connection:
                total += await connection.scalar(count, {"key": key_id}) or 0
        yield Progress(step, total, done)
        some = text(
            f"SELECT id, {', '.join(f'sealed_{field}' for field in FIELDS)} FROM users"  # noqa: S608 - our own words
            f" WHERE id > :after AND {criterion} ORDER BY id LIMIT :batch FOR UPDATE"
        )
        for engine in self._engines:
            after, found = _FIRST, True
            while found or after != _FIRST:
                # From the start once more when the end is reached: who came meanwhile may meet the criterion too.
                after = after if found else _FIRST
                async with engine.begin() as connection:
                    rows = (await connection.execute(some, {"key": key_id, "after": after, "batch": self._batch})).all()
                    if rows:
                        await change(connection, rows)
                        after = rows[-1].id
                found = bool(rows)
                if rows:
                    done += len(rows)
                    yield Progress(step, max(total, done), done)

    async def _seal(self, connection: AsyncConnection, rows: Sequence[Any]) -> None:
        ring = self._keys.ring
        values: dict[str, list[Any]] = {"ids": [row.id for row in rows]}
        for field in FIELDS:
            contexts = [column_context("users", field, row.id) for row in rows]
            values[field] = [
                ring.seal(ring.open(getattr(row, f"sealed_{field}"), context=context), context=context)
                for row, context in zip(rows, contexts, strict=True)
            ]
        await connection.execute(_SEAL, values)

    async def _index(self, connection: AsyncConnection, rows: Sequence[Any]) -> None:
        entries: list[tuple[bytes, UUID, bytes, bool]] = []
        for row in rows:
            context = column_context("users", "email", row.id)
            email, bucket = self._keys.ring.open(row.sealed_email, context=context).decode(), bucket_in(row.id)
            unkeyed = bucket != self._keys.bucket(email)
            entries += [
                (entry.value, row.id, entry.key_id, unkeyed) for entry in self._keys.entries(email, bucket=bucket)
            ]
        columns = map(list, zip(*entries, strict=True))
        await connection.execute(_INDEX, dict(zip(("values", "users", "keys", "unkeyed"), columns, strict=True)))

    async def _wrap_anew(self) -> AsyncGenerator[Progress]:
        step, done = "wrapping keys anew", 0
        for engine in self._engines:
            for wrapped in WRAPPED:
                async for changed in self._wrap_table(engine, wrapped):
                    done += changed
                    yield Progress(step, done, done)
        yield Progress(step, done, done)

    async def _wrap_table(self, engine: AsyncEngine, wrapped: _Wrapped) -> AsyncGenerator[int]:
        names = ", ".join(wrapped.keys)
        present = bytes.fromhex(self._key_encryption_key.primary_id)
        some = text(
            f"SELECT {names}, {wrapped.column} AS sealed FROM {wrapped.table}"  # noqa: S608 - our own words
            f" WHERE substring({wrapped.column} FROM 2 FOR 8) <> :present LIMIT :batch FOR UPDATE"
        )
        change = text(
            f"UPDATE {wrapped.table} SET {wrapped.column} = :sealed WHERE "  # noqa: S608 - our own words
            + " AND ".join(f"{key} = :{key}" for key in wrapped.keys)
        )
        while True:
            async with engine.begin() as connection:
                rows = (await connection.execute(some, {"present": present, "batch": self._batch})).all()
                if not rows:
                    return
                for row in rows:
                    place = {key: getattr(row, key) for key in wrapped.keys}
                    context = wrapped.context(place)
                    secret = await self._key_encryption_key.unwrap(row.sealed, context=context)
                    sealed = await self._key_encryption_key.wrap(secret, context=context)
                    await connection.execute(change, {**place, "sealed": sealed})
            yield len(rows)

    async def _holds_people(self, key: DataKeyRow) -> bool:
        used = (
            _SOMEBODY_SEALED_WITH
            if key.purpose == Purpose.COLUMNS
            else "SELECT EXISTS (SELECT FROM email_indexes JOIN users ON users.id = user_id WHERE key_id = :key)"
        )
        return await self._anywhere(used, key.key_id)

    async def _destroy_unused(self, purpose: Purpose, used: str) -> None:
        async with self._keys.exclusively() as session:
            for key in await self._keys.retired(session, purpose):
                if not await self._anywhere(used, key.key_id):
                    await self._keys.destroy(session, key)
        await self._keys.read()

    async def _anywhere(self, question: str, key_id: bytes) -> bool:
        for engine in self._engines:
            async with engine.connect() as connection:
                if await connection.scalar(text(question), {"key": key_id}):
                    return True
        return False

    async def _batches(self, engine: AsyncEngine, statement: str, values: dict[str, Any]) -> None:
        while True:
            async with engine.begin() as connection:
                done = await connection.execute(text(statement), {**values, "batch": self._batch})
            if not done.rowcount:
                return


_SEALED_WITH = " OR ".join(f"substring(sealed_{field} FROM 2 FOR 8) = :key" for field in FIELDS)
_SOMEBODY_SEALED_WITH = f"SELECT EXISTS (SELECT FROM users WHERE {_SEALED_WITH})"  # noqa: S608 - our own words
_NOT_SEALED_WITH = "(" + " OR ".join(f"substring(sealed_{field} FROM 2 FOR 8) <> :key" for field in FIELDS) + ")"
_NOT_INDEXED_WITH = "NOT EXISTS (SELECT FROM email_indexes WHERE user_id = users.id AND key_id = :key)"
_FORGET_ENTRIES = (
    "DELETE FROM email_indexes WHERE value IN (SELECT value FROM email_indexes JOIN users ON users.id = user_id"
    " WHERE key_id = :key LIMIT :batch)"
)
_SEAL = text(
    "UPDATE users SET "  # noqa: S608 - our own words
    + ", ".join(f"sealed_{field} = given.{field}" for field in FIELDS)
    + " FROM unnest(CAST(:ids AS uuid[]), "
    + ", ".join(f"CAST(:{field} AS bytea[])" for field in FIELDS)
    + f") AS given (id, {', '.join(FIELDS)}) WHERE users.id = given.id"
)
_INDEX = text(
    "INSERT INTO email_indexes (value, user_id, key_id, unkeyed) SELECT * FROM unnest(CAST(:values AS bytea[]),"
    " CAST(:users AS uuid[]), CAST(:keys AS bytea[]), CAST(:unkeyed AS boolean[])) ON CONFLICT DO NOTHING"
)
