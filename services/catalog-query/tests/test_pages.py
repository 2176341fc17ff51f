"""Pages over two shards of real Postgres, against the same questions asked of a Python list."""

# ruff: noqa: S311 - chance makes test data
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import asyncpg
import orjson
import pytest
from catalog_query.adapters.models import Car, Product, Truck, Vehicle
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.adapters.products import ProductTable
from catalog_query.adapters.queries import ProductPages, compose
from catalog_query.application import cursors
from catalog_query.application.reads import ProductReader
from catalog_query.application.shards import Shards
from catalog_query.domain import words
from catalog_query.domain.product import evolve
from catalog_query.domain.projection import Target
from catalog_query.domain.query import VEHICLES, Filter, Query, Sort
from catalog_query.projections.product import row
from chassis.database.engine import create_engine
from chassis.database.pool import Database
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

Document = Mapping[str, Any]
TARGET = Target("products")
MAKES = ("Volvo", "Ford", "BMW", "Škoda", "kia")
CATEGORIES = ("vehicles", "vehicles/suv", "vehicles/suv/electric", "vehicles0", "parts/wipers")


def pages_of(engine: AsyncEngine) -> ProductPages:
    """The pages of the first generation."""

    async def adopted() -> None:
        pass

    return ProductPages(engine, lambda: 1, adopted)


@dataclass
class Catalog:
    """Two shards with products in them, and the same products as a list."""

    shards: Sequence[ReadModelShard]
    engines: Sequence[AsyncEngine]
    owner: Sequence[str]
    reader: ProductReader
    documents: dict[str, Document]
    new: Callable[[int], Sequence[Document]]
    position: Any

    async def add(self, documents: Sequence[Document]) -> None:
        for number, shard in enumerate(self.shards):
            rows = [row(one, before=None) for one in documents if Shards(2).read_shard_of(one["product_id"]) == number]
            lease = await shard.claim(TARGET, event_shard=0, owner="test", lease=60)
            assert lease is not None
            table = ProductTable(shard, TARGET)

            async def write(connection: Any, table: ProductTable = table, rows: Any = rows) -> None:
                if rows:
                    await table.merge(connection, rows)

            before = lease.position
            await shard.write(TARGET, event_shard=0, token=lease.token, before=before, after=before + 1, rows=write)
        self.documents.update({one["product_id"]: one for one in documents})

    async def all_pages(self, query: Query) -> list[Document]:
        """Every page, with the place between them taken through a page token."""
        found: list[Document] = []
        while True:
            page, after = await self.reader.page(query)
            assert len(page) <= query.size
            found.extend(orjson.loads(one.document) for one in page)
            if after is None:
                return found
            assert page
            token = cursors.of_key(after, question=b"")
            query = replace(query, after=cursors.to_key(token, sort=query.sort, question=b""))


def kept(document: Document, wanted: Filter) -> bool:
    attributes, price = document["attributes"], document["price"]
    amount = Decimal(price["amount"]) if price else None
    conditions = [
        wanted.kinds is None or document["kind"] in wanted.kinds,
        wanted.make is None or (attributes.get("make") or "").casefold() == wanted.make.casefold(),
        wanted.model is None or (attributes.get("model") or "").casefold() == wanted.model.casefold(),
        wanted.model_year_from is None or (attributes.get("model_year") or 0) >= wanted.model_year_from,
        wanted.model_year_to is None or (attributes.get("model_year") or 99999) <= wanted.model_year_to,
        wanted.category is None or f"{document['category']}/".startswith(f"{wanted.category}/"),
        wanted.currency is None or (price is not None and price["currency"] == wanted.currency),
        wanted.price_from is None or (amount is not None and amount >= wanted.price_from),
        wanted.price_to is None or (amount is not None and amount <= wanted.price_to),
        wanted.statuses is None or document["status"] in wanted.statuses,
        wanted.sku is None or document["sku"] == wanted.sku,
    ]
    return all(conditions)


SORT_VALUES: Mapping[Sort, Callable[[Document], Any]] = {
    Sort.NAME: lambda one: one["name"].casefold(),
    Sort.PRICE: lambda one: Decimal(one["price"]["amount"]) if one["price"] else None,
    Sort.MODEL_YEAR: lambda one: one["attributes"].get("model_year"),
    Sort.UPDATED: lambda one: datetime.fromisoformat(one["updated_at"]),
}


def answer(documents: Mapping[str, Document], query: Query) -> list[str]:
    """The same question asked of a list: product ids in order."""
    value = SORT_VALUES[query.sort]
    found = [one for one in documents.values() if kept(one, query.filter) and value(one) is not None]
    found.sort(key=lambda one: (value(one), uuid.UUID(one["product_id"])), reverse=query.descending)
    return [one["product_id"] for one in found]


