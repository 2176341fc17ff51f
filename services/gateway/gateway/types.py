"""The words of the public API: each kind of value has one definition here, with its description and an example for
OpenAPI.

They check shape only: length, alphabet, range of a machine number. What a value means (check digits, currencies and
their decimals, the model years of today) is decided by the service that owns the rule, whose violations come back under
the same field names.
"""

from typing import Annotated, Literal

from pydantic import Field

Sku = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._/-]{1,64}$",
        description="The stock keeping unit, the natural key of a product. It never changes.",
        examples=["volvo-v60-2026"],
    ),
]
Gtin = Annotated[
    str,
    Field(
        pattern=r"^([0-9]{8}|[0-9]{12,14})$",
        description="A Global Trade Item Number: 8, 12, 13 or 14 digits, the last of which checks the others.",
        examples=["4006381333931"],
    ),
]
Vin = Annotated[
    str,
    Field(
        pattern=r"^[A-HJ-NPR-Za-hj-npr-z0-9]{17}$",
        description="A Vehicle Identification Number (ISO 3779), 17 characters without I, O and Q.",
        examples=["YV1ZWA8UDL1234567"],
    ),
]
Amount = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,18}(\.[0-9]{1,4})?$",
        description="An exact decimal, always a string: a JSON number would become binary floating point.",
        examples=["12999.00"],
    ),
]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$", description="An ISO 4217 currency code.", examples=["EUR"])]
PositiveQuantity = Annotated[
    int, Field(ge=1, le=4_294_967_295, description="A whole number of at least one.", examples=[1200])
]
ModelYear = Annotated[
    int, Field(ge=1886, le=9999, description="The model year: 1886 to two years from now.", examples=[2026])
]
Doors = Annotated[int, Field(ge=1, le=7, description="The number of doors.", examples=[5])]
Seats = Annotated[int, Field(ge=1, le=9, description="The number of seats.", examples=[5])]
Name = Annotated[
    str, Field(min_length=1, max_length=200, description="The name of a product.", examples=["Volvo V60 Cross Country"])
]
Text = Annotated[
    str, Field(max_length=10_000, description="The description for people.", examples=["Estate with all-wheel drive."])
]
Category = Annotated[
    str,
    Field(
        pattern="^([a-z0-9]+(-[a-z0-9]+)*(/[a-z0-9]+(-[a-z0-9]+)*)*)?$",
        max_length=200,
        description="A path of lower-case names, the widest first; empty: none.",
        examples=["vehicles/estate"],
    ),
]
Brand = Annotated[str, Field(min_length=1, max_length=100, description="A brand, make or model.", examples=["Volvo"])]
BodyStyle = Annotated[str, Field(min_length=1, max_length=50, description="A body style.", examples=["Estate"])]
Properties = Annotated[
    dict[str, str],
    Field(
        max_length=100,
        description="Whatever else is worth knowing, by name.",
        examples=[{"colour": "black", "size": "M"}],
    ),
]
Reason = Annotated[
    str,
    Field(
        min_length=1,
        max_length=500,
        description="Why, in the person's words. It is kept with the change, for ever.",
        examples=["Black Friday"],
    ),
]
Time = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$",
        description="A time with its offset from UTC (RFC 3339), to the microsecond.",
        examples=["2026-11-27T00:00:00+01:00"],
        json_schema_extra={"format": "date-time"},
    ),
]
AsOf = Annotated[
    str,
    Field(
        min_length=3,
        max_length=40,
        description=(
            "Look back, or ahead: what is effective at this time (RFC 3339), or the state as the log stood at this "
            "position (`<shard>:<position>`, as the history tells them; for a page, at the time of that position). "
            "A time in the future previews what is scheduled, and needs the right to change the catalog."
        ),
        examples=["2026-11-27T00:00:00Z"],
    ),
]
KnownAt = Annotated[
    str,
    Field(
        min_length=20,
        max_length=40,
        description=(
            "With a time in `as_of`: only what was recorded by then counts, so what was corrected later is as it was "
            "believed to be. Not in the future."
        ),
        examples=["2026-11-28T00:00:00Z"],
    ),
]
Version = Annotated[
    str,
    Field(
        min_length=1,
        max_length=40,
        description="A revision, a time (RFC 3339), or a position of the log (`<shard>:<position>`).",
        examples=["3"],
    ),
]
ScheduleState = Literal["open", "activated", "cancelled", "failed"]
Kind = Literal["general", "car", "truck"]
KindFilter = Literal["general", "vehicle", "car", "truck"]
Status = Literal["draft", "published", "discontinued"]
Sort = Literal["name", "-name", "price", "-price", "model_year", "-model_year", "-updated"]
Role = Literal["viewer", "editor", "admin"]
AccessKeyKind = Literal["hmac-sha256", "ed25519"]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ImportFormat = Literal["ndjson", "csv"]
OnError = Literal["stop", "skip"]

Uuid = Annotated[
    str,
    Field(
        pattern="^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
        description="A UUID.",
        examples=["0193a1c2-7f4e-7c3a-9d52-3f1b6f1f0c11"],
    ),
]
ProductReference = Annotated[
    str,
    Field(
        pattern=r"^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|sku:[A-Za-z0-9._/-]{1,64})$",
        description="A product id, or `sku:` and a SKU. A `/` in the SKU is written `%2F` in a path.",
        examples=["sku:volvo-v60-2026"],
    ),
]
Email = Annotated[
    str,
    Field(
        # Not EmailStr: it refuses `admin@localhost`, the first admin of a laptop. Auth has the last word.
        pattern="^[^@\\s]{1,64}@[A-Za-z0-9.-]{1,189}$",
        description="An e-mail address.",
        examples=["ada@example.com"],
    ),
]
Password = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        description="A password.",
        examples=["correct horse battery staple"],
        json_schema_extra={"format": "password"},
    ),
]
NewPassword = Annotated[
    str,
    Field(
        min_length=12,
        max_length=128,
        description="A new password, 12 to 128 characters: none that was leaked often, and more than one's names.",
        examples=["correct horse battery staple"],
        json_schema_extra={"format": "password"},
    ),
]
PersonName = Annotated[
    str, Field(min_length=1, max_length=100, description="A part of a person's name.", examples=["Ada"])
]
Token = Annotated[str, Field(min_length=1, max_length=4096, description="An opaque token.")]
Cursor = Annotated[
    str,
    Field(
        min_length=1, max_length=2048, description="`next_cursor` of the page before, with otherwise the same request."
    ),
]
Revision = Annotated[
    int,
    Field(ge=0, le=(1 << 63) - 1, description="Grows with each change; the entity tag is made of it.", examples=[3]),
]
