"""Changes of people and their sessions in Postgres, each in one transaction with its revocations and its audit."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from chassis.revocations import Revoked
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import undefer

from auth.adapters.audit import write
from auth.adapters.postgres import known_session, known_user
from auth.adapters.revocations import PostgresRevocations
from auth.adapters.tables import SessionRow, UserRow
from auth.application.people import Credentials
from auth.domain.audit import Entry
from auth.domain.concealed import PasswordHash
from auth.domain.people import User
from auth.domain.sessions import Session

_UNSYNCHRONISED = {"synchronize_session": False}


class PostgresChanges:
    """People and sessions as they change."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        revocations: PostgresRevocations,
        *,
        idle_limit: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._sessions = sessions
        self._revocations = revocations
        self._idle_limit = idle_limit
        self._clock = clock

    async def credentials(self, user_id: UUID) -> Credentials | None:
        """A person, and their password hash."""
        wanted = select(UserRow).where(UserRow.id == user_id).options(undefer(UserRow._password_hash))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        async with self._sessions.begin() as unit:
            row = await unit.scalar(wanted)
            if row is None:
                return None
            return Credentials(user=known_user(row), password_hash=row._password_hash)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    async def change(self, before: User, after: User, entries: Sequence[Entry]) -> bool:
        """Make a person what they are to be, unless they are not as before any more."""
        async with self._sessions.begin() as unit:
            row = await unit.scalar(select(UserRow).where(UserRow.id == before.id).with_for_update())
            if row is None or known_user(row) != before:
                return False
            for field in ("first_name", "last_name"):
                if getattr(before, field) != getattr(after, field):
                    setattr(row, field, getattr(after, field))
            if before.roles != after.roles:
                row.roles = sorted(after.roles)
            if before.disabled != after.disabled:
                row.disabled_at = self._clock() if after.disabled else None
            for entry in entries:
                write(unit, entry)
            await unit.flush()
            if before.rights != after.rights:
                await self._revocations.add_person(unit, before.id)
            if after.disabled:
                await self._end(unit, before.id, keep=None)
        return True

    async def set_password(self, user_id: UUID, new: PasswordHash, *, keep: UUID | None, entry: Entry) -> None:
        """Set a password, and end all sessions but one."""
        column = UserRow.__table__.c.password_hash
        async with self._sessions.begin() as unit:
            await unit.execute(
                update(UserRow).where(UserRow.id == user_id).values({column: new}), execution_options=_UNSYNCHRONISED
            )
            write(unit, entry)
            await unit.flush()
            await self._end(unit, user_id, keep=keep)

    async def page(self, *, after: UUID | None, limit: int) -> Sequence[User]:
        """People, in the order of their ids, over all shards."""
        wanted = select(UserRow).order_by(UserRow.id).limit(limit)
        if after is not None:
            wanted = wanted.where(UserRow.id > after)
        async with self._sessions.begin() as unit:
            rows = [known_user(row) for row in await unit.scalars(wanted)]
        # Each shard has answered so many.
        return sorted(rows, key=lambda user: user.id)[:limit]

    async def sessions_of(self, user_id: UUID) -> Sequence[Session]:
        """The sessions of a person that are alive, the latest first."""
        wanted = (
            select(SessionRow)
            .where(
                SessionRow.user_id == user_id, SessionRow.revoked_at.is_(None), SessionRow.expires_at > self._clock()
            )
            .order_by(SessionRow.started_at.desc())
        )
        async with self._sessions.begin() as unit:
            found = [known_session(row) for row in await unit.scalars(wanted)]
        return [session for session in found if not session.idle(self._clock(), self._idle_limit)]

    async def session(self, session_id: UUID) -> Session | None:
        """One session."""
        async with self._sessions.begin() as unit:
            row = await unit.get(SessionRow, session_id)
        return None if row is None else known_session(row)

    async def end_session(self, session_id: UUID, entry: Entry) -> None:
        """End a session that is alive."""
        ends = (
            update(SessionRow)
            .where(SessionRow.id == session_id, SessionRow.revoked_at.is_(None))
            .values(revoked_at=self._clock())
            .returning(SessionRow.id)
        )
        async with self._sessions.begin() as unit:
            if (await unit.execute(ends, execution_options=_UNSYNCHRONISED)).one_or_none() is not None:
                write(unit, entry)
                await self._revocations.add(unit, Revoked.SESSION, session_id)

    async def _end(self, unit: AsyncSession, user_id: UUID, *, keep: UUID | None) -> None:
        ends = (
            update(SessionRow)
            .where(SessionRow.user_id == user_id, SessionRow.revoked_at.is_(None))
            .values(revoked_at=self._clock())
            .returning(SessionRow.id)
        )
        if keep is not None:
            ends = ends.where(SessionRow.id != keep)
        for session_id in (await unit.execute(ends, execution_options=_UNSYNCHRONISED)).scalars().all():
            await self._revocations.add(unit, Revoked.SESSION, session_id)
