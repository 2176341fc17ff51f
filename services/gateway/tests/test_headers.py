"""Every kind of answer carries the headers of its kind: what an attacker can have a browser do with it is nothing."""

import httpx
import pytest
from gateway.app import create_app

ALWAYS = {
    "x-content-type-options": "nosniff",
    "strict-transport-security": "max-age=63072000; includeSubDomains",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
DATA = ALWAYS | {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
}
PRIVATE = DATA | {"cache-control": "no-store"}
CHECKED = DATA | {"cache-control": "private, no-cache"}
ONCE = (*DATA, "cache-control", "trace-id")

# What is asked, and what comes back: status, and the headers that it must have.
ANSWERS = {
    "a product": ("GET", "/v1/products/sku:volvo-v60", {}, 200, CHECKED),
    "one that is known": ("GET", "/v1/products/sku:volvo-v60", {"If-None-Match": "*"}, 304, DATA),
    "without its body": ("HEAD", "/v1/products/sku:volvo-v60", {}, 200, CHECKED),
    "a list": ("GET", "/v1/products", {}, 200, PRIVATE),
    "lines": ("GET", "/v1/changes?after=start&follow=false", {"Accept": "application/x-ndjson"}, 200, DATA),
    "a stream of events": ("GET", "/v1/changes?after=start&follow=false", {"Accept": "text/event-stream"}, 200, DATA),
    "not found": ("GET", "/v1/products/sku:none", {}, 404, PRIVATE),
    "no such route": ("GET", "/nothing", {}, 404, PRIVATE),
    "no such method": ("DELETE", "/v1/products", {}, 405, PRIVATE),
    "an unknown method": ("BREW", "/v1/products", {}, 405, PRIVATE),
    "tracing": ("TRACE", "/v1/products", {}, 405, PRIVATE),
    "nobody": ("GET", "/v1/products", {"Authorization": ""}, 401, PRIVATE),
    "a bad parameter": ("GET", "/v1/products?page_size=x", {}, 400, PRIVATE),
    "no JSON": ("POST", "/v1/products", {"Content-Type": "application/json"}, 400, PRIVATE),
    "no media type": ("POST", "/v1/products", {}, 415, PRIVATE),
    "headers too large": ("GET", "/healthz", {"X-Large": "x" * 20_000}, 431, PRIVATE),
    "health": ("GET", "/healthz", {}, 200, PRIVATE),
    "metrics": ("GET", "/metrics", {}, 200, PRIVATE),
    "the description": ("GET", "/openapi.json", {}, 200, DATA | {"cache-control": "no-cache"}),
    "a script": ("GET", "/docs/start.js", {}, 200, DATA | {"cache-control": "no-cache"}),
    "a script that is known": ("GET", "/docs/start.js", {"If-None-Match": "*"}, 304, DATA),
    "a style": ("GET", "/docs/swagger-ui.css", {}, 200, DATA | {"cache-control": "no-cache"}),
    "the page": (
        "GET",
        "/docs",
        {},
        200,
        ALWAYS | {"cache-control": "no-store", "cross-origin-opener-policy": "same-origin"},
    ),
}


@pytest.mark.parametrize(("method", "path", "headers", "status", "wanted"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_has_the_headers_of_its_kind(client, car, method, path, headers, status, wanted):
    """Each of them once."""
    await client.post("/v1/products", json=car)
    answer = await client.request(method, path, headers=headers)
    assert answer.status_code == status, answer.text
    assert {name: answer.headers.get(name) for name in wanted} == wanted
    names = [name for name, _ in answer.headers.multi_items()]
    assert not [name for name in ONCE if names.count(name) > 1]
    if status != 304 and method != "HEAD":
        assert "content-type" in names


async def test_a_failure_has_them_too(client, fakes):
    """What nobody expected says nothing of its cause, and is guarded like the rest."""
    fakes.catalog.failure = RuntimeError("SELECT password FROM users")
    answer = await client.get("/v1/products/sku:volvo-v60")
    assert answer.status_code == 500
    assert "password" not in answer.text
    assert PRIVATE.items() <= dict(answer.headers).items()


async def test_preflights_have_them_too(settings, fakes):
    """Whether they are allowed or not: they are answered before anything else."""
    told = settings.model_copy(update={"cors_origins": ("https://shop.example",)})
    app = create_app(told, fakes.ports, fakes.readiness, fakes.quotas, fakes.feeds)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://gateway") as client:
        for origin, status in (("https://shop.example", 200), ("https://evil.example", 400)):
            headers = {"Origin": origin, "Access-Control-Request-Method": "GET"}
            answer = await client.options("/v1/products", headers=headers)
            assert answer.status_code == status
            assert DATA.items() <= dict(answer.headers).items()
        answer = await client.get("/healthz", headers={"Origin": "https://shop.example"})
        names = [name for name, _ in answer.headers.multi_items()]
        assert not [name for name in ONCE if names.count(name) > 1]