@pytest.fixture(scope="module")
async def catalog(databases, log_fake, build) -> AsyncIterator[Catalog]:
    """Products that tests read, and may add to."""
    async with _catalog(databases, log_fake, build) as made:
        yield made


@pytest.fixture(scope="module")
async def grown(databases, log_fake, build) -> AsyncIterator[Catalog]:
    """The same with so many products more that a plan matters."""
    async with _catalog(databases, log_fake, build) as made:
        await _grow(made.owner[0])
        yield made


@asynccontextmanager
async def _catalog(databases: Any, log_fake: Any, build: Any) -> AsyncIterator[Catalog]:
    chance = random.Random(11)
    numbers = itertools.count()
    log = log_fake(1)

    def new(count: int) -> Sequence[Document]:
        return [_document(log, build, chance, next(numbers)) for _ in range(count)]

    read = await databases(2)
    async with AsyncExitStack() as stack:
        shards, engines = [], []
        for number, dsn in enumerate(read.service):
            database = await Database.open(dsn, name=f"test_{number}", size=2)
            stack.push_async_callback(database.close)
            shards.append(ReadModelShard(database))
            engine = create_engine(dsn, name=f"test_{number}_search", size=2, isolation_level="AUTOCOMMIT")
            stack.push_async_callback(engine.dispose)
            engines.append(engine.execution_options(schema_translate_map={None: TARGET.schema}))
        reader = ProductReader(
            shards=Shards(2),
            documents=[ProductTable(one, TARGET) for one in shards],
            pages=[pages_of(one) for one in engines],
            page_bytes=2**21,
        )
        made = Catalog(shards, engines, read.owner, reader, {}, new, None)
        await made.add(new(180))
        yield made


def _document(log: Any, build: Any, chance: random.Random, number: int) -> Document:
    sku = f"SKU-{number}"
    make = chance.choice(MAKES)
    # Few different values, so that ties are many.
    name = chance.choice([f"{make} {chance.randrange(4)}", "Éclair", "eclair", "apple", "Apple", "zebra", "_", "a b"])
    more = {"category": chance.choice(CATEGORIES), "text": chance.choice(["", "blue paint", "red paint", "winter"])}
    kind = chance.choice(["car", "truck", "general"])
    if kind == "general":
        description = build.general(name, **more)
    else:
        description = getattr(build, kind)(
            name, make=make, model=f"M{chance.randrange(3)}", year=chance.choice([0, 1999, 2020, 2024]), **more
        )
    product_id = build.id_of(sku)
    log.append(product_id, build.created(sku, description))
    if chance.random() < 0.7:
        log.append(
            product_id, build.price(chance.choice(["9.50", "10.00", "100.00", "2.00"]), chance.choice(["EUR", "USD"]))
        )
    if chance.random() < 0.5:
        log.append(product_id, build.published())
    document = None
    for event in log.history(product_id):
        document = evolve(document, event)
    assert document is not None
    return document


FILTERS = (
    Filter(),
    Filter(kinds=frozenset({"car"})),
    Filter(kinds=VEHICLES),
    Filter(kinds=frozenset({"general", "truck"})),
    Filter(make="VOLVO"),
    Filter(make="škoda", model="m1"),
    Filter(model_year_from=2000),
    Filter(model_year_to=2020, kinds=frozenset({"truck"})),
    Filter(category="vehicles"),
    Filter(category="vehicles/suv", statuses=frozenset({"published"})),
    Filter(currency="EUR", price_from=Decimal("9.5"), price_to=Decimal(10)),
    Filter(sku="SKU-17"),
    Filter(make="nobody"),
)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", list(SORT_VALUES))
async def test_pages_in_any_order_are_those_of_a_sorted_list(catalog, sort, descending):
    """Every product that is kept comes once, in order, whatever the filter and the size of the pages, over both shards."""
    for wanted, size in itertools.product(FILTERS, (7, 200)):
        kept_in = replace(wanted, currency="EUR") if sort is Sort.PRICE else wanted
        query = Query(kept_in, sort, descending, size)
        found = await catalog.all_pages(query)
        assert [one["product_id"] for one in found] == answer(catalog.documents, query), (wanted, size)


async def test_products_that_come_meanwhile_neither_double_nor_hide_others(catalog):
    """What was there at the beginning is seen exactly once, with whatever comes between the pages."""
    query = Query(Filter(), Sort.NAME, descending=False, size=10)
    before = answer(catalog.documents, query)
    seen: list[str] = []
    while True:
        page, after = await catalog.reader.page(query)
        seen.extend(orjson.loads(one.document)["product_id"] for one in page)
        if after is None:
            break
        await catalog.add(catalog.new(5))
        query = replace(query, after=after)
    assert len(seen) == len(set(seen))
    assert [one for one in seen if one in before] == before


