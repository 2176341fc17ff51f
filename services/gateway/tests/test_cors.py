"""Pages of other origins call the API only where the settings let them."""

import httpx
import pytest
from gateway.app import create_app
from gateway.application.quotas import Quotas

SHOP = "https://shop.example"
PREFLIGHT = {
    "Origin": SHOP,
    "Access-Control-Request-Method": "PUT",
    "Access-Control-Request-Headers": "authorization, idempotency-key, if-match",
}


@pytest.fixture
async def shop(settings, fakes):
    app = create_app(
        settings.model_copy(update={"cors_origins": (SHOP,)}), fakes.ports, fakes.readiness, Quotas(), fakes.feeds
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://gateway") as client:
        yield client


async def test_a_page_that_may_call_is_told_what_it_may_send_and_read(shop, fakes):
    """Preflight, success and failure; a page elsewhere is told nothing."""
    allowed = await shop.options("/v1/products/sku:x/price", headers=PREFLIGHT)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == SHOP
    assert "PUT" in allowed.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in allowed.headers
    headers = {"Origin": SHOP, "Authorization": f"Bearer {fakes.access_token()}"}
    for path, status in (("/v1/products", 200), ("/v1/products/sku:none", 404)):
        answer = await shop.get(path, headers=headers)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert "ETag" in answer.headers["access-control-expose-headers"]
    elsewhere = await shop.options("/v1/products", headers=PREFLIGHT | {"Origin": "https://evil.example"})
    assert elsewhere.status_code == 400
    assert "access-control-allow-origin" not in elsewhere.headers


async def test_unless_told_otherwise_no_page_of_another_origin_may_call(client):
    """The default."""
    refused = await client.options("/v1/products", headers=PREFLIGHT)
    assert refused.status_code == 405
    assert "access-control-allow-origin" not in (await client.get("/v1/products", headers={"Origin": SHOP})).headers
