"""Bad input at the door of the whole system: a clear problem each time, and nothing changed."""

import asyncio
import base64
import socket
import ssl
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import orjson
import pytest
from almagest_cli.local.postgres import EmbeddedPostgres
from harness.door import Door
from harness.running import Reached, RunningSystem
from joserfc import jws
from joserfc.jwk import OctKey, OKPKey

pytestmark = pytest.mark.xdist_group("system")
PRODUCT = {"sku": "never", "kind": "general", "name": "Never", "price": {"amount": "1.00", "currency": "EUR"}}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def nothing_changes(door: Door, reached: Reached) -> Iterator[None]:
    """The log has no event more after each test than before, but of the audit, and no job was begun."""
    before = _state(door, reached)
    yield
    assert _state(door, reached) == before


def _state(door: Door, reached: Reached) -> tuple[list[int], int, list[str]]:
    heads: list[int] = []
    if isinstance(reached, RunningSystem):
        server = EmbeddedPostgres(reached.local.places.state / "postgres")
        heads = [asyncio.run(_head(server.superuser_dsn(f"events_{shard}"))) for shard in range(reached.local.shards)]
    product = door.http.get(f"/v1/products/sku:{PRODUCT['sku']}").status_code
    return heads, product, [job["job_id"] for job in door.get("/v1/jobs?page_size=5")["items"]]


