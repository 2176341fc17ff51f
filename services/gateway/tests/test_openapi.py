import re

import pytest
from fastapi import APIRouter, FastAPI, Security
from fastapi.routing import APIRoute
from gateway.entrypoints import openapi
from gateway.entrypoints.dependencies import bearer
from gateway.entrypoints.signed import SignedRoute
from gateway.problems import Problem

NOT_FOR_PEOPLE = {"getProduct"}
WAYS = [{"bearer": []}, {"dpop": [], "dpopProof": []}, {"signature": [], "signatureInput": []}]
WITHOUT_TOKEN = {"logIn", "refreshSession", "logOut"}


@pytest.fixture
async def document(client):
    answer = await client.get("/openapi.json", headers={"Authorization": ""})
    assert answer.status_code == 200
    return answer.json()


def operations(document):
    return [(method, path, operation) for path, item in document["paths"].items() for method, operation in item.items()]


async def test_every_operation_is_described_completely(document):
    """An id of its own, a tag that is explained, a summary, and every problem in the one form."""
    assert document["openapi"].startswith("3.1")
    seen = set()
    tags = {tag["name"] for tag in document["tags"]}
    for method, path, operation in operations(document):
        name = f"{method} {path}"
        assert operation["operationId"] not in seen, name
        seen.add(operation["operationId"])
        assert operation["summary"], name
        assert set(operation["tags"]) <= tags, name
        assert {"400", "431", "500"} <= operation["responses"].keys(), name
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and not (path == "/readyz" and status == "503"):
                assert answer["content"]["application/problem+json"]["schema"] == {
                    "$ref": "#/components/schemas/Problem"
                }, name
            assert "Trace-Id" in answer["headers"], name
        if path.startswith("/v1") and operation["operationId"] not in WITHOUT_TOKEN and "payload-keys" not in path:
            assert operation["security"] == WAYS, name
            assert {"401", "403", "503", "504"} <= operation["responses"].keys(), name
        else:
            assert "security" not in operation, name
        if method in ("post", "put") and "requestBody" in operation:
            assert {"408", "413", "415", "422"} <= operation["responses"].keys(), name
    assert len(seen) >= 30
    schemes = document["components"]["securitySchemes"]
    assert {name for way in WAYS for name in way} == schemes.keys()
    assert schemes["bearer"]["scheme"] == "bearer"
    assert (schemes["dpopProof"]["name"], schemes["signature"]["name"]) == ("DPoP", "Signature")


def test_a_route_that_takes_no_signatures_does_not_say_so():
    """The ways are those of the route, not of a list; the page that only knows tokens is told of these alone."""
    application, routes = FastAPI(), []
    for route_class in (SignedRoute, APIRoute):
        router = APIRouter(route_class=route_class)

        @router.get(f"/{route_class.__name__}", operation_id=route_class.__name__, dependencies=[Security(bearer)])
        def answer() -> Problem: ...

        application.include_router(router)
        routes += router.routes
    made = openapi.document(application, routes)
    assert [found["security"] for _, _, found in operations(made)] == [WAYS, WAYS[:2]]
    page = openapi.for_swagger_ui(made)
    assert [found["security"] for _, _, found in operations(page)] == [WAYS[:1]] * 2
    assert page["components"]["securitySchemes"].keys() == {"bearer"}
    assert made["components"]["securitySchemes"].keys() > {"bearer"}


async def test_every_reference_leads_somewhere(document):
    """No schema is missing, and none that nobody uses is left of FastAPI's own."""
    schemas = document["components"]["schemas"]
    references = set(re.findall(r"#/components/schemas/([A-Za-z0-9_.-]+)", str(document)))
    assert references <= schemas.keys()
    assert not {"HTTPValidationError", "ValidationError"} & schemas.keys()


async def test_writes_take_keys_and_writes_of_a_product_take_its_revision(document):
    """As headers, documented."""
    for method, path, operation in operations(document):
        headers = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "header"}
        is_write = (
            method in ("post", "put", "patch", "delete")
            and operation["operationId"] not in WITHOUT_TOKEN
            and "batchGet" not in path
        )
        assert ("Idempotency-Key" in headers) == is_write, path
        assert ("If-Match" in headers) == (is_write and "{product_id}" in path), path


def _filled(path):
    """A path with something in the place of its parameters."""
    for name, value in {
        "{product_id}": "sku:volvo-v60-2026",
        "{name}": "products",
        "{user_id}": "0199f5a0-7c1e-7d31-9a5b-0d2c3e4f5a6d",
        "{key_id}": "0199f5a0-7c1e-7d31-9a5b-0d2c3e4f5a6c",
        "{generation}": "2",
        "{parked_id}": "0199f5a0-7c1e-7d31-9a5b-0d2c3e4f5a6b",
    }.items():
        path = path.replace(name, value)
    return path


async def test_examples_are_taken_by_the_operations_that_show_them(client, document):
    """What people copy from the documentation works."""
    shown = 0
    for method, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        for example in content.get("examples", {}).values():
            shown += 1
            answer = await client.request(method, _filled(path), json=example["value"])
            assert answer.status_code < 500, path
            assert answer.status_code not in (400, 422), answer.text
    assert shown >= 6


async def test_the_docs_page_needs_nothing_from_elsewhere(client):
    """All assets are local, nothing inline, and the policy says so; its nonce is another in each answer."""
    page = await client.get("/docs", headers={"Authorization": ""})
    nonces = [re.findall(r'nonce="([^"]+)"', answer.text) for answer in (page, await client.get("/docs"))]
    assert all(len(set(found)) == 1 and len(found) == 3 for found in nonces), nonces
    assert nonces[0] != nonces[1]
    assert len(nonces[0][0]) >= 22
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert f"script-src 'nonce-{nonces[0][0]}'; style-src 'nonce-{nonces[0][0]}';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) == 4
    assert not re.search(r"<script>|<script [^>]*>[^<]| on[a-z]+=", page.text)
    for source in sources:
        asset = await client.get(source)
        assert asset.status_code == 200
        assert asset.headers["x-content-type-options"] == "nosniff"
        again = await client.get(source, headers={"If-None-Match": asset.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    start = (await client.get("/docs/start.js")).text
    assert '"/docs/openapi-3.0.json"' in start
    older = (await client.get("/docs/openapi-3.0.json")).json()
    assert older["openapi"] == "3.0.3"
    assert "'null'" not in str(older["components"]["schemas"])


async def test_health_readiness_and_metrics_ask_for_nobody(client, fakes):
    """And readiness tells which service is missing, without inner words."""
    nobody = {"Authorization": ""}
    assert (await client.get("/healthz", headers=nobody)).json() == {"status": "ok"}

    async def missing() -> None:
        raise OSError("10.0.0.1 refused")

    ready = await client.get("/readyz", headers=nobody)
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "probes": {}})
    fakes.readiness.probes["auth"] = missing
    ready = await client.get("/readyz", headers=nobody)
    assert (ready.status_code, ready.json()) == (503, {"ready": False, "probes": {"auth": "failed"}})
    await client.get("/v1/products/sku:none")
    metrics = (await client.get("/metrics", headers=nobody)).text
    assert 'almagest_http_requests_total{method="GET",route="/v1/products/{product_id}",status="404"}' in metrics
    assert 'route="/readyz",status="503"' in metrics
    assert "sku:none" not in metrics
