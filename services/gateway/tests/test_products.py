import asyncio
import uuid

import orjson
import pytest


async def test_a_product_is_created_and_read_back_with_its_token(client, car):
    """A write answers where to read it, its revision, and a token that a read may carry."""
    written = await client.post("/v1/products", json=car)
    assert written.status_code == 201, written.text
    body = written.json()
    assert written.headers["location"] == f"/v1/products/{body['product_id']}"
    assert written.headers["etag"] == '"1"'
    assert body["created"] is True
    assert body["changed"] is True
    assert body["sku"] == "volvo-v60"
    assert body["product_id"] == str(uuid.uuid5(uuid.UUID("6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11"), "volvo-v60"))
    token = written.headers["almagest-consistency"]
    assert token == body["consistency_token"]
    for reference in (body["product_id"], "sku:volvo-v60"):
        read = await client.get(f"/v1/products/{reference}", headers={"Almagest-Consistency": token})
        assert read.status_code == 200
        assert read.json()["price"] == {"amount": "52900.00", "currency": "EUR"}
        assert read.headers["etag"] == '"1"'
        assert read.headers["almagest-consistency"]
        assert read.headers["content-type"] == "application/json"
        assert len(read.headers["trace-id"]) == 32


async def test_document_bytes_are_passed_through_untouched(client, fakes, car):
    """The gateway does not decode what the read model has ready."""
    product_id = (await client.post("/v1/products", json=car)).json()["product_id"]
    read = await client.get(f"/v1/products/{product_id}")
    assert read.content == orjson.dumps(fakes.catalog.documents[product_id])


async def test_a_product_that_the_client_has_is_not_sent_again(client, car):
    """If-None-Match with the current entity tag, strong or weak, answers 304 without a body."""
    await client.post("/v1/products", json=car)
    for known in ('"1"', 'W/"1"', '"7", "1"', "*"):
        read = await client.get("/v1/products/sku:volvo-v60", headers={"If-None-Match": known})
        assert (read.status_code, read.content) == (304, b""), known
        assert read.headers["etag"] == '"1"'
    assert (await client.get("/v1/products/sku:volvo-v60", headers={"If-None-Match": '"2"'})).status_code == 200


async def test_a_slash_in_a_sku_is_written_as_an_escape(client, car):
    """`%2F` belongs to the SKU, `/` separates the path: also in front of a suffix."""
    car["sku"] = "a/history"
    assert (await client.post("/v1/products", json=car)).status_code == 201
    assert (await client.get("/v1/products/sku:a%2Fhistory")).json()["sku"] == "a/history"
    assert (await client.get("/v1/products/sku:a%2fhistory/history")).json()["items"][0]["type"] == "PriceSet"
    missing = await client.get("/v1/products/sku:a/history")
    assert (missing.status_code, missing.json()["reason"]) == (404, "PRODUCT_NOT_FOUND")


