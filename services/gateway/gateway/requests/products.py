"""Products: what is written, and which are read."""

from typing import Annotated, Literal

from pydantic import Field

from gateway import types
from gateway.requests.shapes import Body, Moment, Page


class GeneralAttributes(Body):
    """What is not a vehicle."""

    brand: types.Brand | None = None
    gtin: types.Gtin | None = None
    properties: types.Properties = {}


class VehicleAttributes(Body):
    """What cars and trucks share."""

    make: types.Brand
    model: types.Brand
    model_year: types.ModelYear
    vin: types.Vin | None = None
    body_styles: Annotated[list[types.BodyStyle], Field(max_length=20, examples=[["Estate"]])] = []


class CarAttributes(VehicleAttributes):
    """A passenger car."""

    doors: types.Doors | None = None
    seats: types.Seats | None = None


class TruckAttributes(VehicleAttributes):
    """A vehicle for goods."""

    payload_kg: types.PositiveQuantity | None = None
    gross_weight_kg: types.PositiveQuantity | None = None


class Money(Body):
    """An exact amount of money."""

    amount: types.Amount
    currency: types.Currency


class SetPrice(Money):
    """A new price."""

    reason: types.Reason | None = None


class _Described(Body):
    name: types.Name
    text: types.Text = ""
    category: types.Category = ""


class _General(_Described):
    kind: Literal["general"]
    attributes: GeneralAttributes = GeneralAttributes()


class _Car(_Described):
    kind: Literal["car"]
    attributes: CarAttributes


class _Truck(_Described):
    kind: Literal["truck"]
    attributes: TruckAttributes


class DescribeGeneral(_General):
    """A new description of what is not a vehicle."""

    reason: types.Reason | None = None


class DescribeCar(_Car):
    """A new description of a car."""

    reason: types.Reason | None = None


class DescribeTruck(_Truck):
    """A new description of a truck."""

    reason: types.Reason | None = None


class _Created(Body):
    sku: types.Sku
    price: Money | None = None
    publish: Annotated[bool, Field(description="Publish it at once, which needs a price.")] = False
    reason: types.Reason | None = None


class CreateGeneral(_General, _Created):
    """A product that is not a vehicle."""


class CreateCar(_Car, _Created):
    """A car."""


class CreateTruck(_Truck, _Created):
    """A truck."""


Describe = Annotated[DescribeGeneral | DescribeCar | DescribeTruck, Field(discriminator="kind")]
Create = Annotated[CreateGeneral | CreateCar | CreateTruck, Field(discriminator="kind")]


class Because(Body):
    """Why, if the person says so."""

    reason: types.Reason | None = None


class Discontinue(Body):
    """Why it ends."""

    reason: types.Reason


class CorrectPrice(Money):
    """What the price really was."""

    effective_from: Annotated[
        types.Time, Field(description="From when; not before the product was created, and not in the future.")
    ]
    effective_until: Annotated[
        types.Time | None,
        Field(description="Until when, exclusive, not in the future; left out: it holds now as well."),
    ] = None
    reason: types.Reason | None = None


class Restore(Body):
    """Which state to bring back."""

    revision: types.Revision
    reason: types.Reason | None = None


class BatchGet(Body):
    """Products to read at once."""

    ids: Annotated[list[types.ProductReference], Field(min_length=1, max_length=200)]


class _Filter(Page, Moment):
    make: (
        Annotated[
            str, Field(min_length=1, max_length=200, description="The make, whatever its case.", examples=["Volvo"])
        ]
        | None
    ) = None
    model: Annotated[str, Field(min_length=1, max_length=200, description="The model, whatever its case.")] | None = (
        None
    )
    model_year_from: Annotated[int, Field(ge=0, le=9999, description="The lowest model year.")] | None = None
    model_year_to: Annotated[int, Field(ge=0, le=9999, description="The highest model year.")] | None = None
    category: (
        Annotated[
            str,
            Field(min_length=1, max_length=200, description="The category, or any below it.", examples=["vehicles"]),
        ]
        | None
    ) = None
    currency: (
        Annotated[
            str, Field(pattern="^[A-Z]{3}$", description="The currency of the price bounds and of a sort by price.")
        ]
        | None
    ) = None
    price_from: types.Amount | None = None
    price_to: types.Amount | None = None
    status: Annotated[list[types.Status], Field(max_length=3, description="Any of these.")] = []
    sku: types.Sku | None = None
    sort: (
        Annotated[
            types.Sort, Field(description="By name if not given; by relevance in a search. `-`: the other way round.")
        ]
        | None
    ) = None


class ListProducts(_Filter):
    """A filter over products, all of whose conditions hold."""

    kind: Annotated[
        list[types.KindFilter], Field(max_length=4, description="Any of these; `vehicle` is cars and trucks.")
    ] = []


class SearchProducts(ListProducts):
    """A filter over products in whose text words are found."""

    text: Annotated[
        str,
        Field(
            min_length=1,
            max_length=200,
            description="Words, all of which must be there; the last may be a beginning.",
            examples=["volvo est"],
        ),
    ]


class ListVehicles(_Filter):
    """A filter over vehicles."""

    kind: Annotated[list[Literal["car", "truck"]], Field(max_length=2, description="Any of these.")] = []
