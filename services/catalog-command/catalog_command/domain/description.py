"""What a product is: a checked, normalised `Description` of the published language.

The message itself carries the fields, since it goes into the log as it is: a copy of twenty fields into classes of
our own would be a third translation of the same. It is made here, fresh, and nobody changes it afterwards. Two
descriptions are equal when their digests are: folded states keep 32 bytes instead of up to 40 kilobytes.
"""

import enum
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

from almagest.catalog.events.v1 import product_events_pb2 as events

from catalog_command.domain.category import category
from catalog_command.domain.errors import InvalidCommand, InvalidValue, Violation
from catalog_command.domain.gtin import gtin
from catalog_command.domain.text import line, prose
from catalog_command.domain.vin import vin

NAME_LENGTH = 200
TEXT_LENGTH = 10_000
BRAND_LENGTH = 100
BODY_STYLES = 16
BODY_STYLE_LENGTH = 50
PROPERTIES = 100
PROPERTY_NAME_LENGTH = 64
PROPERTY_VALUE_LENGTH = 1_000
PROPERTIES_LENGTH = 20_000
"""Characters of all property names and values together."""
FIRST_MODEL_YEAR = 1886
"""Benz's Patent-Motorwagen."""
YEARS_AHEAD = 2
"""How far a model year may be ahead of the calendar."""
MAXIMUM_DOORS = 7
MAXIMUM_SEATS = 9
"""UNECE category M1: not more than eight seats in addition to the driver's."""


class Kind(enum.Enum):
    """The kinds of products, by the name of their attributes in `Description`."""

    GENERAL = "general"
    CAR = "car"
    TRUCK = "truck"


@dataclass(frozen=True, slots=True)
class Description:
    """A description that holds every rule. The message is never changed."""

    kind: Kind
    digest: bytes
    message: events.Description


Parameters = ParamSpec("Parameters")


class _Fields:
    """Gathers everything that is wrong, so that a person need not find it out field by field."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def text(
        self, field: str, parse: Callable[Parameters, str], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> str:
        try:
            return parse(*args, **kwargs)
        except InvalidValue as error:
            self.violations.append((field, str(error)))
            return ""

    def number(self, field: str, value: int, *, first: int, last: int) -> int:
        if value and not first <= value <= last:
            self.violations.append((field, f"must be {first} to {last}, or 0 when it is not known"))
        return value


def digest(message: events.Description) -> bytes:
    """What is equal for equal descriptions, and for no others."""
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


def kind_of(message: events.Description) -> Kind:
    """The kind of product that a description in the log is of."""
    return Kind(message.WhichOneof("attributes"))


def description(message: events.Description, *, year: int) -> Description:
    """The description that a message holds, in `year`.

    Raises:
        InvalidCommand: It breaks rules; all of them are named, by the paths of their fields.
    """
    fields = _Fields()
    clean = events.Description(
        name=fields.text("name", line, message.name, minimum=1, maximum=NAME_LENGTH),
        text=fields.text("text", prose, message.text, maximum=TEXT_LENGTH),
        category=fields.text("category", category, message.category),
    )
    match message.WhichOneof("attributes"):
        case "general":
            clean.general.MergeFrom(_general(fields, message.general))
        case "car":
            clean.car.MergeFrom(_car(fields, message.car, year))
        case "truck":
            clean.truck.MergeFrom(_truck(fields, message.truck, year))
        case _:
            fields.violations.append(("attributes", "one of general, car and truck must be set"))
    if fields.violations:
        raise InvalidCommand(fields.violations)
    return Description(kind_of(clean), digest(clean), clean)


def _general(fields: _Fields, message: events.GeneralAttributes) -> events.GeneralAttributes:
    clean = events.GeneralAttributes(
        brand=fields.text("general.brand", line, message.brand, maximum=BRAND_LENGTH),
        gtin=fields.text("general.gtin", gtin, message.gtin),
    )
    if message.properties:
        _properties(fields, message, clean)
    return clean


def _properties(fields: _Fields, message: events.GeneralAttributes, clean: events.GeneralAttributes) -> None:
    path = "general.properties"
    if len(message.properties) > PROPERTIES:
        fields.violations.append((path, f"must be at most {PROPERTIES}"))
        return
    length = 0
    for raw_name, raw_value in message.properties.items():
        try:
            name = line(raw_name, minimum=1, maximum=PROPERTY_NAME_LENGTH)
        except InvalidValue as error:
            fields.violations.append((path, f"each name {error}"))
            continue
        if name in clean.properties:
            fields.violations.append((f"{path}[{name}]", "is there twice, typed in two ways"))
        value = fields.text(f"{path}[{name}]", prose, raw_value, maximum=PROPERTY_VALUE_LENGTH)
        clean.properties[name] = value
        length += len(name) + len(value)
    if length > PROPERTIES_LENGTH:
        fields.violations.append((path, f"must have at most {PROPERTIES_LENGTH} characters together"))


def _vehicle(fields: _Fields, path: str, message: events.VehicleAttributes, year: int) -> events.VehicleAttributes:
    latest = year + YEARS_AHEAD
    if not FIRST_MODEL_YEAR <= message.model_year <= latest:
        fields.violations.append((f"{path}.model_year", f"must be {FIRST_MODEL_YEAR} to {latest}"))
    styles: list[str] = []
    if len(message.body_styles) > BODY_STYLES:
        fields.violations.append((f"{path}.body_styles", f"must be at most {BODY_STYLES}"))
    else:
        for index, raw in enumerate(message.body_styles):
            style = fields.text(f"{path}.body_styles[{index}]", line, raw, minimum=1, maximum=BODY_STYLE_LENGTH)
            # A style that is named twice is the same style.
            if style not in styles:
                styles.append(style)
    return events.VehicleAttributes(
        make=fields.text(f"{path}.make", line, message.make, minimum=1, maximum=BRAND_LENGTH),
        model=fields.text(f"{path}.model", line, message.model, minimum=1, maximum=BRAND_LENGTH),
        model_year=message.model_year,
        vin=fields.text(f"{path}.vin", vin, message.vin),
        body_styles=styles,
    )


def _car(fields: _Fields, message: events.CarAttributes, year: int) -> events.CarAttributes:
    return events.CarAttributes(
        vehicle=_vehicle(fields, "car.vehicle", message.vehicle, year),
        doors=fields.number("car.doors", message.doors, first=1, last=MAXIMUM_DOORS),
        seats=fields.number("car.seats", message.seats, first=1, last=MAXIMUM_SEATS),
    )


def _truck(fields: _Fields, message: events.TruckAttributes, year: int) -> events.TruckAttributes:
    if 0 < message.gross_weight_kg <= message.payload_kg:
        fields.violations.append(("truck.payload_kg", "must be less than the gross weight, which includes it"))
    return events.TruckAttributes(
        vehicle=_vehicle(fields, "truck.vehicle", message.vehicle, year),
        payload_kg=message.payload_kg,
        gross_weight_kg=message.gross_weight_kg,
    )
