"""People, sessions and signing keys in Postgres, through sharded sessions.

Every use case's writes happen on one shard in one transaction, so no commit ever spans two.
"""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from almagest.auth.events.v1 import audit_pb2
from chassis.revocations import Revocation, Revoked
from sqlalchemy import Select, delete, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import undefer

from auth.adapters.audit import PostgresAudit, write
from auth.adapters.data_keys import DataKeys
from auth.adapters.revocations import PostgresRevocations
from auth.adapters.sealed_tables import EmailIndexRow
from auth.adapters.sharding import Shards
from auth.adapters.tables import CommandRow, SessionRow, SigningKeyRow, UsedTokenRow, UserRow
from auth.application.people import Credentials
from auth.application.sessions import Standing
from auth.domain.audit import NOBODY, Entry
from auth.domain.concealed import PasswordHash
from auth.domain.errors import EmailTaken
from auth.domain.identifiers import stamped
from auth.domain.keys import KeyState, SigningKey
from auth.domain.people import Registration, Role, User
from auth.domain.sessions import Session

_KEYS_LOCK = 0x616C6D61_6B657973  # "almakeys": this database's advisory lock for changes of signing keys
_RECENT_SECONDS = 1.0
_MOST_RECENT = 10_000

_UNIQUE_VIOLATION = "23505"

Sessionmaker = async_sessionmaker[AsyncSession]


class RowRefused(Exception):
    """The database refuses a row that our own rules let pass."""


class PostgresPeople:
    """People, each on the shard of their e-mail address."""

    def __init__(
        self, sessions: Sessionmaker, keys: DataKeys, audit: PostgresAudit, *, fresh_id: Callable[[], UUID]
    ) -> None:
        self._sessions = sessions
        self._keys = keys
        self._audit = audit
        self._fresh_id = fresh_id

    async def claim(self, command_id: UUID, fingerprint: bytes, *, now: datetime) -> bytes:
        """Bind a command id to a request. Answers the fingerprint that it is bound to, now or since before."""
        bound = select(CommandRow.fingerprint).where(CommandRow.id == command_id)
        async with self._sessions.begin() as session:
            found = await session.scalar(bound)
        if found is not None:
            return found
        # In a transaction of its own, not in a savepoint: a ShardedSession's flush goes around savepoints, since it
        # takes its connections from the outermost transaction (SQLAlchemy 2.1.9).
        try:
            async with self._sessions.begin() as session:
                session.add(CommandRow(id=command_id, fingerprint=fingerprint, created_at=now))
        except IntegrityError as error:
            _expect_duplicate(error)
            async with self._sessions.begin() as session:
                return (await session.scalars(bound)).one()
        return fingerprint

    async def made_by(self, command_id: UUID, *, email: str) -> User | None:
        """The person with this e-mail address, if this command created them."""
        async with self._sessions.begin() as session:
            row = await session.scalar(self._with(email).where(UserRow.command_id == command_id))
        return _user(row)

    async def add(
        self, registration: Registration, password_hash: PasswordHash, *, command_id: UUID, now: datetime
    ) -> User:
        """Keep a new person, under a new id with their bucket. The same command again answers the person it created.

        Raises:
            EmailTaken: by someone whom another command created.
        """
        if await self._taken(registration.email):
            return await self._made_before(registration, command_id=command_id)
        bucket = self._keys.bucket(registration.email)
        row = UserRow(
            id=stamped(self._fresh_id(), bucket),
            email=registration.email,
            first_name=registration.first_name,
            last_name=registration.last_name,
            roles=sorted(registration.roles),
            command_id=command_id,
            created_at=now,
            _password_hash=password_hash,
        )
        created = await self._audit.entry(audit_pb2.UserCreated(roles=row.roles), of=row.id)
        try:
            async with self._sessions.begin() as session:
                session.add(row)
                write(session, created)
                for entry in self._keys.entries(registration.email, bucket=bucket):
                    session.add(EmailIndexRow(value=entry.value, user_id=row.id, key_id=entry.key_id))
        except IntegrityError as error:
            _expect_duplicate(error)
            return await self._made_before(registration, command_id=command_id)
        return _known(row)

    async def by_id(self, user_id: UUID) -> User | None:
        """The person with this id."""
        async with self._sessions.begin() as session:
            return _user(await session.get(UserRow, user_id))

    async def by_email(self, email: str) -> User | None:
        """The person with this address, which is normalised."""
        async with self._sessions.begin() as session:
            return _user(await session.scalar(self._with(email)))

    async def credentials(self, email: str) -> Credentials | None:
        """The person with this address, and their password hash."""
        wanted = self._with(email).options(undefer(UserRow._password_hash))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        async with self._sessions.begin() as session:
            row = await session.scalar(wanted)
            if row is None:
                return None
            return Credentials(user=_known(row), password_hash=row._password_hash)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    async def replace_hash(self, user_id: UUID, *, old: PasswordHash, new: PasswordHash) -> None:
        """Replace a password hash, unless it has changed meanwhile."""
        column = UserRow.__table__.c.password_hash
        change = update(UserRow).where(UserRow.id == user_id, column == old).values({column: new})
        async with self._sessions.begin() as session:
            await session.execute(change, execution_options={"synchronize_session": False})

    def _with(self, email: str) -> Select[UserRow]:
        return (
            select(UserRow)
            .join(EmailIndexRow, EmailIndexRow.user_id == UserRow.id)
            .where(EmailIndexRow.value.in_(self._keys.candidates(email)))
        )

    async def _taken(self, email: str) -> bool:
        """Whether the address is someone's, or was someone's and is blocked. New people do not come into the buckets
        of old ones and no one under retired keys, so that what the unique index does not see, it need not see.
        """
        taken = select(EmailIndexRow.user_id).where(EmailIndexRow.value.in_(self._keys.candidates(email))).limit(1)
        async with self._sessions.begin() as session:
            return bool((await session.execute(taken)).all())

    async def _made_before(self, registration: Registration, *, command_id: UUID) -> User:
        made = await self.made_by(command_id, email=registration.email)
        if made is None:
            raise EmailTaken
        return made


