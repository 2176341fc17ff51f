"""The service as its callers see it: over mTLS, with a real event store and real Postgres behind it."""

import orjson
from almagest.catalog.events.v1 import product_events_pb2 as events


async def test_a_write_is_read_with_its_token(system, build):
    """A read that carries the token of a write sees it, as a document with its keys in order."""
    token = await system.append(
        "V60", build.created("V60", build.car(text="A wagon.")), build.price(), events.ProductPublished()
    )
    product = await system.get("V60", token)
    assert product.revision == 2
    document = orjson.loads(product.document)
    assert list(document) == [
        "product_id", "sku", "kind", "name", "text", "category", "status", "attributes", "price", "revision", "created_at", "updated_at",
    ]  # fmt: skip
    assert document["attributes"] == {
        "make": "Volvo", "model": "V60", "model_year": 2024, "vin": None, "body_styles": ["Wagon"], "doors": 5, "seats": 5,
    }  # fmt: skip
    assert document["price"] == {"amount": "12999.00", "currency": "EUR"}
    assert document["status"] == "published"
    assert document["created_at"].endswith("Z")
