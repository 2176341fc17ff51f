"""The read model's tables.

Every kind of product lives in one table. `Product`, `Vehicle`, `Car` and `Truck` are a class hierarchy over it by
single-table inheritance, with check constraints that keep a kind's columns null for the others. The alternative is a
table per class: constraints come by themselves then, but a car costs three inserts and a list of vehicles two joins,
and a batch of mixed products one statement per class. With one table the projector writes a batch of any kinds in one
`unnest` statement.

The texts that are sorted, or searched by their beginning, have the collation "C": the same order on every server, the
order that Python merges shards in, and indexes that serve `LIKE 'vehicles/%'`. What should not depend on case is stored
without it (`..._key`).
"""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What the tables of the read model have in common: constraint names that a migration can rely on."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "ck": "%(table_name)s_%(constraint_name)s",
            "ix": "%(table_name)s_%(column_0_N_name)s",
        }
    )


class Product(Base):
    """A product of any kind."""

    __tablename__ = "products"

    product_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    kind: Mapped[str] = mapped_column(String)
    revision: Mapped[int] = mapped_column(BigInteger)
    sku: Mapped[str] = mapped_column(String(collation="C"))
    name_key: Mapped[str] = mapped_column(String(collation="C"))
    category: Mapped[str] = mapped_column(String(collation="C"))
    status: Mapped[str] = mapped_column(String)
    price_amount: Mapped[Decimal | None] = mapped_column(Numeric)
    price_currency: Mapped[str | None] = mapped_column(String(collation="C"))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    document: Mapped[bytes] = mapped_column(BYTEA)
    search: Mapped[str] = mapped_column(TSVECTOR, deferred=True)

    __mapper_args__: Any = {"polymorphic_on": "kind", "polymorphic_identity": "general"}  # noqa: RUF012 - SQLAlchemy reads it as it is
    __table_args__ = (
        CheckConstraint("kind IN ('general', 'car', 'truck')", name="kind"),
        CheckConstraint("status IN ('draft', 'published', 'discontinued')", name="status"),
        CheckConstraint("(price_amount IS NULL) = (price_currency IS NULL)", name="price"),
        CheckConstraint(
            "CASE WHEN kind IN ('car', 'truck') THEN make_key IS NOT NULL AND model_key IS NOT NULL"
            " ELSE make_key IS NULL AND model_key IS NULL AND model_year IS NULL END",
            name="vehicle",
        ),
        CheckConstraint("kind = 'car' OR (doors IS NULL AND seats IS NULL)", name="car"),
        CheckConstraint("kind = 'truck' OR (payload_kg IS NULL AND gross_weight_kg IS NULL)", name="truck"),
        # One index per order that pages go by; backwards they serve the descending orders, since ties go the same way.
        Index("products_by_name", "name_key", "product_id"),
        Index(
            "products_by_price",
            "price_currency",
            "price_amount",
            "product_id",
            postgresql_where=text("price_amount IS NOT NULL"),
        ),
        Index("products_by_updated", "updated_at", "product_id"),
        # What filters go by.
        Index("products_by_category", "category"),
        Index("products_by_sku", "sku"),
        Index("products_by_words", "search", postgresql_using="gin"),
    )


class Vehicle(Product):
    """A car or a truck."""

    make_key: Mapped[str | None] = mapped_column(String(collation="C"))
    model_key: Mapped[str | None] = mapped_column(String(collation="C"))
    model_year: Mapped[int | None] = mapped_column(SmallInteger)

    __mapper_args__: Any = {"polymorphic_abstract": True}  # noqa: RUF012 - SQLAlchemy reads it as it is


# As above, over the columns that vehicles add.
Index("products_by_model_year", Vehicle.model_year, Product.product_id, postgresql_where=text("model_year IS NOT NULL"))
Index(
    "products_by_make",
    Vehicle.make_key,
    Vehicle.model_key,
    Vehicle.model_year,
    postgresql_where=text("make_key IS NOT NULL"),
)


class Car(Vehicle):
    """A passenger car."""

    doors: Mapped[int | None] = mapped_column(SmallInteger)
    seats: Mapped[int | None] = mapped_column(SmallInteger)

    __mapper_args__: Any = {"polymorphic_identity": "car"}  # noqa: RUF012 - SQLAlchemy reads it as it is