async def test_stale_revision_is_refused_and_nothing_is_written(client, fakes, car):
    """If-Match with another revision than the present one answers 412, naming the present one."""
    product_id = (await client.post("/v1/products", json=car)).json()["product_id"]
    price = {"amount": "1.00", "currency": "EUR"}
    path = f"/v1/products/{product_id}/price"
    changed = await client.put(path, json=price, headers={"If-Match": '"1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    before = dict(fakes.catalog.documents[product_id])
    stale = await client.put(path, json={"amount": "2.00", "currency": "EUR"}, headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    assert stale.headers["content-type"] == "application/problem+json"
    assert stale.json()["reason"] == "REVISION_CONFLICT"
    assert stale.json()["metadata"] == {"actual_revision": "2"}
    assert fakes.catalog.documents[product_id] == before
    anyone = await client.put(path, json={"amount": "2.00", "currency": "EUR"}, headers={"If-Match": "*"})
    assert anyone.status_code == 200


async def test_if_match_on_a_product_that_is_not_there_fails_its_precondition(client):
    """`If-Match: *` means that it must exist (RFC 9110); without it, it is not found."""
    body = {"amount": "1.00", "currency": "EUR"}
    assert (await client.put("/v1/products/sku:none/price", json=body, headers={"If-Match": "*"})).status_code == 412
    assert (await client.put("/v1/products/sku:none/price", json=body)).status_code == 404


@pytest.mark.parametrize("value", ["1", 'W/"1"', '"x"', '"1", "2"', f'"{1 << 63}"', '""'])
async def test_an_if_match_that_is_no_entity_tag_of_ours_is_refused(client, value):
    """It is never taken for "any"."""
    body = {"amount": "1.00", "currency": "EUR"}
    answer = await client.put("/v1/products/sku:x/price", json=body, headers={"If-Match": value})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "If-Match"


async def test_a_page_is_put_together_from_documents_and_links_to_the_next(client, fakes, car):
    """Lists give documents as they are, a cursor, a Link and the position."""
    for number in range(3):
        await client.post("/v1/products", json={**car, "sku": f"car-{number}", "name": f"Car {number}"})
    first = await client.get("/v1/products?kind=car&status=published&make=volvo&page_size=2")
    assert [item["sku"] for item in first.json()["items"]] == ["car-0", "car-1"]
    assert first.json()["next_cursor"] == "2"
    link = first.headers["link"]
    assert link == '</v1/products?kind=car&status=published&make=volvo&page_size=2&cursor=2>; rel="next"'
    assert len(first.headers["almagest-consistency"].split(", ")) == 2
    second = await client.get(
        link[1 : link.index(">")], headers={"Almagest-Consistency": first.headers["almagest-consistency"]}
    )
    assert [item["sku"] for item in second.json()["items"]] == ["car-2"]
    assert second.json()["next_cursor"] is None
    assert "link" not in second.headers
    asked = fakes.catalog.list_requests[-1]
    assert list(asked.filter.kinds) == ["car"]
    assert list(asked.consistency_tokens) == first.headers["almagest-consistency"].split(", ")


async def test_vehicles_are_the_products_that_are_cars_or_trucks(client, fakes, car):
    """The same products under another name; what is none is not found there."""
    await client.post("/v1/products", json=car)
    await client.post("/v1/products", json={"sku": "mug", "kind": "general", "name": "Mug"})
    await client.get("/v1/vehicles?model_year_from=2020")
    assert list(fakes.catalog.list_requests[-1].filter.kinds) == ["vehicle"]
    assert (await client.get("/v1/vehicles/sku:volvo-v60")).status_code == 200
    assert (await client.get("/v1/vehicles/sku:mug")).status_code == 404


async def test_unknown_or_ill_typed_parameters_are_named(client):
    """A filter with a typing error must not answer everything."""
    for query, field in (
        ("colour=red", "colour"),
        ("page_size=0", "page_size"),
        ("page_size=ten", "page_size"),
        ("kind=boat", "kind.0"),
        ("sort=random", "sort"),
        ("price_from=-1", "price_from"),
        ("model_year_from=1e3", "model_year_from"),
    ):
        answer = await client.get(f"/v1/products?{query}")
        assert answer.status_code == 400, query
        assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_fields_that_a_service_finds_wrong_are_named_as_the_client_wrote_them(client, car):
    """Paths of internal messages become those of the request, whichever operation it was."""
    car["price"]["amount"] = "52900"
    refused = await client.post("/v1/products", json={**car, "publish": False})
    assert refused.status_code == 422
    assert refused.json()["errors"] == [{"field": "price.amount", "message": "must have 2 decimals"}]
    assert refused.json()["detail"] == "price.amount: must have 2 decimals"
    car["price"]["amount"] = "52900.00"
    await client.post("/v1/products", json=car)
    refused = await client.put("/v1/products/sku:volvo-v60/price", json={"amount": "1", "currency": "EUR"})
    assert refused.json()["errors"] == [{"field": "amount", "message": "must have 2 decimals"}]
    refused = await client.get("/v1/products?price_from=1")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "currency")
    refused = await client.get("/v1/products?cursor=x")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "cursor")


async def test_many_products_are_read_at_once_each_with_its_own_answer(client, car):
    """One that is missing does not fail the others."""
    await client.post("/v1/products", json=car)
    answer = await client.post("/v1/products:batchGet", json={"ids": ["sku:none", "sku:volvo-v60"]})
    missing, found = answer.json()["items"]
    assert missing["product"] is None
    assert missing["problem"]["reason"] == "PRODUCT_NOT_FOUND"
    assert found["product"]["sku"] == "volvo-v60"
    assert found["problem"] is None


async def test_history_tells_who_why_and_what(client, car):
    """Each change with its actor, reason and trace; values are JSON values."""
    await client.post("/v1/products", json={**car, "reason": "spring"})
    change = (await client.get("/v1/products/sku:volvo-v60/history")).json()["items"][0]
    assert change["reason"] == "spring"
    assert change["recorded_at"] == "2026-11-22T16:30:00Z"
    assert change["fields"] == [{"field": "price.amount", "before": None, "after": "12.00"}]
    assert change["job_id"] is None


async def test_a_read_that_is_not_yet_as_fresh_as_asked_says_when_to_come_again(client, car):
    """503 with Retry-After, never an older document."""
    token = "CAEg5wc"  # position 999
    await client.post("/v1/products", json=car)
    answer = await client.get("/v1/products/sku:volvo-v60", headers={"Almagest-Consistency": token})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["reason"] == "NOT_YET_VISIBLE"


async def test_a_read_may_carry_several_tokens_and_waits_for_all(client, car):
    """Tokens are separated by commas; one that is not there yet is enough to wait."""
    token = (await client.post("/v1/products", json=car)).headers["almagest-consistency"]
    both = await client.get("/v1/products/sku:volvo-v60", headers={"Almagest-Consistency": f"{token}, CAEg5wc"})
    assert (both.status_code, both.json()["reason"]) == (503, "NOT_YET_VISIBLE")
    twice = await client.get("/v1/products/sku:volvo-v60", headers={"Almagest-Consistency": f"{token}, {token}"})
    assert twice.status_code == 200
    for bad in ("a b", "ä".encode(), ",".join(f"t{number}" for number in range(17)), "x" * 201):
        answer = await client.get("/v1/products/sku:volvo-v60", headers={"Almagest-Consistency": bad})
        assert answer.status_code == 400, bad


async def test_a_reference_that_is_neither_id_nor_sku_is_refused(client):
    """Before any service is asked."""
    for reference in ("1", "sku:", "sku:a%20b", "f79b0d6a", "sku:" + "a" * 65):
        answer = await client.get(f"/v1/products/{reference}")
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "product_id"), reference


