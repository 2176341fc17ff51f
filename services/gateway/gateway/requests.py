"""What clients send: bodies, strictly typed, nothing unknown in them; and the query parameters of lists."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from gateway import types


class Body(BaseModel):
    """A JSON object with these keys and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LogIn(Body):
    """Credentials."""

    email: types.Email
    password: types.Password


class RefreshToken(Body):
    """The refresh token of a session."""

    refresh_token: types.Token


class NewUser(Body):
    """A person to be."""

    email: types.Email
    password: types.NewPassword
    first_name: types.PersonName
    last_name: types.PersonName
    roles: Annotated[list[types.Role], Field(min_length=1, max_length=3, examples=[["editor"]])]


class UserInBulk(Body):
    """A person to be, checked where a fault is that person's own: it refuses nobody else."""

    email: Annotated[str, Field(max_length=1000, examples=["ada@example.com"])]
    password: Annotated[str, Field(max_length=1000, examples=["correct horse battery staple"])]
    first_name: Annotated[str, Field(max_length=1000, examples=["Ada"])]
    last_name: Annotated[str, Field(max_length=1000, examples=["Lovelace"])]
    roles: Annotated[list[Annotated[str, Field(max_length=50)]], Field(max_length=10, examples=[["editor"]])]


class NewUsers(Body):
    """Many people to be."""

    users: Annotated[list[UserInBulk], Field(min_length=1, max_length=1000)]


class ChangeUser(Body):
    """What of a person is to be otherwise; what is left out stays."""

    first_name: types.PersonName | None = None
    last_name: types.PersonName | None = None
    roles: Annotated[
        list[types.Role] | None, Field(min_length=1, max_length=3, description="For admins.", examples=[["viewer"]])
    ] = None
    disabled: Annotated[bool | None, Field(description="Whether the person may do nothing at all. For admins.")] = None


class ChangePassword(Body):
    """Another password."""

    present: Annotated[
        types.Password | None, Field(description="The present one; an admin who changes another's leaves it out.")
    ] = None
    password: types.NewPassword


class NewKey(Body):
    """An access key to be."""

    name: Annotated[str, Field(min_length=1, max_length=100, description="For people.", examples=["till 4"])]
    kind: types.AccessKeyKind
    scopes: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=50)]],
        Field(max_length=20, description="What it may do; left out: all that you may.", examples=[["catalog:read"]]),
    ] = []
    public_key: Annotated[
        str | None,
        Field(
            min_length=40,
            max_length=1000,
            description="Of an `ed25519` pair of your own: PEM, or 32 bytes in base64; left out: a pair is made.",
        ),
    ] = None
    expires_at: Annotated[types.Time | None, Field(description="When it ends; left out: in 90 days.")] = None
    user_id: Annotated[types.Uuid | None, Field(description="Whose; left out: yours. Others': for admins.")] = None


class RotateKey(Body):
    """The key that follows another."""

    old_until: Annotated[
        types.Time | None, Field(description="Until when the old one stays good; left out: it ends at once.")
    ] = None
    expires_at: Annotated[types.Time | None, Field(description="When the new one ends; left out: in 90 days.")] = None
    public_key: Annotated[
        str | None,
        Field(min_length=40, max_length=1000, description="As of a new key."),
    ] = None


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


class SchedulePrice(Body):
    """A price from a time on."""

    price: Money
    effective_at: types.Time
    reason: types.Reason | None = None


class SchedulePublication(Body):
    """A publication, or its end, at a time."""

    published: Annotated[bool, Field(description="`true`: publish; `false`: hide from the public.")]
    effective_at: types.Time
    reason: types.Reason | None = None


SCHEDULED_PRICE = "a price"
SCHEDULED_PUBLICATION = "a publication"


def _planned(body: object) -> str:
    return SCHEDULED_PUBLICATION if isinstance(body, dict) and "published" in body else SCHEDULED_PRICE


NewSchedule = Annotated[
    Annotated[SchedulePrice, Tag(SCHEDULED_PRICE)] | Annotated[SchedulePublication, Tag(SCHEDULED_PUBLICATION)],
    Discriminator(_planned),
]
"""What can be planned."""


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


class Page(BaseModel):
    """Which page, and how much of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    page_size: Annotated[int, Field(ge=1, le=200, description="How many at most.")] = 50
    cursor: types.Cursor | None = None


class Moment(BaseModel):
    """When to look: the present if not said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    as_of: types.AsOf | None = None
    known_at: types.KnownAt | None = None