class PostgresFamily:
    """A session whose row is locked."""

    def __init__(self, session: AsyncSession, row: SessionRow, user: User, *, revocations: PostgresRevocations) -> None:
        self._session = session
        self._row = row
        self._revocations = revocations
        self.user = user

    @property
    def session(self) -> Session:
        """The session as it stands."""
        return known_session(self._row)

    async def used_before(self, token_hash: bytes) -> bool:
        """Whether the token was good once."""
        used = select(UsedTokenRow.token_hash).where(
            UsedTokenRow.session_id == self._row.id, UsedTokenRow.token_hash == token_hash
        )
        return await self._session.scalar(used) is not None

    async def replace(self, token_hash: bytes, *, now: datetime) -> None:
        """Make another token the good one, and remember the present one as used."""
        self._session.add(UsedTokenRow(session_id=self._row.id, token_hash=self._row.token_hash))
        self._row.token_hash = token_hash
        self._row.refreshed_at = now
        await self._session.flush()

    async def revoke(self, now: datetime, entry: Entry) -> None:
        """End the session, and say so in the audit."""
        self._row.revoked_at = now
        write(self._session, entry)
        await self._session.flush()
        await self._revocations.add(self._session, Revoked.SESSION, self._row.id)


class PostgresSessions:
    """Sessions, each on the shard of its person."""

    def __init__(self, sessions: Sessionmaker, revocations: PostgresRevocations) -> None:
        self._sessions = sessions
        self._revocations = revocations
        self._recent: dict[UUID, tuple[float, Standing | None]] = {}

    async def start(self, session: Session, entry: Entry) -> None:
        """Keep a new session, say so in the audit, and forget the person's past ones."""
        past = delete(SessionRow).where(
            SessionRow.user_id == session.user_id, SessionRow.expires_at <= session.started_at
        )
        async with self._sessions.begin() as unit:
            await unit.execute(past, execution_options={"synchronize_session": False})
            write(unit, entry)
            unit.add(
                SessionRow(
                    id=session.id,
                    user_id=session.user_id,
                    token_hash=session.token_hash,
                    started_at=session.started_at,
                    expires_at=session.expires_at,
                    revoked_at=session.revoked_at,
                    bound_to=session.bound_to,
                )
            )

    @asynccontextmanager
    async def locked(self, session_id: UUID) -> AsyncGenerator[PostgresFamily | None]:
        """The session, for changes by one at a time, committed at the end."""
        wanted = (
            select(SessionRow, UserRow)
            .join(UserRow, UserRow.id == SessionRow.user_id)
            .where(SessionRow.id == session_id)
            .with_for_update(of=SessionRow)
        )
        async with self._sessions.begin() as unit:
            found = (await unit.execute(wanted)).one_or_none()
            yield (
                None
                if found is None
                else PostgresFamily(unit, found[0], _known(found[1]), revocations=self._revocations)
            )
        self._recent.pop(session_id, None)

    def forget(self, revocation: Revocation) -> None:
        """Remember nothing any more of what was revoked."""
        if revocation.kind is Revoked.SESSION:
            self._recent.pop(UUID(revocation.id), None)
        elif revocation.kind is Revoked.PERSON:
            user_id = UUID(revocation.id)
            for session_id in [
                key for key, (_, known) in self._recent.items() if known is not None and known.user.id == user_id
            ]:
                del self._recent[session_id]

    async def standing(self, session_id: UUID) -> Standing | None:
        """The session, as it stood a second ago at most."""
        now = time.monotonic()
        recent = self._recent.get(session_id)
        if recent is not None and now - recent[0] < _RECENT_SECONDS:
            return recent[1]
        wanted = (
            select(SessionRow, UserRow)
            .join(UserRow, UserRow.id == SessionRow.user_id)
            .where(SessionRow.id == session_id)
        )
        async with self._sessions.begin() as unit:
            found = (await unit.execute(wanted)).one_or_none()
        standing = None if found is None else Standing(session=known_session(found[0]), user=_known(found[1]))
        self._recent.pop(session_id, None)
        while len(self._recent) >= _MOST_RECENT:
            del self._recent[next(iter(self._recent))]
        self._recent[session_id] = (now, standing)
        return standing