@pytest.mark.parametrize(
    "text", ["paint", "blue pai", "volvo", "VOLVO 1", "skoda", "sku 1", "eclair", "nothing such", "apple winter"]
)
async def test_a_search_finds_what_has_all_words_the_last_as_a_beginning(catalog, text):
    """Best first, each once, and exactly the products whose words match."""
    asked = words.words(text)
    query = Query(Filter(), Sort.RELEVANCE, descending=True, size=9, words=words.query(text))
    found = await catalog.all_pages(query)
    matching = {key for key, one in catalog.documents.items() if _matches(one, asked)}
    assert {one["product_id"] for one in found} == matching
    assert len(found) == len(matching)
    in_order = await catalog.all_pages(replace(query, sort=Sort.NAME, descending=False))
    assert [one["product_id"] for one in in_order] == [
        one
        for one in answer(catalog.documents, Query(Filter(), Sort.NAME, descending=False, size=1))
        if one in matching
    ]


def _matches(document: Document, asked: Sequence[str]) -> bool:
    attributes = document["attributes"]
    values = [*document.values(), *attributes.values(), *(attributes.get("body_styles") or [])]
    stored = {word for value in values if isinstance(value, str | int) for word in words.words(str(value))}
    relevant = [document[name] for name in ("sku", "name", "kind", "category", "text")]
    relevant += [attributes.get(name) or "" for name in ("brand", "make", "model", "model_year", "gtin", "vin")]
    relevant += attributes.get("body_styles") or []
    stored &= {word for value in relevant for word in words.words(str(value))}
    return all(word in stored for word in asked[:-1]) and any(word.startswith(asked[-1]) for word in stored)


async def test_a_name_weighs_more_than_a_text(catalog, log_fake, build):
    """The word in the name comes before the same word somewhere in the text."""
    log = log_fake(1)
    made = []
    for sku, name, text in (
        ("X1", "Quaint lamp", ""),
        ("X2", "Lamp", "a quaint one"),
        ("X3", "Quaint", "quaint quaint"),
    ):
        log.append(build.id_of(sku), build.created(sku, build.general(name, text=text)))
        made.append(evolve(None, log.history(build.id_of(sku))[0]))
    await catalog.add(made)
    found, _ = await catalog.reader.page(Query(Filter(), Sort.RELEVANCE, descending=True, size=10, words="'quaint':*"))
    assert [orjson.loads(one.document)["sku"] for one in found] == ["X3", "X1", "X2"]


async def test_a_page_ends_early_when_it_would_be_too_large_for_a_message(catalog):
    """And goes on where it ended, so that nothing is lost."""
    small = ProductReader(
        shards=Shards(2),
        documents=[ProductTable(one, TARGET) for one in catalog.shards],
        pages=[pages_of(one) for one in catalog.engines],
        page_bytes=2_000,
    )
    query = Query(Filter(), Sort.NAME, descending=False, size=50)
    page, after = await small.page(query)
    assert 1 < len(page) < 50
    assert after == page[-1].key
    whole = await catalog.all_pages(query)
    assert await replace(catalog, reader=small).all_pages(query) == whole


async def test_documents_by_id_come_from_their_shards(catalog):
    """Known ids give their bytes, unknown ones nothing."""
    wanted = [uuid.UUID(one) for one in list(catalog.documents)[:20]]
    found = await catalog.reader.get([*wanted, uuid.uuid4()])
    assert {str(key): orjson.loads(one.document) for key, one in found.items()} == {
        str(one): catalog.documents[str(one)] for one in wanted
    }


