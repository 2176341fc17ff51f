"""Which database is asked: the choosers of SQLAlchemy's `ShardedSession`, from the columns that carry a bucket.

A statement goes to one shard when a criterion that all its rows must meet names a bucket: equality or IN on a column
that `tables` marks. Anything else asks every shard and merges, which is right and slow; the tests assert which
databases were asked.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from chassis.buckets import BucketMap
from sqlalchemy import BindParameter, BooleanClauseList, ClauseElement, Column, Table
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import Mapper, ORMExecuteState
from sqlalchemy.sql.elements import BinaryExpression, Grouping
from sqlalchemy.sql.operators import and_, eq, in_op

from auth.adapters.tables import BUCKET, HOME


class Shards:
    """The names of the shards, and the way from rows, keys and statements to them."""

    def __init__(self, count: int) -> None:
        self._map = BucketMap(count)
        self.names = tuple(f"users_{number}" for number in range(count))

    def of_bucket(self, bucket: int) -> str:
        """The shard that holds a bucket."""
        return self.names[self._map.shard_of(bucket)]

    def of_instance(self, mapper: Mapper[Any] | None, instance: object, clause: ClauseElement | None = None) -> str:  # noqa: ARG002 - SQLAlchemy names it
        """The shard that a row is written to (`shard_chooser`)."""
        if mapper is None or instance is None:
            raise LookupError("a statement that is not about one row must name its shard")
        table = cast("Table", mapper.local_table)
        if HOME in table.info:
            return self.of_bucket(table.info[HOME])
        for column in table.columns:
            if BUCKET in column.info:
                value = getattr(instance, mapper.get_property_by_column(column).key)
                return self.of_bucket(column.info[BUCKET](value))
        raise LookupError(f"no column of {table.name} leads to a shard")

    def of_identity(self, mapper: Mapper[Any], primary_key: Any, **_: object) -> Sequence[str]:
        """The shards where a primary key may be (`identity_chooser`)."""
        if HOME in cast("Table", mapper.local_table).info:
            return (self.of_bucket(cast("Table", mapper.local_table).info[HOME]),)
        values = cast("Sequence[object]", primary_key if isinstance(primary_key, tuple | list) else (primary_key,))
        for column, value in zip(mapper.primary_key, values, strict=True):
            if BUCKET in column.info:
                return (self.of_bucket(column.info[BUCKET](value)),)
        return self.names

    def of_statement(self, state: ORMExecuteState) -> Sequence[str]:
        """The shards that a statement must ask (`execute_chooser`)."""
        mapper = state.bind_mapper
        if mapper is not None and HOME in cast("Table", mapper.local_table).info:
            return (self.of_bucket(cast("Table", mapper.local_table).info[HOME]),)
        given = state.parameters
        parameters = cast("Mapping[str, object]", given if isinstance(given, Mapping) else {})
        where = getattr(state.statement, "whereclause", None)
        possible = set(self.names)
        for bucket_of_value, values in _criteria(where, parameters):
            possible &= {self.of_bucket(bucket_of_value(value)) for value in values}
        # Criteria that contradict each other match nothing anywhere; somebody must be asked all the same.
        return tuple(name for name in self.names if name in possible) or self.names[:1]


def sharded_sessions(shards: Shards, engines: Sequence[AsyncEngine]) -> async_sessionmaker[AsyncSession]:
    """Sessions over all shards. A transaction opens on a shard when it is first asked, and never on the others."""
    return async_sessionmaker(
        sync_session_class=ShardedSession,
        expire_on_commit=False,
        shards=dict(zip(shards.names, (engine.sync_engine for engine in engines), strict=True)),
        shard_chooser=shards.of_instance,
        identity_chooser=shards.of_identity,
        execute_chooser=shards.of_statement,
    )


def _criteria(
    clause: object, parameters: Mapping[str, object]
) -> Iterator[tuple[Callable[[Any], int], Iterable[object]]]:
    """The criteria that every row must meet and that name a bucket: the way there, and the values allowed."""
    if isinstance(clause, Grouping):
        yield from _criteria(cast("object", clause.element), parameters)
    elif isinstance(clause, BooleanClauseList) and clause.operator is and_:
        for part in clause.clauses:
            yield from _criteria(part, parameters)
    elif isinstance(clause, BinaryExpression) and clause.operator in {eq, in_op}:
        column, bound = clause.left, clause.right
        if isinstance(column, BindParameter):
            column, bound = bound, column
        if isinstance(column, Column) and isinstance(bound, BindParameter) and BUCKET in column.info:
            value = parameters.get(bound.key, bound.effective_value)
            values = cast("Iterable[object]", value) if clause.operator is in_op else (value,)
            known = [item for item in values if item is not None]
            if known:
                yield column.info[BUCKET], known
