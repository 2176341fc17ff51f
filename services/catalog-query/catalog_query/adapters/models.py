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
    CheckConstraint,
    DateTime,
    Index,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import BYTEA, TSVECTOR
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


class Checkpoint(Base):
    """How far this shard of the read model has applied a shard of the log, and which process applies it."""

    __tablename__ = "checkpoints"

    event_shard: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    owner: Mapped[str] = mapped_column(String, server_default=text("''"))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