async def test_life_of_a_product(client, fakes, car):
    """Publish, unpublish, describe, discontinue, each with its reason in the command."""
    await client.post("/v1/products", json={**car, "publish": False})
    path = "/v1/products/sku:volvo-v60"
    for verb, status in (("publish", "published"), ("unpublish", "draft"), ("discontinue", "discontinued")):
        answer = await client.post(f"{path}:{verb}", json={"reason": f"to {verb}"})
        assert answer.status_code == 200, answer.text
        assert (await client.get(path)).json()["status"] == status
        assert fakes.catalog.items[-1].reason == f"to {verb}"
    assert (await client.post(f"{path}:discontinue", json={})).status_code == 422
    described = {key: car[key] for key in ("kind", "name", "category", "attributes")} | {"name": "New"}
    assert (await client.put(f"{path}/description", json=described)).status_code == 200
    assert (await client.get(path)).json()["name"] == "New"
    described["attributes"]["payload_kg"] = 3
    refused = await client.put(f"{path}/description", json=described)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "attributes.payload_kg")


async def test_reads_beside_each_other_do_not_mix_up(client, car):
    """Each of many concurrent reads gets its own product."""
    for number in range(20):
        await client.post("/v1/products", json={**car, "sku": f"car-{number}"})
    answers = await asyncio.gather(*(client.get(f"/v1/products/sku:car-{number % 20}") for number in range(200)))
    assert [answer.json()["sku"] for answer in answers] == [f"car-{number % 20}" for number in range(200)]
