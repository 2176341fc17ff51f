import uuid

import pytest

PATH = "/v1/products/sku:volvo-v60"
PRICE = {"price": {"amount": "1.00", "currency": "EUR"}, "effective_at": "2030-01-01T01:00:00+01:00", "reason": "sale"}


@pytest.fixture
async def product(client, car):
    return (await client.post("/v1/products", json=car)).json()


async def test_a_price_is_planned_listed_and_cancelled(client, fakes, product):
    """The plan has the id of the write that made it, and is shown until it has ended."""
    planned = await client.post(f"{PATH}/schedules", json=PRICE)
    assert planned.status_code == 201
    schedule_id = planned.json()["schedule_id"]
    path = f"/v1/products/{product['product_id']}/schedules"
    assert planned.headers["location"] == f"{path}/{schedule_id}"
    assert planned.json()["links"]["schedules"] == path
    command = fakes.catalog.items[-1]
    assert command.command_id == schedule_id == command.commands[0].schedule_price.schedule_id
    assert command.commands[0].schedule_price.effective_at.ToJsonString() == "2030-01-01T00:00:00Z"
    for where in (f"{PATH}/schedules", path, "/v1/schedules"):
        (item,) = (await client.get(where)).json()["items"]
        assert item["schedule_id"] == schedule_id
        assert item["price"] == {"amount": "1.00", "currency": "EUR"}
        assert (item["published"], item["state"], item["reason"]) == (None, "open", "sale")
        assert item["effective_at"].startswith("2030-01-01T00:00:00")
        assert item["refusal"] is None
    cancelled = await client.delete(f"{path}/{schedule_id}")
    assert (cancelled.status_code, cancelled.json()["changed"]) == (200, True)
    assert (await client.get("/v1/schedules")).json()["items"] == []
    (item,) = (await client.get("/v1/schedules?state=cancelled")).json()["items"]
    assert item["state"] == "cancelled"


async def test_a_plan_that_is_kept_from_coming_says_why(client, product):
    """Who lists it sees what the worker met."""
    plan = {"published": True, "effective_at": "2030-01-01T00:00:00Z"}
    assert (await client.post(f"{PATH}/schedules", json=plan)).status_code == 201
    (item,) = (await client.get("/v1/schedules")).json()["items"]
    assert (item["price"], item["published"], item["refusal"]["reason"]) == (None, True, "USER_NOT_FOUND")


async def test_the_same_key_makes_one_plan(client, fakes, product):
    """And gets its id again."""
    asked = {"json": PRICE, "headers": {"Idempotency-Key": "k"}}
    first = await client.post(f"{PATH}/schedules", **asked)
    again = await client.post(f"{PATH}/schedules", **asked)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert len(fakes.catalog.plans) == 1


async def test_the_filter_and_the_page_are_passed_on(client, fakes, product):
    """Times with their offset, states, and the link to the next page."""
    for _ in range(2):
        await client.post(f"{PATH}/schedules", json=PRICE)
    query = "due_before=2031-01-01T00:00:00%2B02:00&state=open&state=failed&page_size=1"
    page = await client.get(f"/v1/schedules?{query}", headers={"Almagest-Consistency": "abc"})
    asked = fakes.catalog.schedule_requests[-1]
    assert asked.due_before.ToJsonString() == "2030-12-31T22:00:00Z"
    assert (list(asked.states), asked.page_size, list(asked.consistency_tokens)) == ([1, 4], 1, ["abc"])
    assert page.json()["next_cursor"] == "more"
    assert "cursor=more" in page.headers["link"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**PRICE, "effective_at": "2030-01-01T00:00:00"}, "effective_at"),
        ({**PRICE, "effective_at": "2030-02-30T00:00:00Z"}, "effective_at"),
        ({**PRICE, "effective_at": "2020-01-01T00:00:00Z"}, "effective_at"),
        ({**PRICE, "price": {"amount": 1, "currency": "EUR"}}, "price.amount"),
        ({**PRICE, "published": True}, "price"),
        ({"effective_at": "2030-01-01T00:00:00Z"}, "price"),
        ({"published": 1, "effective_at": "2030-01-01T00:00:00Z"}, "published"),
        ([], "body"),
    ],
)
async def test_what_is_no_plan_is_refused_by_field(client, product, body, field):
    """One change, at a time with its offset, in the future."""
    answer = await client.post(f"{PATH}/schedules", json=body)
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]


async def test_a_plan_that_is_not_there_cannot_be_cancelled(client, product):
    """404; and what is no id is refused at the door."""
    assert (await client.delete(f"{PATH}/schedules/{uuid.uuid4()}")).status_code == 404
    assert (await client.delete(f"{PATH}/schedules/mine")).status_code == 400


async def test_a_correction_and_a_restoration_are_commands_like_others(client, fakes, product):
    """Times, price and revision reach the catalog; the entity tag guards them."""
    body = {"amount": "9.00", "currency": "EUR", "effective_from": "2026-01-01T00:00:00Z", "reason": "wrong"}
    corrected = await client.post(f"{PATH}/price:correct", json=body)
    assert (corrected.status_code, corrected.json()["changed"]) == (200, True)
    command = fakes.catalog.items[-1].commands[0].correct_price
    assert command.effective_from.ToJsonString() == "2026-01-01T00:00:00Z"
    assert not command.HasField("effective_until")
    await client.post(f"{PATH}/price:correct", json={**body, "effective_until": "2026-02-01T00:00:00Z"})
    assert fakes.catalog.items[-1].commands[0].correct_price.effective_until.ToJsonString() == "2026-02-01T00:00:00Z"
    restored = await client.post(f"{PATH}:restore", json={"revision": 0, "reason": "x"}, headers={"If-Match": '"99"'})
    assert restored.status_code == 412
    await client.post(f"{PATH}:restore", json={"revision": 0})
    assert fakes.catalog.items[-1].commands[0].restore.revision == 0
