"""Sealed columns of SQLAlchemy: text in Python, ciphertext in every statement, log, dump, file and backup.

A sealed value belongs to one table, column and row, and a type decorator is told of a value only, never of its row. So
the value brings its row along: `SealedText` takes and gives values that know or are told their row, and `sealed` is the
attribute of the mapped class that puts the two together, so that `row.email` reads and writes plain text:

    class UserRow(Row):
        id: Mapped[UUID] = mapped_column(primary_key=True)
        _email: Mapped[SealedCell] = mapped_column("sealed_email", SealedText("users", "email"))
        email = sealed("_email", row="id")

The keys are those of the engine that a statement runs on (`seal_with`): no global key, and a statement on an engine
without keys is an error. What cannot work is refused aloud: to compare a sealed column, to write one into the text of
a statement, to set one before the row has its primary key, to open a value in another row than its own.
"""

from collections.abc import Callable
from typing import Any, Literal, NoReturn, TypeAlias, overload
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect, LargeBinary
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.operators import OperatorType, is_, is_not
from sqlalchemy.types import TypeDecorator, TypeEngine

from chassis.sealing.aead import SealingError, context_of
from chassis.sealing.ring import SealingRing

_rings: WeakKeyDictionary[Dialect, SealingRing] = WeakKeyDictionary()


def seal_with(engine: AsyncEngine, ring: SealingRing) -> None:
    """Seal and open the columns of all that runs on an engine with these keys."""
    _rings[engine.sync_engine.dialect] = ring


def column_context(table: str, column: str, row: object) -> bytes:
    """The place of a sealed column's value."""
    return context_of("column", table, column, str(row))


class _Hidden:
    """A value that no way of showing or storing an object shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(concealed)"

    def __reduce_ex__(self, protocol: object, /) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is never serialised")


class PlainCell(_Hidden):
    """A text on its way into a row."""

    __slots__ = ("__text", "row")

    def __init__(self, text: str, *, row: object) -> None:
        self.__text = text
        self.row = row

    def open(self, *, row: object) -> str:
        """The text."""
        if row != self.row:
            raise SealingError("a value is not moved from one row to another")
        return self.__text


class SealedCell(_Hidden):
    """A text as it came from a row. It opens in that row only."""

    __slots__ = ("_column", "_ring", "_table", "sealed")

    def __init__(self, sealed: bytes, *, table: str, column: str, ring: SealingRing) -> None:
        self.sealed = sealed
        self._table = table
        self._column = column
        self._ring = ring

    def open(self, *, row: object) -> str:
        """The text.

        Raises:
            UnknownKey, SealBroken
        """
        return self._ring.open(self.sealed, context=column_context(self._table, self._column, row)).decode()


Cell: TypeAlias = PlainCell | SealedCell


class SealedText(TypeDecorator[Cell]):
    """Text, encrypted with AES-256-GCM under the engine's keys, bound to its table, column and row."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, table: str, column: str) -> None:
        super().__init__()
        self.table = table
        self.column = column

    def process_bind_param(self, value: Cell | None, dialect: Dialect) -> bytes | None:
        """Seal a text, or give back the ciphertext that it came as."""
        if value is None:
            return None
        if isinstance(value, SealedCell):
            return value.sealed
        if not isinstance(value, PlainCell):  # pyright: ignore[reportUnnecessaryIsInstance] - statements take anything
            raise SealingError(f"{self.table}.{self.column} is set through its row")
        context = column_context(self.table, self.column, value.row)
        return _ring_of(dialect).seal(value.open(row=value.row).encode(), context=context)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> SealedCell | None:
        """What is left to be opened in its row."""
        if value is None:
            return None
        return SealedCell(value, table=self.table, column=self.column, ring=_ring_of(dialect))

    def process_literal_param(self, value: Cell | None, dialect: Dialect) -> NoReturn:  # noqa: ARG002 - SQLAlchemy's own protocol
        """Refuse."""
        raise SealingError("a sealed value is never written into the text of a statement")

    class Comparator(TypeDecorator.Comparator[Cell]):
        """Knows only whether there is a value."""

        def operate(self, op: OperatorType, *other: Any, **options: Any) -> Any:
            """Refuse all but IS NULL."""
            if op in {is_, is_not}:
                return super().operate(op, *other, **options)
            raise SealingError("sealed columns are not compared: look the value up by its blind index")

    @property
    def comparator_factory(self) -> Callable[[Any], TypeEngine.Comparator[Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How such a column is compared."""
        return SealedText.Comparator


class sealed:  # noqa: N801 - it stands where `mapped_column` and `property` stand
    """An attribute that reads and writes a sealed column as text."""

    def __init__(self, column: str, *, row: str) -> None:
        """An attribute.

        Args:
            column: The mapped attribute of the sealed column.
            row: The mapped attribute of the primary key, which is set before.
        """
        self._column = column
        self._row = row

    @overload
    def __get__(self, instance: None, owner: type) -> "sealed": ...
    @overload
    def __get__(self, instance: object, owner: type) -> str: ...
    def __get__(self, instance: object | None, owner: type) -> "sealed | str":
        if instance is None:
            return self
        cell: Cell | None = getattr(instance, self._column)
        if cell is None:
            raise SealingError("the row has no such value")
        return cell.open(row=getattr(instance, self._row))

    def __set__(self, instance: object, text: str) -> None:
        row = getattr(instance, self._row)
        if row is None:
            raise SealingError(f"set {self._row} before what is sealed under it")
        setattr(instance, self._column, PlainCell(text, row=row))

    def __eq__(self, other: object) -> "Literal[True]":
        raise SealingError("sealed columns are not compared: look the value up by its blind index")

    __hash__ = object.__hash__


def _ring_of(dialect: Dialect) -> SealingRing:
    ring = _rings.get(dialect)
    if ring is None:
        raise SealingError("the engine has no keys: see seal_with")
    return ring
