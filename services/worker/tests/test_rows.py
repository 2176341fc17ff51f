"""Rows in NDJSON and CSV: what is taken, and what is refused with which words."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker.adapters.csv_file import CsvReader
from worker.adapters.ndjson import NdjsonReader
from worker.application.report import refused_row
from worker.application.rows import FileRefused, ImportRow, RowReader
from worker.domain.job import RefusedRow
from worker.domain.records import Record

from almagest.catalog.v1 import command_pb2  # isort: skip
from almagest.rpc.v1 import problem_pb2  # isort: skip

CAR: dict[str, Any] = {
    "sku": "V60-1",
    "kind": "car",
    "name": "Volvo V60",
    "text": "A car: blue",
    "category": "vehicles/estate",
    "attributes": {"make": "Volvo", "model": "V60", "model_year": 2020, "body_styles": ["Estate", "Wagon"], "doors": 5},
    "price": {"amount": "12999.00", "currency": "EUR"},
    "publish": True,
}


def record(data: bytes | None, line: int = 7, *, unclosed: bool = False) -> Record:
    return Record(line, line, 100, data, unclosed)


def from_json(value: Any) -> ImportRow | RefusedRow | None:
    return NdjsonReader().read(record(value if isinstance(value, bytes) else orjson.dumps(value)))


def csv_reader(header: bytes) -> CsvReader:
    reader = CsvReader()
    reader.read_header(record(header, 1))
    return reader


def test_a_row_means_put_then_price_then_publish() -> None:
    """The commands come in the order in which they can succeed on a product that is new."""
    row = from_json(CAR)
    assert isinstance(row, ImportRow)
    assert [command.WhichOneof("command") for command in row.commands] == ["put", "set_price", "publish"]
    description = row.commands[0].put.description
    assert (row.sku, description.name, description.text) == ("V60-1", "Volvo V60", "A car: blue")
    assert (description.car.vehicle.model_year, description.car.doors, description.car.seats) == (2020, 5, 0)
    assert list(description.car.vehicle.body_styles) == ["Estate", "Wagon"]
    assert row.commands[1].set_price.price.amount == "12999.00"


def test_what_is_left_out_or_null_is_not_said() -> None:
    """A row without price and publication describes only; null is the same as nothing."""
    row = from_json({key: CAR[key] for key in ("sku", "kind", "name", "attributes")})
    nothing = from_json({**CAR, "text": None, "category": None, "price": None, "publish": None})
    assert isinstance(row, ImportRow)
    assert isinstance(nothing, ImportRow)
    assert len(row.commands) == 1
    assert row.commands == nothing.commands
    assert row.commands[0].put.description.category == ""


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (b"sku,kind,name,make,model,model_year", b"V60-1,car,Volvo V60,Volvo,V60,2020"),
        (b"sku,kind,name,category,make,model,model_year", b"V60-1,car,Volvo V60,,Volvo,V60,2020"),
    ],
)
def test_a_csv_without_a_category_says_the_same_as_ndjson_without_one(header: bytes, line: bytes) -> None:
    """Neither the column nor the cell need be there, as in a product that is created by itself."""
    row = csv_reader(header).read(record(line))
    same = from_json(
        {
            "sku": "V60-1",
            "kind": "car",
            "name": "Volvo V60",
            "attributes": {"make": "Volvo", "model": "V60", "model_year": 2020},
        }
    )
    assert isinstance(row, ImportRow)
    assert isinstance(same, ImportRow)
    assert row.commands == same.commands
    assert row.commands[0].put.description.category == ""


def test_general_products_and_trucks_have_their_own_attributes() -> None:
    """Each kind has its message."""
    general = from_json({**CAR, "kind": "general", "attributes": {"brand": "IKEA", "properties": {"colour": "blue"}}})
    bare = from_json({key: CAR[key] for key in ("sku", "name", "category")} | {"kind": "general"})
    truck = from_json(
        {**CAR, "kind": "truck", "attributes": {"make": "M", "model": "T", "model_year": 2020, "payload_kg": 9}}
    )
    assert isinstance(general, ImportRow)
    assert isinstance(bare, ImportRow)
    assert isinstance(truck, ImportRow)
    assert general.commands[0].put.description.general.properties["colour"] == "blue"
    assert bare.commands[0].put.description.WhichOneof("attributes") == "general"
    assert truck.commands[0].put.description.truck.payload_kg == 9


def test_csv_says_the_same_as_ndjson() -> None:
    """The same product in both formats is the same commands."""
    header = (
        b"sku,kind,name,text,category,make,model,model_year,body_styles,doors,price_amount,price_currency,publish,vin"
    )
    line = b'V60-1,car,Volvo V60,"A car: blue",vehicles/estate,Volvo,V60,2020,Estate; Wagon,5,12999.00,EUR,TRUE,'
    row, same = csv_reader(header).read(record(line)), from_json(CAR)
    assert isinstance(row, ImportRow)
    assert isinstance(same, ImportRow)
    assert row.commands == same.commands


def test_csv_properties_have_columns_of_their_own() -> None:
    """`property:<name>` holds a property; an empty cell is none."""
    reader = csv_reader(b"sku,kind,name,category,property:colour,property:size")
    row = reader.read(record(b'A,general,N,c,"dark ""blue""",'))
    assert isinstance(row, ImportRow)
    assert dict(row.commands[0].put.description.general.properties) == {"colour": 'dark "blue"'}