async def test_a_query_of_a_class_answers_objects_of_that_class(catalog):
    """Vehicles are cars and trucks, each with its own attributes; products are all."""
    counts = {
        kind: sum(one["kind"] == kind for one in catalog.documents.values()) for kind in ("general", "car", "truck")
    }
    found: dict[type[Product], list[Product]] = {}
    for engine in catalog.engines:
        async with AsyncSession(engine) as session:
            for wanted in (Product, Vehicle, Car, Truck):
                found.setdefault(wanted, []).extend(await session.scalars(select(wanted)))
    assert len(found[Product]) == sum(counts.values())
    assert len(found[Vehicle]) == counts["car"] + counts["truck"]
    assert {type(one) for one in found[Product]} == {Product, Car, Truck}
    assert {type(one) for one in found[Vehicle]} == {Car, Truck}
    for one in found[Car]:
        assert isinstance(one, Car)
        assert one.seats == catalog.documents[str(one.product_id)]["attributes"]["seats"]
    for one in found[Truck]:
        assert isinstance(one, Truck)
        assert one.payload_kg == 800


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "boat"},
        {"kind": "general", "make_key": "volvo"},
        {"kind": "car"},
        {"kind": "car", "make_key": "a", "model_key": "b", "payload_kg": 1},
        {"kind": "truck", "make_key": "a", "model_key": "b", "doors": 1},
        {"kind": "general", "price_amount": Decimal(1)},
        {"kind": "general", "status": "lost"},
    ],
)
async def test_a_row_that_is_no_product_of_its_kind_is_refused(catalog, values):
    """One table for every kind is only safe with the constraints of each kind."""
    row_ = {
        "product_id": uuid.uuid4(), "revision": 0, "sku": "s", "name_key": "n", "category": "c", "status": "draft",
        "updated_at": func.now(), "document": b"{}", "search": "",
    } | values  # fmt: skip
    async with catalog.engines[0].connect() as connection:
        with pytest.raises(IntegrityError, match="products_"):
            await connection.execute(Product.__table__.insert().values(row_))


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (Query(Filter(), Sort.NAME, descending=False, size=50), "products_by_name"),
        (Query(Filter(), Sort.NAME, descending=True, size=50), "products_by_name"),
        (Query(Filter(currency="EUR"), Sort.PRICE, descending=True, size=50), "products_by_price"),
        (Query(Filter(), Sort.MODEL_YEAR, descending=True, size=50), "products_by_model_year"),
        (Query(Filter(), Sort.UPDATED, descending=True, size=50), "products_by_updated"),
        (Query(Filter(make="Rare"), Sort.NAME, descending=False, size=50), "products_by_make"),
        (Query(Filter(category="rare"), Sort.NAME, descending=False, size=50), "products_by_category"),
        (Query(Filter(sku="SKU-9"), Sort.NAME, descending=False, size=50), "products_by_sku"),
        (Query(Filter(), Sort.RELEVANCE, descending=True, size=50, words="'needle'"), "products_by_words"),
    ],
)
async def test_each_order_and_filter_has_its_index(grown, query, index):
    """A page costs the page: first and later ones are read along an index, without sorting or scanning the table."""
    first = await _plan(grown.engines[0], query)
    assert index in first
    assert "Seq Scan" not in first
    page = await pages_of(grown.engines[0]).page(query)
    if index in {"products_by_name", "products_by_price", "products_by_model_year", "products_by_updated"}:
        assert "Sort" not in first
        later = await _plan(grown.engines[0], replace(query, after=page[-1].key))
        assert f"using {index}" in later
        assert "Index Cond: (ROW(" in later or "AND (ROW(" in later
        assert "Sort" not in later


async def test_a_read_by_id_and_a_write_go_by_the_primary_key(grown):
    """Neither looks at other rows than its own, however many there are."""
    connection = await asyncpg.connect(grown.owner[0])
    try:
        read = await connection.fetch(
            f"EXPLAIN {ProductTable(grown.shards[0], TARGET).read_statement}",
            [uuid.uuid4() for _ in range(64)],
        )
        assert "products_pkey" in str(read)
        rows = [row(one, before=None) for one in grown.new(40)]
        write = await connection.fetch(
            f"EXPLAIN {ProductTable(grown.shards[0], TARGET).merge_statement}", *zip(*rows, strict=True)
        )
        assert "products_pkey" in str(write)
        assert "Seq Scan" not in str(write)
    finally:
        await connection.close()


async def _grow(owner: str) -> None:
    """Twenty thousand products more, without asking the projector, and fresh statistics."""
    connection = await asyncpg.connect(owner)
    try:
        await connection.execute(
            """
            INSERT INTO products_1.products (product_id, kind, revision, sku, name_key, category, status, price_amount, price_currency,
                updated_at, document, search, make_key, model_key, model_year)
            SELECT gen_random_uuid(), 'car', 0, 'grown-' || n, md5(n::text), 'grown/' || n % 50, 'published', n, 'EUR',
                now() - make_interval(secs => n), convert_to(repeat('x', 600), 'UTF8'), ('''w' || n % 500 || ''':1')::tsvector,
                'make' || n % 40, 'model' || n % 400, 1990 + n % 35
            FROM generate_series(1, 20000) AS n
            """
        )
        await connection.execute("VACUUM ANALYZE products_1.products")
    finally:
        await connection.close()


async def _plan(engine: AsyncEngine, query: Query) -> str:
    statement = compose(query).compile(
        dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True, "render_postcompile": True}
    )
    async with engine.connect() as connection:
        await connection.exec_driver_sql(f"SET search_path = {TARGET.schema}")
        return "\n".join((await connection.exec_driver_sql(f"EXPLAIN {statement}")).scalars())
