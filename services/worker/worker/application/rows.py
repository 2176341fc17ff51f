"""What a row of an import is, once it has been read, and what reads it."""

from dataclasses import dataclass
from typing import Protocol

import grpc
from almagest.catalog.v1 import command_pb2

from worker.domain.job import Problem, RefusedRow
from worker.domain.records import Record

SKU_LENGTH = 64
"""How much of a SKU a report shows: as long as a right one may be."""

_INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]


@dataclass(frozen=True, slots=True)
class ImportRow:
    """A row that is well-formed: what it asks for, a digest and the number of its bytes, and where the file goes on
    behind it.
    """

    line: int
    last_line: int
    end: int
    sku: str
    commands: tuple[command_pb2.ProductCommand, ...]
    fingerprint: bytes
    size: int


class FileRefused(Exception):
    """The whole file cannot be an import: it ends the job before any row."""

    def __init__(self, reason: str, message: str, violations: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.problem = Problem(code=_INVALID, reason=reason, message=message, violations=violations)


class RowReader(Protocol):
    """Reads the records of one format."""

    @property
    def quoted(self) -> bool:
        """Whether records may span lines by quoting."""
        ...

    @property
    def header(self) -> bool:
        """Whether the first record is a header, which `read_header` takes."""
        ...

    def read_header(self, record: Record) -> None:
        """Take the header.

        Raises:
            FileRefused: The columns are not those of an import.
        """
        ...

    def read(self, record: Record) -> ImportRow | RefusedRow | None:
        """The row of a record; None when it is blank."""
        ...

    def column(self, path: str) -> str:
        """What the format calls a field of the row, for example `price.amount`."""
        ...


def refused(
    record: Record, reason: str, message: str, *, sku: str = "", violations: tuple[tuple[str, str], ...] = ()
) -> RefusedRow:
    """The refusal of a record that is not a row."""
    problem = Problem(code=_INVALID, reason=reason, message=message, violations=violations)
    return RefusedRow(line=record.line, sku=shown_sku(sku), problem=problem)


def shown_sku(sku: object) -> str:
    """A SKU as a report shows it: whatever was given, cut to length, without control characters."""
    return (
        "".join(character for character in sku[:SKU_LENGTH] if character.isprintable()) if isinstance(sku, str) else ""
    )