@pytest.mark.parametrize("blank", [b"", b"  \t", b"\r"])
def test_a_blank_line_is_no_row(blank: bytes) -> None:
    """Nothing is refused and nothing imported."""
    assert from_json(blank) is None


@pytest.mark.parametrize(
    ("line", "reason", "words"),
    [
        (b"[]", "ROW_NOT_JSON", "no JSON object"),
        (b"null", "ROW_NOT_JSON", "no JSON object"),
        (b'{"sku": "a"', "ROW_NOT_JSON", "not JSON"),
        (b'{"sku": "a"} {}', "ROW_NOT_JSON", "not JSON"),
        (b'{"price": {"amount": NaN}}', "ROW_NOT_JSON", "not JSON"),
        (b'{"price": {"amount": Infinity}}', "ROW_NOT_JSON", "not JSON"),
        (b'{"sku": "caf\xe9"}', "ROW_NOT_UTF8", "byte 13"),
        (b'{"sku": "\\ud800"}', "ROW_NOT_JSON", "not JSON"),
        (b'{"a":' * 2000, "ROW_NOT_JSON", "not JSON"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "ROW_INVALID", "more than 16 levels"),
        (b"[" * 50_000, "ROW_NOT_JSON", "not JSON"),
        (b"\x00", "ROW_NOT_JSON", "not JSON"),
        ("{'sku': 'a'}".encode("utf-16"), "ROW_NOT_UTF8", "not UTF-8"),
        (None, "ROW_TOO_LONG", "longer"),
    ],
)
def test_what_is_no_json_object_is_refused_by_line(line: bytes | None, reason: str, words: str) -> None:
    """The report names the line and what is wrong with it."""
    row = NdjsonReader().read(record(line))
    assert isinstance(row, RefusedRow)
    assert (row.line, row.problem.reason) == (7, reason)
    assert words in row.problem.message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"colour": "blue"}, "colour"),
        ({"kind": "boat"}, "kind"),
        ({"kind": 1}, "kind"),
        ({"name": None}, "name"),
        ({"name": 7}, "name"),
        ({"publish": "yes"}, "publish"),
        ({"publish": 1}, "publish"),
        ({"price": {"amount": 12999.0, "currency": "EUR"}}, "price.amount"),
        ({"price": {"amount": True, "currency": "EUR"}}, "price.amount"),
        ({"price": {"amount": 123456789012345678901234567890, "currency": "EUR"}}, "price.amount"),
        ({"price": {"amount": "1"}}, "price.currency"),
        ({"price": "1 EUR"}, "price"),
        ({"attributes": {**CAR["attributes"], "payload_kg": 1}}, "attributes.payload_kg"),
        ({"attributes": {**CAR["attributes"], "doors": "5"}}, "attributes.doors"),
        ({"attributes": {**CAR["attributes"], "doors": 5.0}}, "attributes.doors"),
        ({"attributes": {**CAR["attributes"], "doors": -1}}, "attributes.doors"),
        ({"attributes": {**CAR["attributes"], "model_year": 2**32}}, "attributes.model_year"),
        ({"attributes": {**CAR["attributes"], "body_styles": "SUV"}}, "attributes.body_styles"),
        ({"attributes": {**CAR["attributes"], "body_styles": [1]}}, "attributes.body_styles.0"),
        ({"attributes": [[[[[]]]]]}, "attributes"),
        ({"text": [[[[{"a": 1}]]]]}, "text"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], field: str) -> None:
    """Types are strict, unknown fields are refused, and money is no binary float; the report names field and SKU."""
    row = (
        from_json(b'{"price": {"amount": 1' + b"0" * 30 + b"}}")
        if change is None
        else from_json(_dumps({**CAR, **change}))
    )
    assert isinstance(row, RefusedRow)
    assert row.problem.reason == "ROW_INVALID"
    assert [name for name, _ in row.problem.violations] == [field]
    assert row.sku == "V60-1"


