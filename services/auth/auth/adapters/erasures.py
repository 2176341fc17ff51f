"""Erasures in Postgres, each on the shard of its person."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from almagest.auth.events.v1 import audit_pb2
from chassis.sealing.wrapping import KeyWrapping
from sqlalchemy import delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from auth.adapters.audit import PostgresAudit, write
from auth.adapters.revocations import PostgresRevocations
from auth.adapters.sealed_tables import EmailIndexRow, ErasureRow
from auth.adapters.subject_keys import PostgresSubjectKeys
from auth.adapters.tables import UserRow
from auth.domain.erasures import Erasure, Store, Terms

_UNSYNCHRONISED = {"synchronize_session": False}


class PostgresErasures:
    """Forgets people."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        wrapping: KeyWrapping,
        *,
        subject_keys: PostgresSubjectKeys,
        revocations: PostgresRevocations,
        audit: PostgresAudit,
    ) -> None:
        self._sessions = sessions
        self._wrapping = wrapping
        self._subject_keys = subject_keys
        self._revocations = revocations
        self._audit = audit

    async def forget(self, user_id: UUID, *, requested_by: UUID, block_email: bool, now: datetime) -> Erasure | None:
        """Destroy and delete, in one transaction on the shard of the person. None when there is no such person."""
        forgotten = await self._audit.entry(audit_pb2.UserForgotten(), of=user_id)
        async with self._sessions.begin() as session:
            row = await session.scalar(select(UserRow).where(UserRow.id == user_id).with_for_update())
            if row is None:
                return None
            write(session, forgotten)
            terms = Terms(email=row.email, first_name=row.first_name, last_name=row.last_name)
            sealed = await self._wrapping.wrap(json.dumps(asdict(terms)).encode(), context=_context(user_id))
            await self._revocations.add_person(session, user_id)
            await self._subject_keys.destroy_in(session, user_id)
            if not block_email:
                await session.execute(
                    delete(EmailIndexRow).where(EmailIndexRow.user_id == user_id), execution_options=_UNSYNCHRONISED
                )
            # Sessions and access keys go with the person.
            await session.execute(delete(UserRow).where(UserRow.id == user_id), execution_options=_UNSYNCHRONISED)
            session.expunge(row)
            session.add(
                ErasureRow(user_id=user_id, forgotten_at=now, requested_by=requested_by, sealed_terms=sealed, stores=[])
            )
        return Erasure(user_id=user_id, forgotten_at=now, requested_by=requested_by)

    async def find(self, user_id: UUID) -> Erasure | None:
        """The erasure of a person."""
        async with self._sessions.begin() as session:
            row = await session.get(ErasureRow, user_id)
        return None if row is None else _erasure(row)

    async def take(self, *, now: datetime, until: datetime) -> tuple[Erasure, Terms] | None:
        """An erasure whose search nobody is at."""
        free = or_(ErasureRow.searched_until.is_(None), ErasureRow.searched_until < now)
        wanted = select(ErasureRow.user_id).where(ErasureRow.certified_at.is_(None), free).limit(1)
        async with self._sessions.begin() as session:
            found = (await session.scalars(wanted)).first()
        if found is None:
            return None
        taking = (
            update(ErasureRow)
            .where(ErasureRow.user_id == found, ErasureRow.certified_at.is_(None), free)
            .values(searched_until=until)
            .returning(ErasureRow)
        )
        async with self._sessions.begin() as session:
            row = (await session.scalars(taking, execution_options=_UNSYNCHRONISED)).one_or_none()
        if row is None or row.sealed_terms is None:
            return None
        terms = await self._wrapping.unwrap(row.sealed_terms, context=_context(found))
        return _erasure(row), Terms(**json.loads(terms))

    async def told(self, erasure: Erasure, *, until: datetime) -> None:
        """Keep how far a search is."""
        await self._change(erasure, searched_until=until)

    async def finish(self, erasure: Erasure) -> None:
        """Keep what was found, and destroy what was searched for."""
        await self._change(erasure, certified_at=erasure.certified_at, sealed_terms=None)

    async def _change(self, erasure: Erasure, **values: Any) -> None:
        change = (
            update(ErasureRow)
            .where(ErasureRow.user_id == erasure.user_id, ErasureRow.certified_at.is_(None))
            .values(stores=[asdict(store) for store in erasure.stores], **values)
        )
        async with self._sessions.begin() as session:
            await session.execute(change, execution_options=_UNSYNCHRONISED)


def _context(user_id: UUID) -> str:
    return f"erasure {user_id}"


def _erasure(row: ErasureRow) -> Erasure:
    return Erasure(
        user_id=row.user_id,
        forgotten_at=row.forgotten_at,
        requested_by=row.requested_by,
        stores=tuple(Store(**store) for store in row.stores),
        certified_at=row.certified_at,
    )
