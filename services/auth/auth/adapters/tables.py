"""The rows of the users databases, and which of their columns lead to a shard."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

from chassis.buckets import bucket_of
from chassis.sealing.columns import SealedCell, SealedText, sealed
from sqlalchemy import BigInteger, DateTime, Dialect, ForeignKey, Index, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from auth.domain.concealed import PasswordHash
from auth.domain.identifiers import bucket_in

BUCKET = "bucket"
"""Key in a column's `info`: the function from its value to the bucket of the row."""
HOME = "home_bucket"
"""Key in a table's `info`: the one bucket of all its rows."""


def _of_command(command_id: UUID) -> int:
    return bucket_of(str(command_id))


_BY_ID: dict[Any, Callable[[UUID], int]] = {BUCKET: bucket_in}
_BY_COMMAND: dict[Any, Callable[[UUID], int]] = {BUCKET: _of_command}


class _HashText(TypeDecorator[PasswordHash]):
    """A password hash, concealed from the moment it leaves the driver."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: PasswordHash | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's own protocol
        return None if value is None else value.reveal()

    def process_result_value(self, value: str | None, dialect: Dialect) -> PasswordHash | None:  # noqa: ARG002 - SQLAlchemy's own protocol
        return None if value is None else PasswordHash(value)

    def process_literal_param(self, value: PasswordHash | None, dialect: Dialect) -> NoReturn:  # noqa: ARG002 - SQLAlchemy's own protocol
        raise TypeError("a password hash is never written into the text of a statement")


class Row(DeclarativeBase):
    """The metadata of the users databases."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own protocol
        str: Text(),
        datetime: DateTime(timezone=True),
        bytes: LargeBinary(),
        list[str]: ARRAY(Text()),
        PasswordHash: _HashText(),
    }

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __reduce_ex__(self, protocol: object, /) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is never serialised")


class UserRow(Row):
    """A person."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True, info=_BY_ID)
    # Ciphertext, which opens in its row only; people are found by the blind index of their address (`sealed_tables`).
    _email: Mapped[SealedCell] = mapped_column("sealed_email", SealedText("users", "email"))
    _first_name: Mapped[SealedCell] = mapped_column("sealed_first_name", SealedText("users", "first_name"))
    _last_name: Mapped[SealedCell] = mapped_column("sealed_last_name", SealedText("users", "last_name"))
    email = sealed("_email", row="id")
    first_name = sealed("_first_name", row="id")
    last_name = sealed("_last_name", row="id")
    roles: Mapped[list[str]]
    command_id: Mapped[UUID] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    # Counted up by each change of what the person may do: what tokens of before are told by.
    generation: Mapped[int] = mapped_column(server_default=text("1"))
    disabled_at: Mapped[datetime | None]
    # Not even fetched unless a query asks for it by name; an attribute access that would fetch it raises.
    _password_hash: Mapped[PasswordHash] = mapped_column("password_hash", deferred=True, deferred_raiseload=True)


class SessionRow(Row):
    """A session. It lives where its person lives."""

    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_user_id", "user_id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, info=_BY_ID)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), info=_BY_ID)
    token_hash: Mapped[bytes]
    started_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    refreshed_at: Mapped[datetime | None]
    # The thumbprint of the key that the session's tokens are bound to (RFC 9449).
    bound_to: Mapped[str | None]


class UsedTokenRow(Row):
    """The hash of a refresh token that was good once."""

    __tablename__ = "used_refresh_tokens"

    session_id: Mapped[UUID] = mapped_column(
        ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True, info=_BY_ID
    )
    token_hash: Mapped[bytes] = mapped_column(primary_key=True)


class RevocationRow(Row):
    """Tokens that are not good any more, for as long as one may live. It lives where their person lives.

    The number of the transaction tells readers what has been committed since they last looked, without gaps: numbers
    from a sequence are given out before the commit, and times as well.
    """

    __tablename__ = "revocations"
    __table_args__ = (Index("revocations_transaction", "transaction_id"),)

    kind: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[UUID] = mapped_column(primary_key=True, info=_BY_ID)
    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revoked_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    transaction_id: Mapped[int] = mapped_column(
        BigInteger(), server_default=text("((pg_current_xact_id())::text)::bigint")
    )


class AccessKeyRow(Row):
    """An access key. It lives where its person lives."""

    __tablename__ = "access_keys"
    __table_args__ = (Index("access_keys_user_id", "user_id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, info=_BY_ID)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), info=_BY_ID)
    name: Mapped[str]
    kind: Mapped[str]
    scopes: Mapped[list[str]]
    public_key: Mapped[bytes | None]
    sealed_secret: Mapped[bytes | None] = mapped_column(deferred=True, deferred_raiseload=True)
    command_id: Mapped[UUID] = mapped_column(unique=True)
    fingerprint: Mapped[bytes]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditEventRow(Row):
    """What was done with a person, their sessions or keys. Written once; it lives where its subject lives."""

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("audit_events_subject", "subject_id", "id"),
        Index("audit_events_order", "transaction_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, info=_BY_ID)
    subject_id: Mapped[UUID] = mapped_column(info=_BY_ID)
    type: Mapped[str]
    payload: Mapped[bytes]
    at: Mapped[datetime]
    transaction_id: Mapped[int] = mapped_column(
        BigInteger(), server_default=text("((pg_current_xact_id())::text)::bigint")
    )


class AuditRelayRow(Row):
    """How far the audit of this shard is in the log, and which replica takes it there."""

    __tablename__ = "audit_relays"

    shard: Mapped[str] = mapped_column(primary_key=True)
    transaction_id: Mapped[int] = mapped_column(BigInteger())
    event_id: Mapped[UUID]
    holder: Mapped[UUID | None]
    held_until: Mapped[datetime | None]


class CommandRow(Row):
    """The request that a command id is bound to. It lives in the bucket of the command id."""

    __tablename__ = "commands"

    id: Mapped[UUID] = mapped_column(primary_key=True, info=_BY_COMMAND)
    fingerprint: Mapped[bytes]
    created_at: Mapped[datetime]


class SigningKeyRow(Row):
    """A key pair. All of them live in the first shard."""

    __tablename__ = "signing_keys"
    __table_args__ = (
        Index("signing_keys_one_of_each", "state", unique=True, postgresql_where=text("state IN ('next', 'active')")),
        {"info": {HOME: 0}},
    )

    kid: Mapped[str] = mapped_column(primary_key=True)
    public_key: Mapped[bytes]
    sealed_private_key: Mapped[bytes]
    state: Mapped[str]
    created_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]