def _dumps(value: Any) -> bytes:
    import json  # noqa: PLC0415 - orjson writes no integers over 64 bits

    return json.dumps(value).encode()


@pytest.mark.parametrize("amount", ["12999.00", "1e5", "-1", 12999, 0])
def test_amounts_are_text_or_whole_numbers(amount: str | int) -> None:
    """What the amount means is for catalog-command to say."""
    row = from_json({**CAR, "price": {"amount": amount, "currency": "EUR"}})
    assert isinstance(row, ImportRow)
    assert row.commands[1].set_price.price.amount == str(amount)


@pytest.mark.parametrize(
    "line",
    [
        b'{"sku":"a","sku":"b"}',
        b'{"sku":"a","price":{"amount":"1","amount":"2","currency":"EUR"}}',
        b'{"sku":"a","text":"x: y","price":{"amount":"1","amount":"2","currency":"EUR"}}',
    ],
)
def test_a_name_that_stands_twice_is_refused(line: bytes) -> None:
    """Which of two prices was meant, nobody knows."""
    row = from_json(line)
    assert isinstance(row, RefusedRow)
    assert "stands twice" in row.problem.message


def test_a_hostile_row_makes_a_small_refusal() -> None:
    """A report does not grow with what is refused."""
    row = from_json({f"{number}" * 500: number for number in range(500)} | {"sku": "\x00\x1b[31m" + "x" * 10_000})
    assert isinstance(row, RefusedRow)
    assert len(row.sku) <= 64
    assert "\x00" not in row.sku
    assert "\x1b" not in row.sku
    assert len(row.problem.violations) <= 20
    assert len(str(row)) < 10_000


@pytest.mark.parametrize(
    ("header", "violations"),
    [
        (b"sku,kind,name,category,colour", [("colour", "is not a column of an import")]),
        (b"sku,kind,name,category,property:", [("property:", "is not a column of an import")]),
        (b"sku,kind,name,category,sku", [("sku", "stands twice in the header")]),
        (b"SKU,kind,name,category", [("SKU", "is not a column of an import"), ("sku", "is required")]),
        (b"sku;kind;name;category", [("sku;kind;name;category", "is not a column of an import")]),
    ],
)
def test_a_wrong_header_names_its_columns(header: bytes, violations: list[tuple[str, str]]) -> None:
    """A file whose columns are not known is refused as a whole."""
    with pytest.raises(FileRefused) as refused:
        csv_reader(header)
    assert list(refused.value.problem.violations)[: len(violations)] == violations


@pytest.mark.parametrize("header", [None, b"sku,\xff", b'sku,"kind', b'"sku"x,kind', b""])
def test_a_header_that_is_no_csv_is_refused(header: bytes | None) -> None:
    """As a whole, again."""
    with pytest.raises(FileRefused):
        CsvReader().read_header(record(header, 1, unclosed=header == b'sku,"kind'))


