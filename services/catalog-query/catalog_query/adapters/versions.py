"""The table of versions of a generation: what was believed of each product, for which time, since when."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from chassis.database.pool import Connection
from sqlalchemy import TIMESTAMP, MetaData, Select, bindparam, func, select
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from catalog_query.adapters.copying import ROWS, lines
from catalog_query.adapters.models import product_versions
from catalog_query.adapters.postgres import ReadModelShard, rows_of
from catalog_query.adapters.products import COLUMNS
from catalog_query.adapters.queries import UNDEFINED_TABLE, compose
from catalog_query.domain.errors import ReadModelDiverged
from catalog_query.domain.projection import VERSIONS, Target
from catalog_query.domain.query import Found, Key, Query
from catalog_query.domain.rows import LatestVersion, Splice, VersionRow

_NAMES: Final = ", ".join(name for name, _, _ in COLUMNS)
_VERSION: Final = "made_by, valid_from, valid_to, recorded_from, superseded_at, planned"

_LATEST: Final = (
    "SELECT product_id, document, made_by, valid_from, planned, CASE WHEN $2 THEN search::text END FROM {table}"
    " WHERE product_id = ANY($1::uuid[])"
    " AND valid_to = 'infinity' AND recorded_to = 'infinity' AND superseded_at = 'infinity'"
)

# Only what is as it was when it was folded upon: somebody else may have gone on meanwhile.
_END: Final = (
    "UPDATE {table} AS version SET superseded_at = ended.at"
    " FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::timestamptz[])"
    " AS ended (product_id, made_by, valid_from, at)"
    " WHERE version.product_id = ended.product_id AND version.made_by = ended.made_by"
    " AND version.valid_from = ended.valid_from"
    " AND version.recorded_to = 'infinity' AND version.superseded_at = 'infinity'"
)

_VALUES: Final = ", ".join(
    "coalesce(change.search::tsvector, origin.search)" if name == "search" else f"change.{name}{cast}"
    for name, _, cast in COLUMNS
)
_ADD: Final = (
    f"INSERT INTO {{table}} ({_NAMES}, {_VERSION})"  # noqa: S608 - made of the constants above
    f" SELECT {_VALUES}, change.made_by, change.valid_from, coalesce(change.valid_to, 'infinity'),"
    " change.recorded_from, coalesce(change.superseded_at, 'infinity'), change.planned"
    f" FROM unnest({', '.join(f'${n}::{kind}[]' for n, (_, kind, _) in enumerate(COLUMNS, start=9))},"
    " $1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::boolean[],"
    " $7::bigint[], $8::timestamptz[])"
    f" AS change ({_NAMES}, {_VERSION}, words_made_by, words_valid_from)"
    " LEFT JOIN {table} AS origin ON origin.product_id = change.product_id"
    " AND origin.made_by = change.words_made_by AND origin.valid_from = change.words_valid_from"
)

_SEEN: Final = "SELECT coalesce(max(made_by), -1) FROM {table} WHERE product_id = $1"

_STILL: Final = "product_id = $1 AND recorded_to = 'infinity' AND least(valid_to, superseded_at) > $2"
_SUPERSEDE: Final = f"UPDATE {{table}} SET superseded_at = $2 WHERE {_STILL}"  # noqa: S608 - as above

# What reaches into the past: rows are closed for those who know of it, and what held before it is said again.
_CLOSE: Final = (
    f"WITH closed AS (UPDATE {{table}} SET recorded_to = $3 WHERE {_STILL} RETURNING *)"  # noqa: S608 - as above
    f" INSERT INTO {{table}} ({_NAMES}, {_VERSION})"
    f" SELECT {_NAMES}, $4, valid_from, $2, $3, 'infinity', planned FROM closed WHERE valid_from < $2"
)

_FOREVER: Final = "infinity"
_ANY_GENERATION: Final = "versions"
_VERSIONS: Final = product_versions.to_metadata(MetaData(), schema=_ANY_GENERATION)
"""The table, in a schema that stands for that of the generation that is read."""


_COPIED: Final = [name for name, _, _ in COLUMNS] + _VERSION.split(", ")


class VersionTable:
    """The versions of one generation in one shard."""

    def __init__(self, shard: ReadModelShard, target: Target, *, filling: bool = False) -> None:
        """Read and write versions.

        Args:
            shard: the shard.
            target: the generation.
            filling: whether there is a lot to write: rows that bring their words are written by COPY then, and the
                latest version of a product comes with its words.
        """
        self._shard = shard
        self._schema = target.schema
        self._filling = filling
        self._statements = {
            statement: statement.format(table=f"{target.schema}.product_versions")
            for statement in (_LATEST, _END, _ADD, _SEEN, _SUPERSEDE, _CLOSE)
        }

    async def latest(self, product_ids: Sequence[UUID]) -> Mapping[UUID, LatestVersion]:
        """The row of each of these products that holds for ever after."""
        async with self._shard.connection() as connection:
            rows = await connection.fetch(self._statements[_LATEST], product_ids, self._filling)
        return {row[0]: LatestVersion(*row[1:]) for row in (tuple(row) for row in rows)}

    async def write(
        self,
        connection: Connection,
        *,
        ends: Sequence[tuple[UUID, int, datetime, datetime]],
        rows: Sequence[VersionRow],
        splices: Sequence[Splice],
    ) -> None:
        """End rows, named by product, `made_by` and `valid_from`, at a time; add rows; splice.

        Raises:
            ReadModelDiverged: a row was not as it was when this was prepared.
        """
        for start in range(0, len(ends), ROWS):
            piece = ends[start : start + ROWS]
            ended = await connection.execute(self._statements[_END], *zip(*piece, strict=True))
            if rows_of(ended) != len(piece):
                raise ReadModelDiverged
        if self._filling:
            await self.copy(connection, [row for row in rows if row.product.search is not None])
            rows = [row for row in rows if row.product.search is None]
        await self._add(connection, rows)
        for splice in splices:
            await self._splice(connection, splice)

    async def _splice(self, connection: Connection, splice: Splice) -> None:
        if await connection.fetchval(self._statements[_SEEN], splice.product_id) != splice.seen:
            raise ReadModelDiverged
        if splice.since >= splice.at:
            await connection.execute(self._statements[_SUPERSEDE], splice.product_id, splice.at)
        else:
            await connection.execute(
                self._statements[_CLOSE], splice.product_id, splice.since, splice.at, splice.made_by
            )
        await self._add(connection, splice.rows)

    async def copy(self, connection: Connection, rows: Sequence[VersionRow]) -> None:
        """Add rows that bring their words, in the fastest way that there is."""
        for start in range(0, len(rows), ROWS):
            source = lines(
                (
                    *row.product[1:],
                    row.made_by,
                    row.valid_from,
                    row.valid_to or _FOREVER,
                    row.recorded_from,
                    row.superseded_at or _FOREVER,
                    row.planned,
                )
                for row in rows[start : start + ROWS]
            )
            await connection.copy_to_table("product_versions", schema_name=self._schema, columns=_COPIED, source=source)

    async def _add(self, connection: Connection, rows: Sequence[VersionRow]) -> None:
        if not rows:
            return
        versions = [
            (
                row.made_by,
                row.valid_from,
                row.valid_to,
                row.recorded_from,
                row.superseded_at,
                row.planned,
                *(row.words_of or (None, None)),
                *row.product[1:],
            )
            for row in rows
        ]
        await connection.execute(self._statements[_ADD], *zip(*versions, strict=True))


class VersionPages:
    """Pages of one shard's products as they were."""

    def __init__(
        self, engine: AsyncEngine, generation: Callable[[], int], adopted: Callable[[], Awaitable[None]]
    ) -> None:
        self._engine = engine
        self._generation = generation
        self._adopted = adopted

    async def page(self, query: Query, *, as_of: datetime, known_at: datetime) -> Sequence[Found]:
        """The first `query.size` products that the query keeps, in its order, of those that held at `as_of` by what
        was recorded by `known_at`.
        """
        statement = compose_as_of(query, as_of=as_of, known_at=known_at)
        generation = self._generation()
        try:
            return await self._page(statement, generation)
        except ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) != UNDEFINED_TABLE:
                raise
            # It was dropped before this process heard that another one serves.
            await self._adopted()
            if self._generation() == generation:
                raise
        return await self.page(query, as_of=as_of, known_at=known_at)

    async def _page(self, statement: Select[Any, UUID, bytes], generation: int) -> Sequence[Found]:
        options = {"schema_translate_map": {_ANY_GENERATION: Target(VERSIONS, generation).schema}}
        async with self._engine.connect() as connection:
            rows = await connection.execute(statement, execution_options=options)
            return [Found(Key(value, product_id), document) for value, product_id, document in rows]


def compose_as_of(query: Query, *, as_of: datetime, known_at: datetime) -> Select[Any, UUID, bytes]:
    """The statement of a page of the present, over a `products` that is what held then.

    A common table expression takes the place of the table. It is named once, so Postgres plans through it, and every
    filter and order is by construction that of the present.
    """
    version = _VERSIONS.c
    then = bindparam("as_of", as_of, TIMESTAMP(timezone=True))
    known = bindparam("known_at", known_at, TIMESTAMP(timezone=True))
    held = select(_VERSIONS).where(
        version.valid_from <= then,
        version.valid_to > then,
        version.recorded_from <= known,
        version.recorded_to > known,
        version.superseded_at > func.least(then, known),
    )
    return compose(query).add_cte(held.cte("products"))