class PostgresKeyLedger:
    """The signing keys in a transaction that holds their lock."""

    def __init__(self, session: AsyncSession, audit: PostgresAudit) -> None:
        self._session = session
        self._audit = audit

    async def keys(self) -> Sequence[SigningKey]:
        """All of them, in order of creation."""
        return await _keys(self._session)

    async def add(self, key: SigningKey) -> None:
        """Keep a new key."""
        self._session.add(
            SigningKeyRow(
                kid=key.kid,
                public_key=key.public_key,
                sealed_private_key=key.sealed_private_key,
                state=key.state,
                created_at=key.created_at,
                retired_at=key.retired_at,
            )
        )
        await self._session.flush()

    async def move(self, kid: str, state: KeyState, *, now: datetime) -> None:
        """Put a key into its next state."""
        row = await self._session.get_one(SigningKeyRow, kid)
        row.state = state
        row.retired_at = now if state is KeyState.RETIRED else None
        if state is KeyState.ACTIVE:
            # Of nobody, whose shard is that of the keys.
            rotated = await self._audit.entry(audit_pb2.SigningKeyRotated(key_id=kid), of=NOBODY)
            write(self._session, rotated)
        await self._session.flush()


class PostgresSigningKeys:
    """Signing keys, all on the first shard."""

    def __init__(self, sessions: Sessionmaker, shards: Shards, audit: PostgresAudit) -> None:
        self._sessions = sessions
        self._audit = audit
        self._home = shards.of_bucket(0)

    @asynccontextmanager
    async def exclusively(self) -> AsyncGenerator[PostgresKeyLedger]:
        """One replica at a time; committed at the end."""
        lock = text("SELECT pg_advisory_xact_lock(:key)")
        async with self._sessions.begin() as session:
            await session.execute(lock, {"key": _KEYS_LOCK}, bind_arguments={"shard_id": self._home})
            yield PostgresKeyLedger(session, self._audit)

    async def all(self) -> Sequence[SigningKey]:
        """All keys, in order of creation."""
        async with self._sessions.begin() as session:
            return await _keys(session)


def _expect_duplicate(error: IntegrityError) -> None:
    """Go on when a key was there already. Postgres describes any other refusal by the row, with the hash in it."""
    if getattr(error.orig, "sqlstate", None) != _UNIQUE_VIOLATION:
        constraint = getattr(getattr(error.orig, "__cause__", None), "constraint_name", None)
        raise RowRefused(f"the database refuses a row: {constraint}") from None


async def _keys(session: AsyncSession) -> Sequence[SigningKey]:
    rows = await session.scalars(select(SigningKeyRow).order_by(SigningKeyRow.created_at, SigningKeyRow.kid))
    return [
        SigningKey(
            kid=row.kid,
            public_key=row.public_key,
            sealed_private_key=row.sealed_private_key,
            state=KeyState(row.state),
            created_at=row.created_at,
            retired_at=row.retired_at,
        )
        for row in rows
    ]


def _user(row: UserRow | None) -> User | None:
    return None if row is None else _known(row)


def _known(row: UserRow) -> User:
    return User(
        id=row.id,
        email=row.email,
        first_name=row.first_name,
        last_name=row.last_name,
        roles=frozenset(Role(role) for role in row.roles),
        created_at=row.created_at,
        generation=row.generation,
        disabled=row.disabled_at is not None,
    )


def known_session(row: SessionRow) -> Session:
    """A session, of its row."""
    return Session(
        id=row.id,
        user_id=row.user_id,
        token_hash=row.token_hash,
        started_at=row.started_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        refreshed_at=row.refreshed_at,
        bound_to=row.bound_to,
    )


known_user = _known
"""A person, of their row."""