class History(Page):
    """Which changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recorded_from: Annotated[
        types.KnownAt | None, Field(alias="from", description="Only what was recorded then or later (RFC 3339).")
    ] = None
    recorded_to: Annotated[
        types.KnownAt | None, Field(alias="to", description="Only what was recorded then or before (RFC 3339).")
    ] = None


class DiffVersions(BaseModel):
    """Which two versions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: Annotated[types.Version, Field(alias="from")]
    after: Annotated[types.Version | None, Field(alias="to", description="The present one if not said.")] = None


class Explain(Moment):
    """Which field, and when."""

    field: Annotated[
        str,
        Field(
            min_length=1,
            max_length=500,
            description="The path of a field, or of the fields below it.",
            examples=["price.amount"],
        ),
    ]


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


class ListChanges(BaseModel):
    """Which changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2000,
            description="`now`: what is to come; `start`: everything; or the `id` or `cursor` of a change: what is "
            "after it. `Last-Event-ID` goes before it.",
            examples=["start"],
        ),
    ] = "now"
    kind: Annotated[
        list[types.KindFilter], Field(max_length=4, description="Any of these; `vehicle` is cars and trucks.")
    ] = []
    category: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]],
        Field(
            max_length=20,
            description="Any of these, each with those below it. A product that leaves one is told once more.",
            examples=[["vehicles"]],
        ),
    ] = []
    type: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=100)]],
        Field(max_length=20, description="Any of these types of change.", examples=[["PriceSet"]]),
    ] = []
    follow: Annotated[bool, Field(description="Go on with what is to come; else end at what is recorded by now.")] = (
        True
    )


class ListJobs(Page):
    """Which jobs."""

    state: Annotated[list[types.JobState], Field(max_length=5, description="Any of these.")] = []


class ListSchedules(Page):
    """Which schedules."""

    due_before: Annotated[types.Time | None, Field(description="Only those that are effective before this time.")] = (
        None
    )
    state: Annotated[
        list[types.ScheduleState], Field(max_length=4, description="Any of these; only open ones if not said.")
    ] = []


class ListRefused(Page):
    """Which refused rows."""

    page_size: Annotated[int, Field(ge=1, le=1000, description="How many at most.")] = 100


class FindUser(BaseModel):
    """Whom to find."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    email: Annotated[types.Email | None, Field(description="Whose; left out: everybody, page by page.")] = None
    page_size: Annotated[int, Field(ge=1, le=500, description="How many at most.")] = 50
    cursor: Annotated[types.Uuid | None, Field(description="`next_cursor` of the page before.")] = None


class ListSessions(BaseModel):
    """Whose sessions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: Annotated[types.Uuid | None, Field(description="Left out: yours. Others': for admins.")] = None


class ListAudit(BaseModel):
    """What part of the audit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: Annotated[types.Uuid | None, Field(description="Whom it is about.")] = None
    type: Annotated[
        list[Annotated[str, Field(pattern="^[A-Za-z]{1,50}$")]],
        Field(max_length=30, description="Of which types, such as `LoggedIn`.", examples=[["LogInFailed"]]),
    ] = []
    since: Annotated[types.Time | None, Field(description="Not before this time.")] = None
    until: Annotated[types.Time | None, Field(description="Before this time.")] = None
    page_size: Annotated[int, Field(ge=1, le=500, description="How many at most.")] = 50
    cursor: Annotated[types.Uuid | None, Field(description="`next_cursor` of the page before.")] = None


class ImportFrom(Body):
    """Where a file is to be fetched from."""

    url: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2000,
            description="By https, from a host that the operator allows; gzip is unpacked.",
            examples=["https://files.example.com/catalog/cars.csv.gz"],
        ),
    ]


class ListKeys(BaseModel):
    """Whose keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: Annotated[types.Uuid | None, Field(description="Left out: yours. Others': for admins.")] = None


class Import(BaseModel):
    """How to import a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: (
        Annotated[
            types.ImportFormat,
            Field(description="How the file is written; by default as Content-Type, or the end of the URL, says."),
        ]
        | None
    ) = None
    on_error: Annotated[
        types.OnError, Field(description="At the first refused row: end there, or report it and go on.")
    ] = "stop"
    dry_run: Annotated[bool, Field(description="Validate and decide everything, write nothing.")] = False
    reason: types.Reason | None = None
    name: (
        Annotated[str, Field(min_length=1, max_length=200, description="A name for people, for example the file's.")]
        | None
    ) = None
