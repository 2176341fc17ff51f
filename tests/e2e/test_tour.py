"""The README's tour, as its reader would take it: over each HTTP server that the gateway can run on."""

import os
import ssl
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from harness.door import Door
from harness.outside import outside_system
from harness.running import Reached, RunningSystem

pytestmark = pytest.mark.xdist_group("system")
SERVERS = ("granian", "hypercorn", "uvicorn") if outside_system() is None else ("its own",)


@pytest.fixture(scope="module", params=SERVERS)
def door(request: pytest.FixtureRequest, reached: Reached) -> Iterator[Door]:
    """An admin at the gateway on one of the servers."""
    _run_on(reached, request.param)
    try:
        with Door.to(reached) as door:
            yield door
    finally:
        _run_on(reached, "granian")


def _run_on(system: Reached, server: str) -> None:
    if isinstance(system, RunningSystem) and os.environ.get("ALMAGEST_HTTP_SERVER", "granian") != server:
        system.kill("gateway")
        os.environ["ALMAGEST_HTTP_SERVER"] = server
        system.start("gateway")


@pytest.fixture
def car() -> dict[str, Any]:
    sku = f"tour-{uuid.uuid4().hex}"
    return {
        "sku": sku,
        "kind": "car",
        "name": f"Volvo V60 {sku}",
        "text": "Estate with all-wheel drive.",
        "category": "vehicles/estate",
        "attributes": {"make": "Volvo", "model": "V60", "model_year": 2026, "body_styles": ["Estate"], "doors": 5},
        "price": {"amount": "52900.00", "currency": "EUR"},
        "publish": True,
        "reason": "New in the range",
    }


