import uuid

import orjson


async def test_a_product_is_created_and_read_back_with_its_token(client, car):
    """A write answers where to read it, its revision, and a token that a read may carry."""
    written = await client.post("/v1/products", json=car)
    assert written.status_code == 201, written.text
    body = written.json()
    assert written.headers["location"] == f"/v1/products/{body['product_id']}"
    assert written.headers["etag"] == '"1"'
    assert body["created"] and body["changed"]
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
