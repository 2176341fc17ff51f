"""The keys of persons in Postgres, each on the shard of its person."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from chassis.sealing.subjects import WrappedKey
from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from auth.adapters.sealed_tables import SubjectKeyRow
from auth.adapters.sharding import Shards
from auth.domain.identifiers import bucket_in

DESTROYED = b""
"""The key id of a key that was destroyed."""


class PostgresSubjectKeys:
    """`SubjectKeys` of the chassis."""

    def __init__(
        self, sessions: async_sessionmaker[AsyncSession], shards: Shards, *, clock: Callable[[], datetime]
    ) -> None:
        self._sessions = sessions
        self._shards = shards
        self._clock = clock

    async def find(self, subject_id: UUID) -> WrappedKey | None:
        """The key of a person, destroyed or not; None when there never was one."""
        async with self._sessions.begin() as session:
            row = await session.get(SubjectKeyRow, subject_id)
        return None if row is None else WrappedKey(row.key_id, row.wrapped)

    async def add(self, subject_id: UUID, key: WrappedKey) -> WrappedKey:
        """Keep a key unless there is one already, or was one. Answers the one that is kept."""
        kept = insert(SubjectKeyRow).values(subject_id=subject_id, key_id=key.key_id, wrapped=key.wrapped)
        async with self._sessions.begin() as session:
            await session.execute(
                kept.on_conflict_do_nothing(), bind_arguments={"shard_id": self._shard_of(subject_id)}
            )
        found = await self.find(subject_id)
        if found is None:
            raise LookupError("a key that was just kept is not there")
        return found

    async def destroy(self, subject_id: UUID) -> bool:
        """Destroy a person's key, leaving a mark also if there was none. Answers whether there was one."""
        async with self._sessions.begin() as session:
            return await self.destroy_in(session, subject_id)

    async def destroy_in(self, session: AsyncSession, subject_id: UUID) -> bool:
        """`destroy`, as part of a transaction on the shard of the person."""
        shard = {"shard_id": self._shard_of(subject_id)}
        mark = insert(SubjectKeyRow).values(
            subject_id=subject_id, key_id=DESTROYED, wrapped=None, destroyed_at=self._clock()
        )
        await session.execute(mark.on_conflict_do_nothing(), bind_arguments=shard)
        destroyed = await session.execute(
            update(SubjectKeyRow)
            .where(SubjectKeyRow.subject_id == subject_id, SubjectKeyRow.wrapped.is_not(None))
            .values(key_id=DESTROYED, wrapped=None, destroyed_at=self._clock())
            .returning(SubjectKeyRow.subject_id),
            execution_options={"synchronize_session": False},
        )
        return destroyed.one_or_none() is not None

    def _shard_of(self, subject_id: UUID) -> str:
        return self._shards.of_bucket(bucket_in(subject_id))