@pytest.mark.parametrize(
    ("line", "reason", "words"),
    [
        (b"A,car", "ROW_INVALID", "2 cells and the header 7 columns"),
        (b'"A"x,car,N,c,1,EUR,', "ROW_NOT_CSV", "not CSV"),
        (b"A,car,caf\xe9,c,1,EUR,", "ROW_NOT_UTF8", "byte 10"),
        (b"A\rB,car,N,c,1,EUR,", "ROW_NOT_CSV", "not CSV"),
        (b"A,general,N,c,,EUR,", "ROW_INVALID", "price_amount: is required"),
        (b"A,general,N,c,1,EUR,x", "ROW_INVALID", "doors: is not a field of such a row"),
        (None, "ROW_TOO_LONG", "longer"),
    ],
)
def test_a_wrong_csv_row_is_named_by_column(line: bytes | None, reason: str, words: str) -> None:
    """The report speaks of columns as the file does."""
    row = csv_reader(b"sku,kind,name,category,price_amount,price_currency,doors").read(record(line))
    assert isinstance(row, RefusedRow)
    assert row.problem.reason == reason
    assert words in row.problem.message


def test_a_quoted_field_that_is_never_closed_is_refused() -> None:
    """The record that the end of the file cut off is no row."""
    row = csv_reader(b"sku,kind,name,category").read(record(b'A,general,"N,c', unclosed=True))
    assert isinstance(row, RefusedRow)
    assert "never closed" in row.problem.message


@pytest.mark.parametrize("cell", ["-1", "1.5", "٣", "1_000", "99999999999", " 5", "five"])
def test_a_csv_number_is_ascii_digits(cell: str) -> None:
    """Python's int() takes much that is no number in a file."""
    reader = csv_reader(b"sku,kind,name,category,make,model,model_year,doors")
    row = reader.read(record(f"A,car,N,c,M,T,2020,{cell}".encode()))
    assert isinstance(row, RefusedRow)
    assert [name for name, _ in row.problem.violations] == ["doors"]


@pytest.mark.parametrize(
    ("reader", "path", "field"),
    [
        (NdjsonReader(), "commands[0].put.description.car.vehicle.make", "attributes.make"),
        (NdjsonReader(), "commands[0].put.description.car.doors", "attributes.doors"),
        (NdjsonReader(), "commands[0].put.description.general.properties[a.b]", "attributes.properties.a.b"),
        (NdjsonReader(), "commands[0].put.description.name", "name"),
        (NdjsonReader(), "commands[0].put.sku", "sku"),
        (NdjsonReader(), "commands[1].set_price.price.amount", "price.amount"),
        (NdjsonReader(), "commands[2]", "publish"),
        (NdjsonReader(), "product_id", "sku"),
        (CsvReader(), "commands[0].put.description.car.vehicle.make", "make"),
        (CsvReader(), "commands[0].put.description.car.vehicle.body_styles[0]", "body_styles[0]"),
        (CsvReader(), "commands[0].put.description.general.properties[colour]", "property:colour"),
        (CsvReader(), "commands[1].set_price.price.currency", "price_currency"),
    ],
)
def test_what_catalog_command_refuses_is_told_in_the_words_of_the_file(
    reader: RowReader, path: str, field: str
) -> None:
    """Whoever wrote the file does not know our messages."""
    row = from_json(CAR)
    assert isinstance(row, ImportRow)
    problem = problem_pb2.Problem(
        code=3,
        reason="INVALID_COMMAND",
        message=f"{path}: is wrong",
        violations=[problem_pb2.FieldViolation(field=path, description="is wrong")],
    )
    refusal = refused_row(row, problem, reader)
    assert refusal.problem.violations == ((field, "is wrong"),)
    assert refusal.problem.message == f"{field}: is wrong"
    assert isinstance(row.commands[0], command_pb2.ProductCommand)


@given(data=st.binary(max_size=300))
def test_no_bytes_make_a_reader_fail(data: bytes) -> None:
    """Whatever stands in a line, the answer is a row, a refusal or nothing."""
    data = data.replace(b"\n", b"")
    assert isinstance(NdjsonReader().read(record(data)), ImportRow | RefusedRow | None)
    reader = csv_reader(b"sku,kind,name,category,price_amount,price_currency,doors")
    assert isinstance(reader.read(record(data)), ImportRow | RefusedRow | None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*CAR, "make"]), inner, max_size=4),
    max_leaves=8,
)


@given(change=st.dictionaries(st.sampled_from([*CAR, "x"]), json_values, max_size=3))
def test_no_json_makes_a_reader_fail(change: dict[str, Any]) -> None:
    """The same for whatever JSON stands in a row."""
    assert isinstance(from_json(_dumps({**CAR, **change})), ImportRow | RefusedRow)
