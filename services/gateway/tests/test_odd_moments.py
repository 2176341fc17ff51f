"""Whatever stands in the query as a time or a position is a moment, or refused: never an error of ours."""

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

_DIGITS = st.text("0123456789", min_size=1, max_size=25)
_TIMES = st.builds(
    "{:04d}-{:02d}-{:02d}{}{:02d}:{:02d}:{:02d}{}{}".format,
    st.integers(0, 9999),
    st.integers(0, 13),
    st.integers(0, 32),
    st.sampled_from(["T", "t", " ", ""]),
    st.integers(0, 25),
    st.integers(0, 61),
    st.integers(0, 61),
    st.sampled_from(["", ".1", ".999999999", ".0000000001", ",5"]),
    st.sampled_from(["Z", "z", "+00:00", "-23:59", "+24:00", "+99:99", " 01:00", ""]),
)
_ODD = st.one_of(
    _TIMES,
    st.builds("{}:{}".format, _DIGITS, _DIGITS),
    st.text(max_size=40),
    _DIGITS,
    st.sampled_from(
        [
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            "0:0",
            "\u0660:\u0661",
            "2026-11-27T00:00:00Z\n",
            "null",
            "-1",
        ]
    ),
)
_PATHS = st.sampled_from(
    [
        "/v1/products",
        "/v1/products:search?text=volvo",
        "/v1/vehicles",
        "/v1/products/sku:volvo-v60",
        "/v1/products/sku:volvo-v60/explain?field=price.amount",
        "/v1/products/sku:volvo-v60/history",
        "/v1/products/sku:volvo-v60/diff",
    ]
)
_NAMES = st.sampled_from(["as_of", "known_at", "from", "to", "cursor"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=_PATHS, asked=st.dictionaries(_NAMES, _ODD, max_size=3), known=st.booleans())
async def test_odd_times_and_positions_are_answered_or_refused(
    client: httpx.AsyncClient, product: None, *, path: str, asked: dict[str, str], known: bool
) -> None:
    """With two hundred or with four hundred and what is wrong, which names a parameter that was sent."""
    if known and "as_of" in asked:
        asked["known_at"] = asked["as_of"]
    bare, _, query = path.partition("?")
    fixed = dict([query.split("=")]) if query else {}
    answer = await client.get(bare, params=fixed | asked)
    assert answer.status_code in {200, 400, 404, 422}, answer.text
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        assert all(error["field"] in {*asked, *fixed, "from"} for error in answer.json().get("errors", ()))


@pytest.fixture
async def product(client: httpx.AsyncClient, car: dict[str, object]) -> None:
    """A product that is there."""
    created = await client.post("/v1/products", json=car)
    assert created.is_success, created.text
