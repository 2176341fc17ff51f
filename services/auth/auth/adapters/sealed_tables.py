"""The rows that sealing needs: data keys, indexes of e-mail addresses, keys of persons, erasures."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from auth.adapters.tables import BUCKET, HOME, Row
from auth.domain.identifiers import bucket_in

_BUCKET_BYTES = 2
_BY_ID: dict[Any, Any] = {BUCKET: bucket_in}


def _bucket_in_index(value: bytes) -> int:
    return int.from_bytes(value[:_BUCKET_BYTES], "big")


_BY_INDEX: dict[Any, Any] = {BUCKET: _bucket_in_index}


def index_value(bucket: int, digest: bytes) -> bytes:
    """A value of the index of e-mail addresses. It begins with the bucket, so that it leads to its shard without a key.

    The bucket says no more than the ids of people do, which end in it.
    """
    return bucket.to_bytes(_BUCKET_BYTES, "big") + digest


class DataKeyRow(Row):
    """A data key, wrapped under the key-encryption key. All of them live in the first shard."""

    __tablename__ = "data_keys"
    __table_args__ = (
        Index("data_keys_one_of_each", "purpose", "state", unique=True, postgresql_where=text("state <> 'retired'")),
        {"info": {HOME: 0}},
    )

    key_id: Mapped[bytes] = mapped_column(primary_key=True)
    purpose: Mapped[str]
    state: Mapped[str]
    wrapped: Mapped[bytes]
    created_at: Mapped[datetime]
    # When it came into its present state.
    changed_at: Mapped[datetime]


class EmailIndexRow(Row):
    """The blind index of a person's e-mail address under one key. While keys are rotated a person has two.

    No foreign key: where an operator wants an address blocked, its row outlives the person.
    """

    __tablename__ = "email_indexes"
    __table_args__ = (
        Index("email_indexes_user_id", "user_id"),
        Index("email_indexes_unkeyed", "unkeyed", postgresql_where=text("unkeyed")),
    )

    value: Mapped[bytes] = mapped_column(primary_key=True, info=_BY_INDEX)
    user_id: Mapped[UUID] = mapped_column(info=_BY_ID)
    key_id: Mapped[bytes]
    # Whether the bucket is that of people from before addresses were sealed, which anybody could compute.
    unkeyed: Mapped[bool] = mapped_column(server_default=text("false"))


class SubjectKeyRow(Row):
    """The key that things said about a person are sealed with, or the mark that it was destroyed."""

    __tablename__ = "subject_keys"
    __table_args__ = (
        CheckConstraint("(wrapped IS NULL) = (destroyed_at IS NOT NULL)", name="subject_keys_are_whole_or_destroyed"),
    )

    subject_id: Mapped[UUID] = mapped_column(primary_key=True, info=_BY_ID)
    key_id: Mapped[bytes]
    wrapped: Mapped[bytes | None]
    destroyed_at: Mapped[datetime | None]


class ErasureRow(Row):
    """The forgetting of a person. What is searched for is kept, sealed, until everything was searched."""

    __tablename__ = "erasures"
    __table_args__ = (Index("erasures_open", "user_id", postgresql_where=text("certified_at IS NULL")),)

    user_id: Mapped[UUID] = mapped_column(primary_key=True, info=_BY_ID)
    forgotten_at: Mapped[datetime]
    requested_by: Mapped[UUID]
    sealed_terms: Mapped[bytes | None]
    stores: Mapped[list[dict[str, Any]]] = mapped_column(JSONB(), server_default=text("'[]'"))
    # Until when a replica is at the search; another one takes over after that.
    searched_until: Mapped[datetime | None]
    certified_at: Mapped[datetime | None]
