"""Looking after projections: every route says what it asks of catalog-query, and what came of it."""

import pytest
from almagest.catalog.v1 import projections_pb2 as wire

PARKED = "0199f5a0-7c1e-7d31-9a5b-0d2c3e4f5a6b"
PRODUCT = "6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11"
AT = "/v1/projections/products"


async def test_a_projection_shows_its_generations(client):
    """State, progress, what is held, and how a new one compares."""
    shown = (await client.get(AT)).json()
    assert [(one["generation"], one["state"]) for one in shown["generations"]] == [(1, "serving"), (2, "ready")]
    assert shown["generations"][0]["progress"][0]["lag_events"] == 2
    assert shown["generations"][0]["held_streams"] == 1
    assert shown["generations"][1]["comparison"]["fields"] == {"document.name": 2}
    missing = await client.get("/v1/projections/sales")
    assert (missing.status_code, missing.json()["reason"]) == (404, "PROJECTION_NOT_FOUND")


async def test_what_is_parked_is_paged(client):
    """With the next page in the body and in the Link header."""
    first = await client.get(f"{AT}/parked", params={"page_size": 1})
    assert first.json()["items"][0]["type"] == "PriceBurnt"
    assert first.json()["next_cursor"] == "more"
    assert "cursor=more" in first.headers["link"]
    assert (await client.get(f"{AT}/parked", params={"cursor": "more"})).json()["next_cursor"] is None
    assert (await client.get(f"{AT}/parked", params={"page_size": 1000})).status_code == 400


@pytest.mark.parametrize(
    ("path", "json", "status", "request_"),
    [
        ("/parked:retry", None, 200, wire.RetryParkedEventsRequest(projection="products")),
        (f"/parked/{PARKED}:retry", None, 200, wire.RetryParkedEventsRequest(projection="products", parked_id=PARKED)),
        (
            f"/parked/{PARKED}:skip",
            {"reason": "a mistake"},
            200,
            wire.SkipParkedEventRequest(projection="products", parked_id=PARKED, reason="a mistake"),
        ),
        (":rebuild", None, 202, wire.RebuildRequest(projection="products")),
        ("/generations/2:compare", None, 202, wire.CompareRequest(projection="products", generation=2)),
        (
            "/generations/2:switch",
            {"accepted_fields": ["document.name"]},
            200,
            wire.SwitchGenerationRequest(projection="products", generation=2, accepted_fields=["document.name"]),
        ),
        (":repair", {"product_id": PRODUCT}, 200, wire.RepairProductRequest(product_id=PRODUCT)),
    ],
)
async def test_what_operators_ask_for_is_passed_on(client, fakes, path, json, status, request_):
    """With the person who asks."""
    answer = await client.post(AT + path, json=json)
    assert answer.status_code == status, answer.text
    [(asked, subject)] = fakes.operators.asked
    assert asked == request_
    assert subject


async def test_a_generation_that_differs_is_a_conflict(client):
    """Until somebody says that it should."""
    refused = await client.post(f"{AT}/generations/2:switch", json={})
    assert (refused.status_code, refused.json()["reason"]) == (409, "GENERATIONS_DIFFER")
    forced = await client.post(f"{AT}/generations/2:switch", json={"force": True})
    assert forced.json() == {"generation": 2, "previous": 1}


async def test_differences_and_drift_are_listed(client):
    """By field, and by product."""
    page = (await client.get(f"{AT}/generations/2/differences")).json()
    assert page["comparison"]["compared"] == 7
    assert (page["items"][0]["field"], page["items"][0]["before"], page["items"][0]["after"]) == (
        "document.name",
        None,
        '"B"',
    )
    assert (await client.get(f"{AT}/drift")).json()["items"][0]["fields"] == ["document"]


async def test_a_generation_is_dropped_and_a_skip_needs_a_reason(client, fakes):
    """And a number that is none is refused."""
    assert (await client.delete(f"{AT}/generations/1")).status_code == 204
    assert len(fakes.operators.asked) == 1
    assert (await client.delete(f"{AT}/generations/0")).status_code == 400
    assert (await client.post(f"{AT}/parked/{PARKED}:skip", json={"reason": ""})).status_code == 422
    assert (await client.post(f"{AT}/parked/x:skip", json={"reason": "why"})).status_code == 400


async def test_a_product_that_is_held_says_so(client, fakes):
    """In a header of the answer, with the revision that it stands still before."""
    created = await client.post(
        "/v1/products", json={"sku": "HELD-1", "kind": "general", "name": "Wiper", "attributes": {}}
    )
    assert created.status_code == 201, created.text
    path = "/v1/products/sku:HELD-1"
    assert "almagest-held" not in (await client.get(path)).headers
    fakes.catalog.held = 7
    assert (await client.get(path)).headers["almagest-held"] == "7"


async def test_pages_and_batches_say_which_of_their_products_are_held(client, fakes):
    """Beside the items, so that what stands still is never shown as if it were up to date; and OpenAPI tells it."""
    body = {"sku": "HELD-2", "kind": "general", "name": "Wiper", "attributes": {}}
    product_id = (await client.post("/v1/products", json=body)).json()["product_id"]
    pages = (
        "/v1/products",
        "/v1/products:search?text=wiper",
        "/v1/products?as_of=2026-11-22T16:30:00Z",
        "/v1/products:search?text=wiper&as_of=2026-11-22T16:30:00Z",
    )

    async def told() -> list[object]:
        batch = await client.post("/v1/products:batchGet", json={"ids": ["sku:HELD-2"]})
        return [(await client.get(page)).json()["held"] for page in pages] + [batch.json()["items"][0]["held_revision"]]

    assert await told() == [[], [], [], [], None]
    fakes.catalog.held = 7
    assert await told() == [[{"product_id": product_id, "held_revision": 7}]] * 4 + [7]
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert {"items", "held", "next_cursor"} == set(schemas["ProductPage"]["required"])
    assert "held_revision" in schemas["BatchItem"]["properties"]