class Truck(Vehicle):
    """A vehicle for goods."""

    payload_kg: Mapped[int | None] = mapped_column(BigInteger)
    gross_weight_kg: Mapped[int | None] = mapped_column(BigInteger)

    __mapper_args__: Any = {"polymorphic_identity": "truck"}  # noqa: RUF012 - SQLAlchemy reads it as it is


class ProjectionRow(Base):
    """A projection: which table its generations are made from, and which generation is read."""

    __tablename__ = "projections"

    name: Mapped[str] = mapped_column(String, primary_key=True)
    template: Mapped[str] = mapped_column(String)
    serving: Mapped[int] = mapped_column(Integer)
    latest: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    switched_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    switched_by: Mapped[str] = mapped_column(String, server_default=text("''"))
    beside: Mapped[list[str]] = mapped_column(ARRAY(String), server_default=text("'{}'"))
    """Further templates, of which each generation has a table as well."""


class GenerationRow(Base):
    """A generation of a projection's table, in a schema of its own."""

    __tablename__ = "generations"

    projection: Mapped[str] = mapped_column(
        String, ForeignKey("projections.name", name="generations_projection_fkey"), primary_key=True
    )
    generation: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(String)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    created_by: Mapped[str] = mapped_column(String, server_default=text("''"))
    ready_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __table_args__ = (CheckConstraint("state IN ('filling', 'ready')", name="state"),)


def _of_a_generation(table: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["projection", "generation"],
        ["generations.projection", "generations.generation"],
        name=f"{table}_generation_fkey",
        ondelete="CASCADE",
    )


