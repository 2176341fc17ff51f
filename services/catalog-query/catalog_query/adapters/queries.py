"""Pages of one shard's products, composed with SQLAlchemy over the polymorphic models.

These are read-only statements in autocommit: a page is one statement, so a transaction around it would only cost two
round trips. Pages go by key, not by offset: a page costs the same however deep it is, and what is inserted meanwhile
neither doubles nor hides anything. The documents come as bytes; no object is ever made of a row.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Select, bindparam, cast, func, literal, or_, select, tuple_
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from catalog_query.adapters.models import Car, Product, Truck, Vehicle
from catalog_query.domain.projection import PRODUCTS, Target
from catalog_query.domain.query import VEHICLES, Filter, Found, Key, Query, Sort
from catalog_query.domain.rows import caseless

_RELEVANCE_STEPS: Final = 1_000_000
UNDEFINED_TABLE: Final = "42P01"
"""The SQLSTATE of a statement about a table that is not there."""

Value = TypeVar("Value")


class ProductPages:
    """The pages of one shard."""

    def __init__(
        self, engine: AsyncEngine, generation: Callable[[], int], adopted: Callable[[], Awaitable[None]]
    ) -> None:
        self._engine = engine
        self._generation = generation
        self._adopted = adopted

    async def page(self, query: Query) -> Sequence[Found]:
        """The first `query.size` products that the query keeps, in its order."""
        generation = self._generation()
        try:
            return await self._page(query, generation)
        except ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) != UNDEFINED_TABLE:
                raise
            # It was dropped before this process heard that another one serves.
            await self._adopted()
            if self._generation() == generation:
                raise
        return await self.page(query)

    async def _page(self, query: Query, generation: int) -> Sequence[Found]:
        # The models stand for the template; the map puts the schema of a generation before their table.
        schema = Target(PRODUCTS, generation).schema
        async with self._engine.connect() as connection:
            rows = await connection.execute(compose(query), execution_options={"schema_translate_map": {None: schema}})
            return [Found(Key(value, product_id), document) for value, product_id, document in rows]


def compose(query: Query) -> Select[Any, UUID, bytes]:
    """The statement of a page: sort value, product id and document."""
    entity = _entity(query)
    words = None if query.words is None else cast(bindparam("words", query.words), TSQUERY)
    value = _sort_value(query.sort, words)
    place = tuple_(value, Product.product_id)
    statement = select(value, entity.product_id, entity.document).where(*_conditions(query.filter, query.sort))
    if words is not None:
        statement = statement.where(Product.search.bool_op("@@")(words))
    if query.after is not None:
        after = tuple_(literal(query.after.value, value.type), literal(query.after.product_id, Product.product_id.type))
        statement = statement.where(place < after if query.descending else place > after)
    order = (value, Product.product_id)
    return statement.order_by(*(one.desc() if query.descending else one.asc() for one in order)).limit(query.size)


def _entity(query: Query) -> type[Product]:
    """The narrowest class of which all that is asked for are: its kinds become a condition by themselves."""
    kinds = query.filter.kinds
    if kinds == frozenset({"car"}):
        return Car
    if kinds == frozenset({"truck"}):
        return Truck
    if query.sort is Sort.MODEL_YEAR or (kinds is not None and kinds <= VEHICLES):
        return Vehicle
    return Product


def _sort_value(sort: Sort, words: ColumnElement[Any] | None) -> ColumnElement[Any]:
    match sort:
        case Sort.NAME:
            return Product.name_key.expression
        case Sort.PRICE:
            return Product.price_amount.expression
        case Sort.MODEL_YEAR:
            return Vehicle.model_year.expression
        case Sort.UPDATED:
            return Product.updated_at.expression
        case Sort.RELEVANCE:
            # In whole steps: a float would not come back from a page token as the same number.
            return cast(func.ts_rank(Product.search, words) * _RELEVANCE_STEPS, Integer)


def _conditions(wanted: Filter, sort: Sort) -> Sequence[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool] | None] = [
        _if(wanted.make, lambda make: Vehicle.make_key == caseless(make)),
        _if(wanted.model, lambda model: Vehicle.model_key == caseless(model)),
        _if(wanted.model_year_from, lambda year: Vehicle.model_year >= year),
        _if(wanted.model_year_to, lambda year: Vehicle.model_year <= year),
        _if(wanted.category, _within),
        _if(wanted.currency, lambda currency: Product.price_currency == currency),
        _if(wanted.price_from, lambda amount: Product.price_amount >= amount),
        _if(wanted.price_to, lambda amount: Product.price_amount <= amount),
        _if(wanted.statuses, lambda statuses: Product.status.in_(sorted(statuses))),
        _if(wanted.sku, lambda sku: Product.sku == sku),
    ]
    if wanted.kinds is not None and not wanted.kinds <= VEHICLES:
        conditions.append(Product.kind.in_(sorted(wanted.kinds)))
    # What has no value in the order is left out; said in the words of the partial indexes.
    if sort is Sort.PRICE:
        conditions.append(Product.price_amount.is_not(None))
    elif sort is Sort.MODEL_YEAR:
        conditions.append(Vehicle.model_year.is_not(None))
    return [condition for condition in conditions if condition is not None]


def _if(value: Value | None, condition: Callable[[Value], ColumnElement[bool]]) -> ColumnElement[bool] | None:
    return None if value is None else condition(value)


def _within(category: str) -> ColumnElement[bool]:
    # What is below it, as a range: from `vehicles/` to just before `vehicles0`, since `0` follows `/`.
    below = (Product.category > f"{category}/") & (Product.category < f"{category}0")
    return or_(Product.category == category, below)
