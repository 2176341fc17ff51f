import asyncio
from decimal import Decimal

import orjson
import pytest
from gateway.encoding import InvalidJson, decode, encode
from hypothesis import given
from hypothesis import strategies as st

LOG_IN = b'{"email":"ada@example.com","password":"correct horse battery staple"}'
JSON = {"Content-Type": "application/json"}
BAD_JSON = {
    "empty": b"",
    "no JSON": b"hello",
    "cut off": LOG_IN[:-5],
    "two values": LOG_IN + LOG_IN,
    "NaN": b'{"email":NaN}',
    "Infinity": b'{"email":Infinity}',
    "minus Infinity": b'{"email":-Infinity}',
    "a number too large": b'{"email":1e999}',
    "a number of a thousand digits": b'{"email":' + b"9" * 1000 + b"}",
    "a key twice": b'{"email":"a@b.c","email":"d@e.f","password":"x"}',
    "a key twice inside": b'{"email":{"a":1,"a":2}}',
    "no UTF-8": b'{"email":"\xff\xfe"}',
    "UTF-16": LOG_IN.decode().encode("utf-16"),
    "half a surrogate pair": b'{"email":"\\ud800"}',
    "NUL": b'{"email":"a\\u0000b"}',
    "a control character": b'{"email":"a\nb"}',
    "too deep": b"[" * 33 + b"]" * 33,
    "much too deep": b"[" * 100_000,
    "too deep in a string's shadow": b'{"a":"[[[\\"","b":' + b"[" * 40 + b"]" * 40 + b"}",
    "a comment": b'{"email":1/*x*/}',
    "a byte order mark": b"\xef\xbb\xbf" + LOG_IN,
}
BAD_BODIES = {
    "an array": b"[]",
    "null": b"null",
    "a string": b'"x"',
    "an unknown field": LOG_IN[:-1] + b',"admin":true}',
    "a wrong type": b'{"email":1,"password":"x"}',
    "a missing field": b'{"email":"a@b.c"}',
    "an empty text": b'{"email":"a@b.c","password":""}',
    "a text too long": b'{"email":"a@b.c","password":"' + b"x" * 129 + b'"}',
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
async def test_what_is_no_json_is_refused(client, body):
    """400, with a sentence that says why."""
    answer = await client.post("/v1/sessions", content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["reason"] == "INVALID_JSON"


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_json_of_another_shape_is_refused(client, body):
    """422, naming the field."""
    answer = await client.post("/v1/sessions", content=body, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["reason"] == "INVALID_BODY"
    assert answer.json()["errors"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sku": "a b"}, "sku"),
        ({"sku": 5}, "sku"),
        ({"kind": "boat"}, "body"),
        ({"name": ""}, "name"),
        ({"category": "Vehicles"}, "category"),
        ({"price": {"amount": 12.5, "currency": "EUR"}}, "price.amount"),
        ({"price": {"amount": "1e5", "currency": "EUR"}}, "price.amount"),
        ({"price": {"amount": "-1", "currency": "EUR"}}, "price.amount"),
        ({"price": {"amount": "NaN", "currency": "EUR"}}, "price.amount"),
        ({"price": {"amount": "1" * 19, "currency": "EUR"}}, "price.amount"),
        ({"price": {"amount": "1", "currency": "euro"}}, "price.currency"),
        ({"price": {"amount": "1", "currency": "EUR", "vat": "0"}}, "price.vat"),
        ({"publish": "true"}, "publish"),
        ({"publish": 1}, "publish"),
        ({"attributes": {"make": "V", "model": "V60", "model_year": "2026"}}, "attributes.model_year"),
        ({"attributes": {"make": "V", "model": "V60", "model_year": 2026.5}}, "attributes.model_year"),
        ({"attributes": {"make": "V", "model": "V60", "model_year": 10**30}}, "attributes.model_year"),
        ({"attributes": {"make": "V", "model": "V60", "model_year": 2026, "doors": 0}}, "attributes.doors"),
        ({"attributes": {"make": "V", "model": "V60", "model_year": 2026, "brand": "x"}}, "attributes.brand"),
        ({"attributes": {"make": "V", "model": "V60", "model_year": 2026, "vin": "IOQ"}}, "attributes.vin"),
        ({"attributes": None}, "attributes"),
    ],
)
async def test_a_product_with_a_wrong_field_is_refused_and_nothing_is_written(client, fakes, car, change, field):
    """Types are not guessed: a string is no number, one is not true, and money is no float."""
    answer = await client.post("/v1/products", json=car | change)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field
    assert not fakes.catalog.items


async def test_only_json_is_taken(client):
    """Another media type, charset or encoding answers 415; `+json` and a charset that says UTF-8 will do."""
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": ""},
        {"Content-Type": "application/json; charset=latin-1"},
        JSON | {"Content-Encoding": "gzip"},
    ):
        answer = await client.post("/v1/sessions", content=LOG_IN, headers=headers)
        assert answer.status_code == 415, headers
        assert answer.headers["content-type"] == "application/problem+json"
    for media_type in ("application/json;charset=UTF-8", "Application/JSON", "application/merge-patch+json"):
        answer = await client.post("/v1/sessions", content=LOG_IN, headers={"Content-Type": media_type})
        assert answer.status_code == 201, media_type


async def test_a_body_over_the_limit_is_refused_whether_announced_or_not(client):
    """413, without reading on for longer than it takes most clients to listen."""
    body = b'{"email":"' + b"a" * 1024 * 1024 + b'"}'
    assert (await client.post("/v1/sessions", content=body, headers=JSON)).status_code == 413
    read = 0

    async def unannounced():
        nonlocal read
        for _ in range(10_000):
            read += 1
            yield b"x" * 1024

    answer = await client.post("/v1/sessions", content=unannounced(), headers=JSON)
    assert (answer.status_code, answer.json()["reason"]) == (413, "BODY_TOO_LARGE")
    assert read < 5 * 1024 + 100


async def test_a_body_that_does_not_come_is_not_waited_for_for_ever(client):
    """408 after the time for the request."""

    async def stalled():
        yield b"{"
        await asyncio.sleep(30)

    headers = JSON | {"Prefer": "wait=1"}
    answer = await client.post("/v1/sessions", content=stalled(), headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (408, "BODY_TOO_SLOW")


async def test_targets_and_headers_are_bounded(client):
    """431 for too much of them, 400 for what is no text."""
    assert (await client.get("/healthz", headers={"X-Large": "x" * 20_000})).status_code == 431
    assert (await client.get("/v1/products?make=" + "x" * 20_000)).status_code == 431
    assert (await client.get("/v1/products?make=a%00b")).status_code == 400
    assert (await client.get("/v1/products/sku:%00")).status_code == 400
    assert (await client.get("/v1/products/%ff%fe")).status_code in (400, 404)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_what_is_written_can_be_read(value):
    """Reading what was written gives the same, whatever it is."""
    assert decode(encode(value)) == value


@given(st.binary(max_size=200) | st.text('[]{}",:\\u0d8ntrf1e-.', max_size=60).map(str.encode))
def test_whatever_comes_it_is_read_or_refused(body):
    """No other exception, and never a value that another strict reader would not take."""
    try:
        value = decode(body)
    except InvalidJson:
        return
    assert orjson.loads(body) == value or isinstance(value, int | float | list | dict)


def test_values_are_written_in_one_way():
    """Exact decimals as text, times with Z."""
    assert encode({"amount": Decimal("1E+2")}) == b'{"amount":"100"}'
    with pytest.raises(TypeError):
        encode(object())