async def _head(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval("SELECT coalesce(max(position), 0) FROM events WHERE category <> 'audit'")
    finally:
        await connection.close()


def _refused(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert response.status_code in statuses, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["trace_id"] == response.headers["trace-id"]
    assert problem["reason"]
    return problem


BODIES: dict[str, tuple[bytes, int]] = {
    "an unknown field": (orjson.dumps(PRODUCT | {"colour": "red"}), 422),
    "a wrong type": (orjson.dumps(PRODUCT | {"name": 5}), 422),
    "money as a number": (orjson.dumps(PRODUCT | {"price": {"amount": 1.5, "currency": "EUR"}}), 422),
    "too many decimals": (orjson.dumps(PRODUCT | {"price": {"amount": "1.005", "currency": "EUR"}}), 422),
    "an unknown currency": (orjson.dumps(PRODUCT | {"price": {"amount": "1.00", "currency": "ZZZ"}}), 422),
    "a wrong check digit": (orjson.dumps(PRODUCT | {"attributes": {"gtin": "4006381333930"}}), 422),
    "a control character": (orjson.dumps(PRODUCT | {"name": "a\u0007b"}), 422),
    "publish without a price": (orjson.dumps(PRODUCT | {"price": None, "publish": True}), 409),
    "a huge number": (b'{"sku":"never","kind":"general","name":"N","attributes":{"gtin":' + b"9" * 500 + b"}}", 400),
    "a huge exponent": (b'{"sku":1e99999}', 400),
    "NaN": (b'{"sku":NaN}', 400),
    "no UTF-8": (b'{"sku":"\xff"}', 400),
    "cut off": (orjson.dumps(PRODUCT)[:-10], 400),
    "too deep": (b'{"sku":' + b"[" * 100 + b"]" * 100 + b"}", 400),
    "a key twice": (b'{"sku":"a","sku":"b","kind":"general","name":"N"}', 400),
    "too large": (orjson.dumps(PRODUCT | {"text": "x" * 1_100_000}), 413),
}


@pytest.mark.parametrize(("body", "status"), BODIES.values(), ids=BODIES.keys())
def test_bad_bodies_are_refused(door: Door, body: bytes, status: int) -> None:
    """By the gateway what is badly formed, by the domain what means nothing."""
    _refused(door.http.post("/v1/products", content=body, headers=JSON), status)


def _forged(token: str) -> dict[str, str]:
    head, payload, signature = token.split(".")
    claims = orjson.loads(base64.urlsafe_b64decode(payload + "=="))
    header = orjson.loads(base64.urlsafe_b64decode(head + "=="))
    stranger = OKPKey.generate_key("Ed25519")

    def encoded(value: object) -> str:
        return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()

    def signed(header: dict[str, Any], key: Any) -> str:
        return jws.serialize_compact(header, orjson.dumps(claims), key, algorithms=[header["alg"]])

    flipped = ("A" if signature[5] != "A" else "B").join((signature[:5], signature[6:]))
    return {
        "signed by a stranger": signed(header, stranger),
        "signed by a stranger who calls himself otherwise": signed(header | {"kid": "x"}, stranger),
        "signed with a shared secret": signed(header | {"alg": "HS256"}, OctKey.generate_key(256)),
        "not signed": f"{encoded(header | {'alg': 'none'})}.{payload}.",
        "another signature": f"{head}.{payload}.{flipped}",
        "other claims": f"{head}.{encoded(claims | {'roles': ['admin'], 'sub': str(uuid.uuid4())})}.{signature}",
        "expired, says the bearer": f"{head}.{encoded(claims | {'exp': 1})}.{signature}",
        "half of it": token[: len(token) // 2],
        "nothing": "",
    }


def test_forged_tokens_open_nothing(door: Door) -> None:
    """Whatever is forged about it: 401, for reads and writes."""
    token = door.http.headers["authorization"].removeprefix("Bearer ")
    for name, forged in _forged(token).items():
        headers = {"Authorization": f"Bearer {forged}"}
        for response in (
            door.http.post("/v1/products", json=PRODUCT, headers=headers),
            door.http.get("/v1/products?page_size=1", headers=headers),
            door.http.get("/v1/products/sku:never", headers=headers),
        ):
            assert response.status_code == 401, (name, response.text)
            assert response.headers["www-authenticate"].startswith("Bearer")


def test_bad_tokens_cursors_and_filters_are_named(door: Door) -> None:
    """400 with the field; a cursor of another question is none."""
    for query, field in (
        ("cursor=AAAA", "cursor"),
        ("price_from=1", "currency"),
        ("sort=price", "currency"),
        ("currency=EUR&price_from=9&price_to=1", "price_to"),
        ("model_year_from=2026&model_year_to=2020", "model_year_to"),
        ("category=/x/", "category"),
        ("nonsense=1", "nonsense"),
    ):
        problem = _refused(door.http.get(f"/v1/products?{query}"), 400)
        assert field in [error["field"] for error in problem["errors"]] or problem["reason"] == "BAD_PAGE_TOKEN", (
            problem
        )
    for path in ("/v1/products/sku:never", "/v1/products", "/v1/products:search?text=x"):
        _refused(door.http.get(path, headers={"Almagest-Consistency": "AAAA"}), 400)
    _refused(door.http.get("/v1/products:search?text=..."), 400)


def test_what_is_not_there_is_not_found(door: Door) -> None:
    """Products, users, jobs, and their children."""
    missing = uuid.uuid4()
    for path in (
        f"/v1/products/{missing}",
        f"/v1/products/{missing}/history",
        f"/v1/vehicles/{missing}",
        f"/v1/users/{missing}",
        "/v1/users?email=nobody@example.com",
        f"/v1/jobs/{missing}",
        f"/v1/jobs/{missing}/refused",
        f"/v1/jobs/{missing}/events",
    ):
        _refused(door.http.get(path), 404)
    price = {"amount": "1.00", "currency": "EUR"}
    _refused(door.http.put(f"/v1/products/{missing}/price", json=price), 404)
    _refused(door.http.put(f"/v1/products/{missing}/price", json=price, headers={"If-Match": '"3"'}), 412)
    _refused(door.http.post(f"/v1/jobs/{missing}:cancel"), 404)


def test_bad_uploads_leave_no_job(door: Door) -> None:
    """Packed and not whole, packed in an unknown way, of no known format, empty."""
    for content, headers, statuses in (
        (b"x", {"Content-Type": "text/csv", "Content-Encoding": "gzip"}, (400,)),
        (b"x", {"Content-Type": "text/csv", "Content-Encoding": "br"}, (415,)),
        (b"x", {"Content-Type": "image/png"}, (415,)),
        (b"", {"Content-Type": "text/csv"}, (400, 422)),
    ):
        _refused(door.http.post("/v1/imports", content=content, headers=headers), *statuses)


def test_an_upload_that_is_cut_off_leaves_no_job(door: Door, reached: Reached) -> None:
    """The client goes away after a third: the call to the worker is aborted, and the worker keeps nothing."""
    address = urlsplit(reached.url)
    authorization = door.http.headers["authorization"]
    context = ssl.create_default_context(cafile=str(reached.ca))
    with (
        socket.create_connection((address.hostname, address.port)) as plain,
        context.wrap_socket(plain, server_hostname=address.hostname) as connection,
    ):
        connection.sendall(
            b"POST /v1/imports HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 3000000\r\n"
            b"Authorization: " + authorization.encode() + b"\r\n\r\n" + b"x" * 1_000_000
        )


def test_plaintext_to_the_tls_port_gets_nothing(reached: Reached) -> None:
    """Not even an answer in plaintext that says anything."""
    address = urlsplit(reached.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        try:
            while chunk := plain.recv(4096):
                received += chunk
        except OSError:
            pass
    assert b"HTTP/1.1 200" not in received
