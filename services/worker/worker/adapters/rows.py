"""The row of an import: its fields, and the commands that it means.

The types are checked here, so that a wrong one is named with its line; what the values mean is decided by
catalog-command alone.
An amount is text or a whole number: a JSON number with decimals has been a binary float in too many programs before it
came here.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import command_pb2
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from worker.application.rows import ImportRow, RowReader, refused, shown_sku
from worker.domain.job import RefusedRow
from worker.domain.records import Record

_MAXIMUM_VIOLATIONS = 20
_MAXIMUM_NAME = 100
_PUBLISH = command_pb2.ProductCommand(publish=command_pb2.PublishProduct())

_Number = Annotated[int, Field(ge=0, lt=2**32)] | None


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Price(_Strict):
    amount: str | int
    currency: str


class _General(_Strict):
    brand: str | None = None
    gtin: str | None = None
    properties: dict[str, str] | None = None


class _Vehicle(_Strict):
    make: str
    model: str
    model_year: Annotated[int, Field(ge=0, lt=2**32)]
    vin: str | None = None
    body_styles: list[str] | None = None


class _Car(_Vehicle):
    doors: _Number = None
    seats: _Number = None


class _Truck(_Vehicle):
    payload_kg: _Number = None
    gross_weight_kg: _Number = None


class _Row(_Strict):
    sku: str
    name: str
    text: str | None = None
    category: str | None = None
    price: _Price | None = None
    publish: bool | None = None


class _GeneralRow(_Row):
    kind: Literal["general"]
    attributes: _General = _General()


class _CarRow(_Row):
    kind: Literal["car"]
    attributes: _Car


class _TruckRow(_Row):
    kind: Literal["truck"]
    attributes: _Truck


_row: TypeAdapter[_GeneralRow | _CarRow | _TruckRow] = TypeAdapter(
    Annotated[_GeneralRow | _CarRow | _TruckRow, Field(discriminator="kind")]
)


def read_row(record: Record, content: bytes, value: Mapping[str, Any], reader: RowReader) -> ImportRow | RefusedRow:
    """The row of a record whose values are in hand. All that is wrong with it is said at once."""
    try:
        row = _row.validate_python(value)
    except ValidationError as error:
        violations = _violations(error, reader)
        message = "; ".join(
            f"{field}: {description}" if field else description for field, description in violations[:3]
        )
        return refused(record, "ROW_INVALID", message, sku=shown_sku(value.get("sku")), violations=violations)
    try:
        commands = _commands(row)
    except UnicodeEncodeError:
        return refused(record, "ROW_INVALID", "a text holds half a surrogate pair, which is no character", sku=row.sku)
    return ImportRow(
        record.line, record.last_line, record.end, row.sku, commands, hashlib.sha256(content).digest(), len(content)
    )


def _commands(row: _GeneralRow | _CarRow | _TruckRow) -> tuple[command_pb2.ProductCommand, ...]:
    description = events.Description(name=row.name, text=row.text or "", category=row.category or "")
    attributes = row.attributes
    if isinstance(attributes, _General):
        description.general.CopyFrom(
            events.GeneralAttributes(
                brand=attributes.brand or "", gtin=attributes.gtin or "", properties=attributes.properties or {}
            )
        )
    else:
        vehicle = events.VehicleAttributes(
            make=attributes.make,
            model=attributes.model,
            model_year=attributes.model_year,
            vin=attributes.vin or "",
            body_styles=attributes.body_styles or (),
        )
        if isinstance(attributes, _Car):
            description.car.CopyFrom(
                events.CarAttributes(vehicle=vehicle, doors=attributes.doors or 0, seats=attributes.seats or 0)
            )
        else:
            description.truck.CopyFrom(
                events.TruckAttributes(
                    vehicle=vehicle,
                    payload_kg=attributes.payload_kg or 0,
                    gross_weight_kg=attributes.gross_weight_kg or 0,
                )
            )
    commands = [command_pb2.ProductCommand(put=command_pb2.PutProduct(sku=row.sku, description=description))]
    if row.price is not None:
        price = events.Money(amount=str(row.price.amount), currency=row.price.currency)
        commands.append(command_pb2.ProductCommand(set_price=command_pb2.SetPrice(price=price)))
    if row.publish:
        commands.append(_PUBLISH)
    return tuple(commands)


_WORDS = {
    "missing": "is required",
    "extra_forbidden": "is not a field of such a row",
    "union_tag_invalid": "must be one of general, car, truck",
    "union_tag_not_found": "is required: one of general, car, truck",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "greater_than_equal": "must not be negative",
    "less_than": "is too large",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be a list",
}
_AMOUNT = 'must be text, for example "12999.00", or a whole number'


def _violations(error: ValidationError, reader: RowReader) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        location = detail["loc"]
        # The first part is the tag of the union. An amount has a part per type that it is not.
        path = "kind" if detail["type"].startswith("union_tag") else ".".join(str(part) for part in location[1:])
        words = _WORDS.get(detail["type"], detail["msg"])
        if path.startswith("price.amount"):
            path, words = "price.amount", words if detail["type"] == "missing" else _AMOUNT
        found.setdefault(_cut(reader.column(path)), words)
    return tuple(found.items())[:_MAXIMUM_VIOLATIONS]


def _cut(name: str) -> str:
    return name if len(name) <= _MAXIMUM_NAME else f"{name[:_MAXIMUM_NAME]}…"
