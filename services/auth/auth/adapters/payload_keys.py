"""Keys of encrypted payloads, kept on the first shard and sealed under the key-encryption key."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from chassis.payloads import PrivateKey, Suite
from sqlalchemy import Index, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column

from auth.adapters.sealing import KeyEncryptionKey
from auth.adapters.sharding import Shards
from auth.adapters.tables import HOME, Row
from auth.domain.keys import KeyState
from auth.domain.payload_keys import PayloadKey

_LOCK: Final = 0x616C_6D61_7061_796C
"""The advisory lock of whoever changes the keys."""


class PayloadKeyRow(Row):
    """A key pair of a suite. All of them live in the first shard."""

    __tablename__ = "payload_keys"
    __table_args__ = (
        Index(
            "payload_keys_one_of_each",
            "suite",
            "state",
            unique=True,
            postgresql_where=text("state IN ('next', 'active')"),
        ),
        {"info": {HOME: 0}},
    )

    kid: Mapped[str] = mapped_column(primary_key=True)
    suite: Mapped[str]
    sealed_private_key: Mapped[bytes]
    state: Mapped[str]
    created_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]


class PayloadKeyForge:
    """Makes keys of a suite."""

    def __init__(self, key_encryption_key: KeyEncryptionKey, suite: Suite) -> None:
        self._key_encryption_key = key_encryption_key
        self._suite = suite

    def make(self, state: KeyState, *, now: datetime) -> PayloadKey:
        """A new key pair, sealed."""
        private = PrivateKey.generate(self._suite)
        kid = private.public.key_id
        sealed = self._key_encryption_key.seal(private.secret, context=_context(kid))
        return PayloadKey(kid=kid, suite=self._suite.value, sealed_private_key=sealed, state=state, created_at=now)


def opened(key: PayloadKey, key_encryption_key: KeyEncryptionKey) -> bytes:
    """The secret of a key.

    Raises:
        KeyEncryptionKeyError: it does not open.
    """
    return key_encryption_key.unseal(key.sealed_private_key, context=_context(key.kid))


class PostgresPayloadKeys:
    """Payload keys, of one suite or of all."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], shards: Shards, suite: Suite | None = None) -> None:
        self._sessions = sessions
        self._home = shards.of_bucket(0)
        self._suite = suite

    @asynccontextmanager
    async def exclusively(self) -> AsyncGenerator["_Ledger"]:
        """One replica at a time; committed at the end."""
        lock = text("SELECT pg_advisory_xact_lock(:key)")
        async with self._sessions.begin() as session:
            await session.execute(lock, {"key": _LOCK}, bind_arguments={"shard_id": self._home})
            yield _Ledger(session, self._suite)

    async def all(self) -> Sequence[PayloadKey]:
        """The keys, in order of creation."""
        async with self._sessions.begin() as session:
            return await _Ledger(session, self._suite).keys()


class _Ledger:
    """The keys in a transaction."""

    def __init__(self, session: AsyncSession, suite: Suite | None) -> None:
        self._session = session
        self._suite = suite

    async def keys(self) -> Sequence[PayloadKey]:
        """The keys, in order of creation."""
        wanted = select(PayloadKeyRow).order_by(PayloadKeyRow.created_at, PayloadKeyRow.kid)
        if self._suite is not None:
            wanted = wanted.where(PayloadKeyRow.suite == self._suite.value)
        return [
            PayloadKey(
                kid=row.kid,
                suite=row.suite,
                sealed_private_key=row.sealed_private_key,
                state=KeyState(row.state),
                created_at=row.created_at,
                retired_at=row.retired_at,
            )
            for row in await self._session.scalars(wanted)
        ]

    async def add(self, key: PayloadKey) -> None:
        """Keep a new key."""
        self._session.add(
            PayloadKeyRow(
                kid=key.kid,
                suite=key.suite,
                sealed_private_key=key.sealed_private_key,
                state=key.state,
                created_at=key.created_at,
                retired_at=key.retired_at,
            )
        )
        await self._session.flush()

    async def move(self, kid: str, state: KeyState, *, now: datetime) -> None:
        """Put a key into its next state."""
        row = await self._session.get_one(PayloadKeyRow, kid)
        row.state = state
        row.retired_at = now if state is KeyState.RETIRED else None
        await self._session.flush()


def _context(kid: str) -> str:
    return f"payload key {kid}"