def _ok(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def test_the_tour(door: Door, car: dict[str, Any]) -> None:
    """Create, read at once, search, change the price, be refused with a stale revision, and see who did what."""
    http = door.http
    created = http.post("/v1/products", json=car)
    product = _ok(created, 201)
    token = created.headers["almagest-consistency"]
    path = created.headers["location"]

    read = http.get(path, headers={"Almagest-Consistency": token})
    document = _ok(read)
    assert document["price"] == car["price"]
    assert document["status"] == "published"
    assert read.headers["etag"] == created.headers["etag"]
    by_sku = http.get(f"/v1/products/sku:{car['sku']}", headers={"If-None-Match": read.headers["etag"]})
    assert by_sku.status_code == 304

    words = f"volvo {car['sku'][:20]}"
    found = _ok(http.get("/v1/products:search", params={"text": words}, headers={"Almagest-Consistency": token}))
    assert [item["product_id"] for item in found["items"]] == [product["product_id"]]
    listed = _ok(http.get("/v1/vehicles", params={"sku": car["sku"], "make": "VOLVO", "kind": "car"}))
    assert [item["product_id"] for item in listed["items"]] == [product["product_id"]]

    price = {"amount": "49900.00", "currency": "EUR", "reason": "Black Friday"}
    stale = read.headers["etag"]
    changed = http.put(f"{path}/price", json=price, headers={"If-Match": stale})
    assert _ok(changed)["changed"] is True
    refused = http.put(f"{path}/price", json=price | {"amount": "1.00"}, headers={"If-Match": stale})
    problem = _ok(refused, 412)
    assert refused.headers["content-type"] == "application/problem+json"
    assert problem["reason"] == "REVISION_CONFLICT"
    assert problem["metadata"]["actual_revision"] == changed.headers["etag"].strip('"')

    history = _ok(http.get(f"{path}/history"))["items"]
    me = _ok(http.get("/v1/users/me"))
    assert [change["type"] for change in history] == ["PriceSet", "ProductPublished", "PriceSet", "ProductCreated"]
    assert history[0]["actor"] == me["user_id"]
    assert history[0]["reason"] == "Black Friday"
    assert history[0]["trace_id"] == changed.headers["trace-id"]
    assert history[0]["fields"] == [{"field": "price.amount", "before": "52900.00", "after": "49900.00"}]
    assert history[-1]["trace_id"] == created.headers["trace-id"]

    assert _ok(http.post(f"{path}:unpublish", json={}))["changed"] is True
    assert _ok(http.post(f"{path}:unpublish", json={}))["changed"] is False
    ended = http.post(f"{path}:discontinue", json={"reason": "No longer made"})
    after = _ok(http.get(path, headers={"Almagest-Consistency": ended.headers["almagest-consistency"]}))
    assert after["status"] == "discontinued"
    assert _ok(http.put(f"{path}/price", json=price), 409)["reason"] == "PRODUCT_DISCONTINUED"


def test_the_same_request_twice_has_one_effect(door: Door, car: dict[str, Any]) -> None:
    """Side by side or one after the other: one product, one answer."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = door.http.post("/v1/products", json=car, headers=key)
    again = door.http.post("/v1/products", json=car, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    other = door.http.post("/v1/products", json=car | {"name": "Other"}, headers=key)
    assert other.status_code == 422
    token = {"Almagest-Consistency": first.headers["almagest-consistency"]}
    assert _ok(door.http.get(first.headers["location"], headers=token))["name"] == car["name"]


@pytest.mark.parametrize("written", ["ndjson", "csv"])
def test_a_file_is_imported(door: Door, written: str) -> None:
    """Followed by server-sent events to its end; the refused row is named; the second time nothing changes."""
    prefix = f"{written}-{uuid.uuid4().hex[:12]}"
    media_type, content = _file(written, prefix, rows=300)
    query = {"on_error": "skip", "name": f"{prefix}.{written}", "reason": "Spring range"}
    for expected in ({"rows_created": 300}, {"rows_unchanged": 300}):
        submitted = door.http.post("/v1/imports", params=query, content=content, headers={"Content-Type": media_type})
        job = _ok(submitted, 202)
        events: list[str] = []
        with door.http.stream("GET", f"{submitted.headers['location']}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            events = [line for line in stream.iter_lines() if line.startswith("data: ")]
        assert '"state":"succeeded"' in events[-1]
        done = door.await_end(job["job_id"])
        assert done["progress"] | expected | {"rows_done": 301, "rows_refused": 1} == done["progress"], done
        refused = door.get(f"{submitted.headers['location']}/refused")["items"]
        assert [row["line"] for row in refused] == [302 if written == "csv" else 301]
    tokens = ", ".join(done["consistency_tokens"])
    read = door.http.get(f"/v1/products/sku:{prefix}-7", headers={"Almagest-Consistency": tokens} if tokens else {})
    assert _ok(read)["attributes"]["brand"] == "Brand"
    change = door.get(f"/v1/products/sku:{prefix}-7/history")["items"][-1]
    assert change["reason"] == "Spring range"
    assert change["import_line"] == (9 if written == "csv" else 8)
    assert any(item["job_id"] == job["job_id"] for item in door.items("/v1/jobs"))


def _file(written: str, prefix: str, *, rows: int) -> tuple[str, bytes]:
    if written == "csv":
        lines = [f"{prefix}-{row},general,Name {row},,things,Brand,9.99,EUR" for row in range(rows)]
        head = "sku,kind,name,text,category,brand,price_amount,price_currency"
        return "text/csv", "\r\n".join([head, *lines, f"{prefix}-bad,general,,,things,Brand,9.99,EUR", ""]).encode()
    lines = [
        f'{{"sku":"{prefix}-{row}","kind":"general","name":"Name {row}","text":"","category":"things",'
        f'"attributes":{{"brand":"Brand"}},"price":{{"amount":"9.99","currency":"EUR"}}}}'
        for row in range(rows)
    ]
    return "application/x-ndjson", "\n".join([*lines, "no JSON", ""]).encode()


def test_people_may_do_what_their_role_says(door: Door, car: dict[str, Any]) -> None:
    """A viewer reads, and changes nothing; a session that has ended gives no new tokens."""
    viewer = {
        "email": f"{uuid.uuid4().hex}@example.com",
        "password": "correct horse battery staple",
        "first_name": "Vera",
        "last_name": "Viewer",
        "roles": ["viewer"],
    }
    created = door.http.post("/v1/users", json=viewer)
    assert _ok(created, 201)["full_name"] == "Vera Viewer"
    credentials = {name: viewer[name] for name in ("email", "password")}
    session = _ok(door.http.post("/v1/sessions", json=credentials), 201)
    hers = {"Authorization": f"Bearer {session['access_token']}"}
    assert _ok(door.http.get("/v1/users/me", headers=hers)) == created.json()
    assert _ok(door.http.get("/v1/products?page_size=1", headers=hers))["items"] is not None
    for refused in (
        door.http.post("/v1/products", json=car, headers=hers),
        door.http.post("/v1/imports", content=b"x", headers=hers | {"Content-Type": "text/csv"}),
        door.http.post("/v1/users", json=viewer | {"email": "x@example.com"}, headers=hers),
    ):
        assert _ok(refused, 403)["reason"]
    assert door.http.get(f"/v1/products/sku:{car['sku']}").status_code == 404
    token = {"refresh_token": session["refresh_token"]}
    assert door.http.post("/v1/sessions:end", json=token).status_code == 204
    assert door.http.post("/v1/sessions:refresh", json=token).status_code == 401


def test_readiness_metrics_and_lag_can_be_seen(door: Door, reached: Reached) -> None:
    """Without logging in, but for the lag."""
    with httpx.Client(base_url=door.http.base_url, verify=ssl.create_default_context(cafile=str(reached.ca))) as anyone:
        assert _ok(anyone.get("/readyz"))["ready"] is True
        assert "almagest_http_requests_total" in anyone.get("/metrics").text
        assert anyone.get("/docs").status_code == 200
        assert anyone.get("/v1/projections").status_code == 401
    assert all(projector["running"] for projector in door.get("/v1/projections")["items"])
