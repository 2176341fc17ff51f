"""Rows as CSV (RFC 4180) with a header line, in UTF-8.

The columns are the fields of the row with `attributes.` left out; `body_styles` holds styles separated by `;`,
`price_amount` and `price_currency`
are the price, and `property:<name>` is a property of a general product. An empty cell says nothing. A quote inside an
unquoted field is a quote.
"""

import csv
from typing import Any

from worker.adapters.rows import read_row
from worker.application.rows import FileRefused, ImportRow, refused
from worker.domain.job import RefusedRow
from worker.domain.records import Record

_FIELDS = frozenset({"sku", "kind", "name", "text", "category", "publish"})
_TEXT_ATTRIBUTES = frozenset({"make", "model", "vin", "brand", "gtin"})
_NUMBERS = frozenset({"model_year", "doors", "seats", "payload_kg", "gross_weight_kg"})
_PRICE = {"price_amount": "amount", "price_currency": "currency"}
_COLUMNS = _FIELDS | _TEXT_ATTRIBUTES | _NUMBERS | _PRICE.keys() | {"body_styles"}
_REQUIRED = ("sku", "kind", "name")
_PROPERTY = "property:"
_BOOLEANS = {"true": True, "false": False}
_SHOWN = 100


class CsvReader:
    """Reads CSV records, of which the first is the header."""

    quoted = True
    header = True

    def __init__(self) -> None:
        self._columns: tuple[str, ...] = ()

    def read_header(self, record: Record) -> None:
        """Take the header.

        Raises:
            FileRefused: A column is unknown, missing or there twice, or the line is not CSV in UTF-8.
        """
        if record.data is None:
            raise FileRefused("CSV_HEADER_INVALID", "The header line is longer than a row may be.")
        try:
            columns = _cells(record)
        except UnicodeDecodeError as error:
            raise FileRefused(
                "CSV_HEADER_INVALID", f"Byte {error.start + 1} of the header line is not UTF-8."
            ) from None
        except csv.Error as error:
            raise FileRefused("CSV_HEADER_INVALID", f"The header line is not CSV: {error}.") from None
        wrong = [
            *(
                (column[:_SHOWN], "is not a column of an import")
                for column in columns
                if column not in _COLUMNS and not (column.startswith(_PROPERTY) and len(column) > len(_PROPERTY))
            ),
            *(
                (column[:_SHOWN], "stands twice in the header")
                for column in sorted({c for c in columns if columns.count(c) > 1})
            ),
            *((column, "is required") for column in _REQUIRED if column not in columns),
        ]
        if wrong:
            text = "; ".join(f"{column!r} {description}" for column, description in wrong[:5])
            raise FileRefused("CSV_HEADER_INVALID", f"The header line is not right: {text}.", tuple(wrong[:50]))
        self._columns = tuple(columns)

    def read(self, record: Record) -> ImportRow | RefusedRow | None:
        """The row of a record; None when it is blank."""
        if record.data is None:
            return refused(record, "ROW_TOO_LONG", "the row is longer than a row may be; is a quoted field not closed?")
        if not record.data:
            return None
        try:
            cells = _cells(record)
        except UnicodeDecodeError as error:
            return refused(record, "ROW_NOT_UTF8", f"byte {error.start + 1} of the row is not UTF-8")
        except csv.Error as error:
            return refused(record, "ROW_NOT_CSV", f"the row is not CSV: {error}")
        if len(cells) != len(self._columns):
            return refused(
                record, "ROW_INVALID", f"the row has {len(cells)} cells and the header {len(self._columns)} columns"
            )
        return read_row(record, record.data, self._value(cells), self)

    def column(self, path: str) -> str:
        """The column of a field."""
        path = path.removeprefix("attributes.")
        if path.startswith("properties."):
            return _PROPERTY + path.removeprefix("properties.")
        if path.startswith("price."):
            return path.replace(".", "_")
        return path.partition(".")[0] if path.startswith("body_styles") else path

    def _value(self, cells: list[str]) -> dict[str, Any]:  # noqa: C901 - one branch per kind of column
        """The cells as NDJSON would have them."""
        row: dict[str, Any] = {}
        attributes: dict[str, Any] = {}
        price: dict[str, str] = {}
        properties: dict[str, str] = {}
        for column, cell in zip(self._columns, cells, strict=True):
            if not cell:
                continue
            if column == "publish":
                row[column] = _BOOLEANS.get(cell.lower(), cell)
            elif column in _FIELDS:
                row[column] = cell
            elif column in _TEXT_ATTRIBUTES:
                attributes[column] = cell
            elif column in _NUMBERS:
                # Longer ones are no number that we know, and int() of very long ones costs time.
                attributes[column] = int(cell) if cell.isascii() and cell.isdigit() and len(cell) <= 10 else cell  # noqa: PLR2004
            elif column in _PRICE:
                price[_PRICE[column]] = cell
            elif column == "body_styles":
                attributes[column] = [style.strip() for style in cell.split(";")]
            else:
                properties[column.removeprefix(_PROPERTY)] = cell
        if properties:
            attributes["properties"] = properties
        row["attributes"] = attributes
        if price:
            row["price"] = price
        return row


def _cells(record: Record) -> list[str]:
    if record.unclosed:
        raise csv.Error("a quoted field that begins in it is never closed")
    data = record.data or b""
    rows = list(csv.reader([data.decode()], strict=True))
    if len(rows) != 1:
        raise csv.Error("line break outside of a quoted field")
    return rows[0]