class Checkpoint(Base):
    """How far a generation has applied a shard of the log, which process applies it, and the fencing token that its
    writes must carry.
    """

    __tablename__ = "checkpoints"

    event_shard: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    owner: Mapped[str] = mapped_column(String, server_default=text("''"))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    projection: Mapped[str] = mapped_column(String, primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    token: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    __table_args__ = (_of_a_generation("checkpoints"),)


class ParkedEvent(Base):
    """An event that a generation could not apply, and what is held behind it."""

    __tablename__ = "parked_events"

    parked_id: Mapped[UUID] = mapped_column(Uuid)
    projection: Mapped[str] = mapped_column(String, primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    stream: Mapped[str] = mapped_column(String, primary_key=True)
    event_shard: Mapped[int] = mapped_column(Integer)
    position: Mapped[int] = mapped_column(BigInteger)
    revision: Mapped[int] = mapped_column(BigInteger)
    event_id: Mapped[str] = mapped_column(String)
    event_type: Mapped[str] = mapped_column(String)
    error: Mapped[str] = mapped_column(String)
    since: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    tried_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    held_events: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    last_revision: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (
        Index("parked_events_parked_id", "parked_id", unique=True),
        _of_a_generation("parked_events"),
    )


class SkippedEvent(Base):
    """An event that an operator decided to leave out of a projection, in every generation."""

    __tablename__ = "skipped_events"

    projection: Mapped[str] = mapped_column(String, primary_key=True)
    stream: Mapped[str] = mapped_column(String, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    event_id: Mapped[str] = mapped_column(String)
    event_type: Mapped[str] = mapped_column(String)
    error: Mapped[str] = mapped_column(String)
    actor: Mapped[str] = mapped_column(String)
    reason: Mapped[str] = mapped_column(String)
    skipped_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Drift(Base):
    """A product whose row is not the fold of its events."""

    __tablename__ = "drift"

    projection: Mapped[str] = mapped_column(String, primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    product_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    kind: Mapped[str] = mapped_column(String)
    revision: Mapped[int] = mapped_column(BigInteger)
    fields: Mapped[list[str]] = mapped_column(ARRAY(String))
    found_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (_of_a_generation("drift"),)


class Comparison(Base):
    """How a generation compares with the one that serves."""

    __tablename__ = "comparisons"

    projection: Mapped[str] = mapped_column(String, primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    against: Mapped[int] = mapped_column(Integer)
    compared: Mapped[int] = mapped_column(BigInteger)
    missing: Mapped[int] = mapped_column(BigInteger)
    extra: Mapped[int] = mapped_column(BigInteger)
    different: Mapped[int] = mapped_column(BigInteger)
    fields: Mapped[Any] = mapped_column(JSONB)
    began_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (_of_a_generation("comparisons"),)


class Difference(Base):
    """A field of a row that differs between a generation and the one that serves."""

    __tablename__ = "differences"

    projection: Mapped[str] = mapped_column(String, primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(collation="C"), primary_key=True)
    field: Mapped[str] = mapped_column(String(collation="C"), primary_key=True)
    kind: Mapped[str] = mapped_column(String)
    revision: Mapped[int] = mapped_column(BigInteger)
    before: Mapped[str | None] = mapped_column(String)
    after: Mapped[str | None] = mapped_column(String)

    __table_args__ = (_of_a_generation("differences"),)


_FOREVER = text("'infinity'")

product_versions = Table(
    "product_versions",
    Base.metadata,
    # What a product has, a version of it has.
    *(Column(column.name, column.type, nullable=column.nullable) for column in Product.__table__.columns),
    Column("made_by", BigInteger, nullable=False),
    Column("valid_from", DateTime(timezone=True), nullable=False),
    Column("valid_to", DateTime(timezone=True), server_default=_FOREVER, nullable=False),
    Column("recorded_from", DateTime(timezone=True), nullable=False),
    Column("recorded_to", DateTime(timezone=True), server_default=_FOREVER, nullable=False),
    Column("superseded_at", DateTime(timezone=True), server_default=_FOREVER, nullable=False),
    Column("planned", Boolean, server_default=text("false"), nullable=False),
    PrimaryKeyConstraint("product_id", "made_by", "valid_from"),
    # No index holds `superseded_at`, or most updates would have to touch all of them.
    Index("product_versions_by_name", "name_key", "product_id"),
    Index(
        "product_versions_by_price",
        "price_currency",
        "price_amount",
        "product_id",
        postgresql_where=text("price_amount IS NOT NULL"),
    ),
    Index(
        "product_versions_by_make",
        "make_key",
        "model_key",
        "model_year",
        postgresql_where=text("make_key IS NOT NULL"),
    ),
    Index("product_versions_by_category", "category"),
    Index("product_versions_by_sku", "sku"),
    Index("product_versions_by_words", "search", postgresql_using="gin"),
)
"""Every version of every product that was ever believed: for which time, and since and until when."""


class Schedule(Base):
    """What is planned for a product, and how it ended. A generation of the products has its own."""

    __tablename__ = "schedules"

    schedule_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    product_id: Mapped[UUID] = mapped_column(Uuid)
    price_amount: Mapped[str | None] = mapped_column(String)
    price_currency: Mapped[str | None] = mapped_column(String)
    published: Mapped[bool | None] = mapped_column(Boolean)
    effective_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    scheduled_by: Mapped[str] = mapped_column(String)
    scheduled_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    reason: Mapped[str] = mapped_column(String)
    state: Mapped[str] = mapped_column(String)
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    failure: Mapped[str] = mapped_column(String, server_default=text("''"))

    __table_args__ = (
        CheckConstraint("state IN ('open', 'activated', 'cancelled', 'failed')", name="state"),
        CheckConstraint(
            "(price_amount IS NULL) = (price_currency IS NULL) AND (price_amount IS NULL) <> (published IS NULL)",
            name="change",
        ),
        Index("schedules_of_product", "product_id", "effective_at", "schedule_id"),
        Index("schedules_by_time", "effective_at", "schedule_id"),
        Index("schedules_open", "effective_at", "schedule_id", postgresql_where=text("state = 'open'")),
    )


class ScheduleRefusal(Base):
    """Why a schedule that is due was not carried out, as the worker last heard. It is no part of any projection."""

    __tablename__ = "schedule_refusals"

    schedule_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    code: Mapped[int] = mapped_column(Integer)
    reason: Mapped[str] = mapped_column(String)
    message: Mapped[str] = mapped_column(String)
    refused_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    attempts: Mapped[int] = mapped_column(Integer)
    next_attempt_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
