"""What sealing costs: sealed columns against plain ones, in the same table of the same Postgres, through the same ORM.

Also what a blind index costs against an ordinary one, what sealing and opening cost by themselves, and what it costs at
the door to show less of a person to those who may see less.
"""

import os
import tempfile
import time
import timeit
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID, uuid4

import uvloop
from almagest.auth.v1 import auth_pb2
from almagest_cli.local.postgres import EmbeddedPostgres
from chassis.database.engine import create_engine
from chassis.sealing.aead import SealingKey
from chassis.sealing.columns import SealedCell, SealedText, column_context, seal_with, sealed
from chassis.sealing.index import IndexKey
from chassis.sealing.ring import SealingRing
from gateway.encoding import encode
from gateway.representations.people import User
from gateway.representations.shapes import Shape
from sqlalchemy import LargeBinary, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PEOPLE = 4_000
BATCH = 500
READS = 500
ROUNDS = 3


class Row(DeclarativeBase):
    """Two tables."""


class Plain(Row):
    """A person as they were."""

    __tablename__ = "plain"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    first_name: Mapped[str]
    last_name: Mapped[str]


class Bare(Shape):
    """A person in an answer, without a hook."""

    user_id: str
    email: str
    first_name: str
    last_name: str
    full_name: str


class Sealed(Row):
    """A person as they are."""

    __tablename__ = "sealed"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email_index: Mapped[bytes] = mapped_column(LargeBinary(), unique=True)
    _email: Mapped[SealedCell] = mapped_column("sealed_email", SealedText("sealed", "email"))
    _first_name: Mapped[SealedCell] = mapped_column("sealed_first_name", SealedText("sealed", "first_name"))
    _last_name: Mapped[SealedCell] = mapped_column("sealed_last_name", SealedText("sealed", "last_name"))
    email = sealed("_email", row="id")
    first_name = sealed("_first_name", row="id")
    last_name = sealed("_last_name", row="id")


class People:
    """The same people in both tables."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._index = IndexKey(os.urandom(32), key_id=os.urandom(8))
        self._people = [(uuid4(), f"person.{number}@example.org") for number in range(PEOPLE)]

    async def write(self, table: type[Plain] | type[Sealed]) -> None:
        """All of them, in batches."""
        for first in range(0, PEOPLE, BATCH):
            async with self._sessions.begin() as session:
                for user_id, email in self._people[first : first + BATCH]:
                    names = {"email": email, "first_name": "Ada Augusta", "last_name": "King-Noel"}
                    index = {"email_index": self._index.of(email)} if table is Sealed else {}
                    session.add(table(id=user_id, **names, **index))

    async def read(self, table: type[Plain] | type[Sealed], *, by_email: bool = False) -> None:
        """Some of them, one after another, each with all fields looked at."""
        for user_id, email in self._people[:READS]:
            async with self._sessions() as session:
                if not by_email:
                    row = await session.get_one(table, user_id)
                elif table is Sealed:
                    row = (
                        await session.scalars(select(Sealed).where(Sealed.email_index == self._index.of(email)))
                    ).one()
                else:
                    row = (await session.scalars(select(Plain).where(Plain.email == email))).one()
            _ = row.email, row.first_name, row.last_name

    async def scan(self, table: type[Plain] | type[Sealed]) -> None:
        """All of them, in one statement."""
        async with self._sessions() as session:
            rows = (await session.scalars(select(table))).all()
        _ = [(row.email, row.first_name, row.last_name) for row in rows]


async def measure(postgres: EmbeddedPostgres) -> None:
    """Both tables in turns."""
    engine = create_engine(postgres.superuser_dsn("postgres"), name="sealing", size=2)
    seal_with(engine, SealingRing(SealingKey.fresh()))
    people = People(engine)
    took: dict[str, dict[str, list[float]]] = {}

    async def each(name: str, work: Callable[[type[Plain] | type[Sealed]], Awaitable[None]], count: int) -> None:
        for table in (Plain, Sealed):
            began = time.perf_counter()
            await work(table)
            seconds = time.perf_counter() - began
            took.setdefault(name, {}).setdefault(table.__tablename__, []).append(seconds / count * 1e6)

    for _ in range(ROUNDS):
        async with engine.begin() as connection:
            await connection.run_sync(Row.metadata.drop_all)
            await connection.run_sync(Row.metadata.create_all)
        await each("insert, batches of 500: us each", people.write, PEOPLE)
        await each("read by id: us each", people.read, READS)
        await each("read by address: us each", lambda table: people.read(table, by_email=True), READS)
        await each("read all at once: us each", people.scan, PEOPLE)
    sizes = {
        name: int(postgres.execute(f"SELECT pg_total_relation_size('{name}')", database="postgres").strip())
        for name in ("plain", "sealed")
    }
    print(f"{'':<36} {'plain':>10} {'sealed':>10} {'ratio':>7}")
    for name, tables in took.items():
        plain, closed = (sorted(tables[table])[ROUNDS // 2] for table in ("plain", "sealed"))
        print(f"{name:<36} {plain:>10.1f} {closed:>10.1f} {closed / plain:>7.2f}")
    print(f"{'bytes for each person':<36} {sizes['plain'] / PEOPLE:>10.0f} {sizes['sealed'] / PEOPLE:>10.0f} "
          f"{sizes['sealed'] / sizes['plain']:>7.2f}")  # fmt: skip
    await engine.dispose()


def alone() -> None:
    """What the parts cost without a database."""
    ring, row = SealingRing(SealingKey.fresh()), uuid4()
    context = column_context("users", "email", row)
    closed = ring.seal(b"person.1@example.org", context=context)
    index = IndexKey(os.urandom(32), key_id=os.urandom(8))
    user = auth_pb2.User(user_id=str(row), email="person.1@example.org", first_name="Ada", last_name="King")
    whole, redacted = User.of(user, whole=True), User.of(user)
    plain = {
        "user_id": str(row),
        "email": user.email,
        "first_name": "Ada",
        "last_name": "King",
        "full_name": "Ada King",
    }
    bare = Bare(**plain)
    parts: dict[str, Callable[[], object]] = {
        "seal a value": lambda: ring.seal(b"person.1@example.org", context=column_context("users", "email", row)),
        "open a value": lambda: ring.open(closed, context=column_context("users", "email", row)),
        "blind index": lambda: index.of("person.1@example.org"),
        "JSON of a dict (no hook)": lambda: encode(plain),
        "JSON of a model without hooks": lambda: encode(bare),
        "JSON of a person, whole": lambda: encode(whole),
        "JSON of a person, redacted": lambda: encode(redacted),
    }
    for name, part in parts.items():
        print(f"{name:<36} {min(timeit.repeat(part, number=20_000, repeat=5)) / 20_000 * 1e6:>10.1f} us")


def main() -> None:
    """Measure."""
    alone()
    with tempfile.TemporaryDirectory(prefix="almagest-bench-") as state:
        postgres = EmbeddedPostgres(Path(state) / "postgres")
        try:
            postgres.start()
            uvloop.run(measure(postgres))
        finally:
            postgres.remove()


if __name__ == "__main__":
    main()
