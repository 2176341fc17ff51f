"""What one would write in an afternoon: FastAPI, a SQLAlchemy model, a pydantic answer, one process. The reference for
reads.

It is no straw man: async engine on asyncpg with a pool, expire_on_commit off, uvicorn with uvloop and httptools, TLS
like the gateway's.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import JSON, DateTime, Numeric, String, Text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The models of this application."""


class Product(Base):
    """A product, as the catalog has it."""

    __tablename__ = "plain_products"

    product_id: Mapped[UUID] = mapped_column(primary_key=True)
    sku: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(200))
    text: Mapped[str] = mapped_column(Text)
    category: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(16))
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)
    amount: Mapped[Decimal] = mapped_column(Numeric(18, 2))
    currency: Mapped[str] = mapped_column(String(3))
    revision: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class ProductAnswer(BaseModel):
    """A product in JSON."""

    model_config = ConfigDict(from_attributes=True)

    product_id: UUID
    sku: str
    kind: str
    name: str
    text: str
    category: str
    status: str
    attributes: dict[str, Any]
    amount: Decimal
    currency: str
    revision: int
    created_at: datetime
    updated_at: datetime


def application(url: str) -> FastAPI:
    """The application over a database."""
    sessions = async_sessionmaker(create_async_engine(url, pool_size=10, max_overflow=10), expire_on_commit=False)
    app = FastAPI()

    async def session() -> AsyncIterator[AsyncSession]:
        async with sessions() as opened:
            yield opened

    @app.get("/v1/products/{product_id}", response_model=ProductAnswer)
    async def get_product(product_id: UUID, opened: Annotated[AsyncSession, Depends(session)]) -> Product:
        product = await opened.get(Product, product_id)
        if product is None:
            raise HTTPException(404)
        return product

    return app


async def fill(url: str, documents: list[dict[str, Any]]) -> None:
    """Make the table, with the same products as the catalog."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with async_sessionmaker(engine)() as session, session.begin():
        session.add_all(
            Product(
                **{key: document[key] for key in ("sku", "kind", "name", "text", "category", "status", "attributes")},
                product_id=UUID(document["product_id"]),
                amount=Decimal(document["price"]["amount"]),
                currency=document["price"]["currency"],
                revision=document["revision"],
                created_at=datetime.fromisoformat(document["created_at"]),
                updated_at=datetime.fromisoformat(document["updated_at"]),
            )
            for document in documents
        )
    await engine.dispose()


def fill_now(url: str, documents: list[dict[str, Any]]) -> None:
    """`fill`, for callers without an event loop."""
    asyncio.run(fill(url, documents))


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    for name in ("--url", "--certificate", "--key"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    told = parser.parse_args()
    uvicorn.run(
        application(told.url),
        host="127.0.0.1",
        port=told.port,
        ssl_certfile=told.certificate,
        ssl_keyfile=told.key,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
