"""The data keys of this process, and what it does with e-mail addresses: where they live, and how they are found.

Three purposes, each with keys of its own that are random, wrapped by the key-encryption key, and kept on the first
shard: one seals the columns, one makes the blind index of e-mail addresses, one spreads addresses over buckets. The
last is never rotated, since people would have to move; it is the only one whose theft cannot be mended, and then says
ten bits about an address.

A key that is rotated in is `next` until every replica knows it, then `active`; the one before it is `retired` until
nothing is sealed with it, and then deleted. Index entries are written under the active key and the next, and looked for
under all, so that at each moment one key at least knows everybody, and no address is given twice.
"""

import asyncio
import hmac
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import structlog
from chassis.buckets import BUCKETS, bucket_of
from chassis.sealing.aead import SealingKey
from chassis.sealing.index import IndexKey
from chassis.sealing.ring import SealingRing
from chassis.sealing.wrapping import KeyWrapping
from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from auth.adapters.sealed_tables import DataKeyRow, EmailIndexRow, index_value
from auth.adapters.sharding import Shards

_LOCK = 0x616C6D61_64617461  # "almadata": this database's advisory lock for changes of data keys

_logger = structlog.get_logger(__name__)


class Purpose(StrEnum):
    """What a data key is for. The values are the storage format."""

    COLUMNS = "columns"
    EMAIL_INDEX = "email_index"
    EMAIL_BUCKET = "email_bucket"


class State(StrEnum):
    """Where a data key is in its life. The values are the storage format."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A value of the index of e-mail addresses, and the key that made it."""

    value: bytes
    key_id: bytes


class DataKeys:
    """The keys that this process knows."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        shards: Shards,
        wrapping: KeyWrapping,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._sessions = sessions
        self._home = shards.of_bucket(0)
        self._wrapping = wrapping
        self._clock = clock
        self._opened: dict[bytes, bytes] = {}
        # Replaced by the first reading, before anything is sealed.
        self.ring = SealingRing(SealingKey.fresh())
        self._bucket_key = b""
        self._writing: tuple[IndexKey, ...] = ()
        self._reading: tuple[IndexKey, ...] = ()
        self._some_unkeyed = True

    async def open(self) -> None:
        """Read the keys, made if there are none yet. Replicas that start at once agree on the same ones."""
        async with self.exclusively() as session:
            present = {(row.purpose, row.state) for row in await _rows(session)}
            for purpose in Purpose:
                if (purpose, State.ACTIVE) not in present:
                    await self.add(session, purpose, State.ACTIVE)
        await self.read()

    async def read(self) -> None:
        """Take the keys as they are now."""
        async with self._sessions.begin() as session:
            rows = await _rows(session)
            unkeyed = select(EmailIndexRow.user_id).where(EmailIndexRow.unkeyed).limit(1)
            self._some_unkeyed = bool((await session.execute(unkeyed)).all())
        keys = [(row, await self._key(row)) for row in rows]
        self._opened = {row.key_id: key for row, key in keys}
        columns = [
            (row.state, SealingKey(key, key_id=row.key_id)) for row, key in keys if row.purpose == Purpose.COLUMNS
        ]
        active = next(key for state, key in columns if state == State.ACTIVE)
        self.ring.take(active, [key for _, key in columns])
        indexes = [
            (row.state, IndexKey(key, key_id=row.key_id)) for row, key in keys if row.purpose == Purpose.EMAIL_INDEX
        ]
        self._reading = tuple(key for _, key in indexes)
        self._writing = tuple(key for state, key in indexes if state != State.RETIRED)
        self._bucket_key = next(key for row, key in keys if row.purpose == Purpose.EMAIL_BUCKET)

    async def watch(self, every: float) -> None:
        """Take the keys anew every so many seconds, for ever, so that a rotation by one replica reaches all."""
        while True:
            await asyncio.sleep(every)
            try:
                await self.read()
            except Exception:
                # The keys that we have stay good; that the database is away is readiness's to tell.
                _logger.warning("the data keys could not be read", exc_info=True)

    def bucket(self, email: str) -> int:
        """The bucket of a new person with this address. Without the key it says nothing about the address."""
        return int.from_bytes(hmac.digest(self._bucket_key, email.encode(), "sha256")[:8], "big") % BUCKETS

    def entries(self, email: str, *, bucket: int) -> Sequence[IndexEntry]:
        """The index entries that a person with this address in this bucket must have."""
        return [IndexEntry(index_value(bucket, key.of(email)), key.id) for key in self._writing]

    def candidates(self, email: str) -> Sequence[bytes]:
        """The index values that a person with this address may have: under each key and, as long as there are people
        from before addresses were sealed, also in the bucket that they would have been given.
        """
        buckets = {self.bucket(email), *([bucket_of(email)] if self._some_unkeyed else [])}
        return [index_value(bucket, key.of(email)) for key in self._reading for bucket in sorted(buckets)]

    @asynccontextmanager
    async def exclusively(self) -> AsyncGenerator[AsyncSession]:
        """A transaction in which nobody else changes the keys."""
        lock = text("SELECT pg_advisory_xact_lock(:key)")
        async with self._sessions.begin() as session:
            await session.execute(lock, {"key": _LOCK}, bind_arguments={"shard_id": self._home})
            yield session

    async def add(self, session: AsyncSession, purpose: Purpose, state: State) -> None:
        """Make a key."""
        fresh, now = SealingKey.fresh(), self._clock()
        wrapped = await self._wrapping.wrap(fresh.reveal(), context=wrapping_context(purpose, fresh.id))
        session.add(
            DataKeyRow(key_id=fresh.id, purpose=purpose, state=state, wrapped=wrapped, created_at=now, changed_at=now)
        )
        await session.flush()

    async def of(self, session: AsyncSession, purpose: Purpose) -> dict[State, DataKeyRow]:
        """The active key of a purpose, and the next one if there is one."""
        keys = {State(row.state): row for row in await _rows(session) if row.purpose == purpose}
        keys.pop(State.RETIRED, None)
        return keys

    async def retired(self, session: AsyncSession, purpose: Purpose) -> Sequence[DataKeyRow]:
        """The keys of a purpose with which something may still be sealed."""
        return [row for row in await _rows(session) if (row.purpose, row.state) == (purpose, State.RETIRED)]

    async def move(self, session: AsyncSession, row: DataKeyRow, state: State) -> None:
        """Put a key into its next state."""
        row.state, row.changed_at = state, self._clock()
        await session.flush()

    async def destroy(self, session: AsyncSession, row: DataKeyRow) -> None:
        """Delete a key with which nothing is sealed any more."""
        await session.execute(
            delete(DataKeyRow).where(DataKeyRow.key_id == row.key_id),
            execution_options={"synchronize_session": False},
        )

    async def _key(self, row: DataKeyRow) -> bytes:
        known = self._opened.get(row.key_id)
        if known is not None:
            return known
        return await self._wrapping.unwrap(row.wrapped, context=wrapping_context(Purpose(row.purpose), row.key_id))


def wrapping_context(purpose: Purpose, key_id: bytes) -> str:
    """What a data key is bound to when it is wrapped."""
    return f"data key {purpose} {key_id.hex()}"


async def _rows(session: AsyncSession) -> Sequence[DataKeyRow]:
    return (await session.scalars(select(DataKeyRow).order_by(DataKeyRow.created_at, DataKeyRow.key_id))).all()
