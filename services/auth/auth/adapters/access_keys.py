"""Access keys in Postgres, each on the shard of its person, their secrets sealed under the key-encryption key."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from almagest.auth.events.v1 import audit_pb2
from chassis.revocations import Revoked
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import undefer

from auth.adapters.audit import PostgresAudit, write
from auth.adapters.postgres import known_user
from auth.adapters.revocations import PostgresRevocations
from auth.adapters.sealing import KeyEncryptionKey
from auth.adapters.tables import AccessKeyRow, UserRow
from auth.application.access_keys import Kept, Verifiable
from auth.domain.access_keys import AccessKey, Kind
from auth.domain.errors import CommandReused, TooManyAccessKeys

_UNIQUE_VIOLATION = "23505"
_KEPT_AFTER_END = timedelta(days=90)
_COARSELY = timedelta(minutes=5)
_UNSYNCHRONISED = {"synchronize_session": False}


class PostgresAccessKeys:
    """Access keys."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        revocations: PostgresRevocations,
        key_encryption_key: KeyEncryptionKey,
        audit: PostgresAudit,
    ) -> None:
        self._sessions = sessions
        self._audit = audit
        self._revocations = revocations
        self._key_encryption_key = key_encryption_key

    async def made_by(self, command_id: UUID, *, owner: UUID) -> tuple[AccessKey, bytes] | None:
        """The key of a person that this command made, and the fingerprint of the command."""
        wanted = select(AccessKeyRow).where(AccessKeyRow.user_id == owner, AccessKeyRow.command_id == command_id)
        async with self._sessions.begin() as unit:
            row = await unit.scalar(wanted)
        return None if row is None else (_key(row), row.fingerprint)

    async def add(
        self,
        key: AccessKey,
        secret: bytes,
        *,
        command_id: UUID,
        fingerprint: bytes,
        most: int,
        replaces: UUID | None = None,
        old_until: datetime | None = None,
    ) -> None:
        """Keep a new key, let the one that it replaces end, and forget those that ended long ago.

        Raises:
            TooManyAccessKeys, CommandReused
        """
        mine = AccessKeyRow.user_id == key.user_id
        now = key.created_at
        # One at a time for each person: two that counted side by side would both find room for one more.
        person = select(UserRow.id).where(UserRow.id == key.user_id).with_for_update(key_share=True)
        past = delete(AccessKeyRow).where(mine, AccessKeyRow.expires_at < now - _KEPT_AFTER_END)
        good = select(func.count(AccessKeyRow.id)).where(
            mine, AccessKeyRow.revoked_at.is_(None), AccessKeyRow.expires_at > now, AccessKeyRow.id != replaces
        )
        sealed = self._key_encryption_key.seal(secret, context=_context(key.id)) if secret else None
        issued = await self._audit.entry(
            audit_pb2.AccessKeyIssued(key_id=str(key.id), replaces=str(replaces or ""), scopes=sorted(key.scopes)),
            of=key.user_id,
        )
        try:
            async with self._sessions.begin() as unit:
                await unit.execute(person)
                await unit.execute(past, execution_options=_UNSYNCHRONISED)
                if (await unit.scalar(good) or 0) >= most:
                    raise TooManyAccessKeys(most)
                if replaces is not None:
                    ends = update(AccessKeyRow).where(AccessKeyRow.id == replaces).values(expires_at=old_until)
                    await unit.execute(ends, execution_options=_UNSYNCHRONISED)
                    if old_until is not None and old_until <= now:
                        await self._revocations.add(unit, Revoked.ACCESS_KEY, replaces)
                write(unit, issued)
                unit.add(
                    AccessKeyRow(
                        id=key.id,
                        user_id=key.user_id,
                        name=key.name,
                        kind=key.kind,
                        scopes=sorted(key.scopes),
                        public_key=key.public_key,
                        sealed_secret=sealed,
                        command_id=command_id,
                        fingerprint=fingerprint,
                        created_at=key.created_at,
                        expires_at=key.expires_at,
                        revoked_at=None,
                        last_used_at=None,
                    )
                )
        except IntegrityError as error:
            if getattr(error.orig, "sqlstate", None) != _UNIQUE_VIOLATION:
                raise
            raise CommandReused from None

    async def by_id(self, key_id: UUID) -> Kept | None:
        """The key and its person."""
        wanted = (
            select(AccessKeyRow, UserRow)
            .join(UserRow, UserRow.id == AccessKeyRow.user_id)
            .where(AccessKeyRow.id == key_id)
        )
        async with self._sessions.begin() as unit:
            found = (await unit.execute(wanted)).one_or_none()
        return None if found is None else Kept(_key(found[0]), known_user(found[1]))

    async def of_person(self, user_id: UUID) -> Sequence[AccessKey]:
        """The keys of a person, the newest first."""
        wanted = (
            select(AccessKeyRow)
            .where(AccessKeyRow.user_id == user_id)
            .order_by(AccessKeyRow.created_at.desc(), AccessKeyRow.id.desc())
        )
        async with self._sessions.begin() as unit:
            return [_key(row) for row in await unit.scalars(wanted)]

    async def verifiable(self, key_id: UUID) -> Verifiable | None:
        """The key, with what its signatures are verified with.

        Raises:
            KeyEncryptionKeyError: the secret does not open.
        """
        wanted = (
            select(AccessKeyRow, UserRow)
            .join(UserRow, UserRow.id == AccessKeyRow.user_id)
            .where(AccessKeyRow.id == key_id)
            .options(undefer(AccessKeyRow.sealed_secret))
        )
        async with self._sessions.begin() as unit:
            found = (await unit.execute(wanted)).one_or_none()
        if found is None:
            return None
        row, owner = found
        material = (
            row.public_key
            if row.sealed_secret is None
            else self._key_encryption_key.unseal(row.sealed_secret, context=_context(key_id))
        )
        return Verifiable(Kept(_key(row), known_user(owner)), material or b"")

    async def revoke(self, key_id: UUID, *, now: datetime) -> None:
        """End it at once, and with it the tokens that were given for it."""
        ends = (
            update(AccessKeyRow)
            .where(AccessKeyRow.id == key_id, AccessKeyRow.revoked_at.is_(None))
            .values(revoked_at=now, sealed_secret=None)
        )
        kept = await self.by_id(key_id)
        if kept is None:
            return
        revoked = await self._audit.entry(audit_pb2.AccessKeyRevoked(key_id=str(key_id)), of=kept.owner.id)
        async with self._sessions.begin() as unit:
            found = await unit.execute(ends.returning(AccessKeyRow.id), execution_options=_UNSYNCHRONISED)
            if found.one_or_none() is not None:
                write(unit, revoked)
                await self._revocations.add(unit, Revoked.ACCESS_KEY, key_id)

    async def used(self, key: AccessKey, *, now: datetime) -> None:
        """Remember when it was used, give or take some minutes, so that using keys writes next to nothing."""
        if key.last_used_at is not None and now - key.last_used_at < _COARSELY:
            return
        column = AccessKeyRow.last_used_at
        mark = (
            update(AccessKeyRow)
            .where(AccessKeyRow.id == key.id, column.is_(None) | (column < now - _COARSELY))
            .values(last_used_at=now)
        )
        async with self._sessions.begin() as unit:
            await unit.execute(mark, execution_options=_UNSYNCHRONISED)


def _context(key_id: UUID) -> str:
    return f"access key {key_id}"


def _key(row: AccessKeyRow) -> AccessKey:
    return AccessKey(
        id=row.id,
        user_id=row.user_id,
        name=row.name,
        kind=Kind(row.kind),
        scopes=frozenset(row.scopes),
        public_key=row.public_key,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
