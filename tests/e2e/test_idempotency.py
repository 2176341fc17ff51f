"""A repeated request has one effect, whatever Redis remembers, and while it is away."""

import ssl
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from harness.door import Door
from harness.running import Reached, RunningSystem
from redis import Redis

pytestmark = pytest.mark.xdist_group("system")


@pytest.fixture
def product() -> dict[str, Any]:
    return {"sku": f"once-{uuid.uuid4().hex}", "kind": "general", "name": "Once"}


def test_after_redis_was_flushed_the_log_still_knows(
    door: Door, system: RunningSystem, product: dict[str, Any]
) -> None:
    """The original answer to the same request, a refusal to another."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = door.http.post("/v1/products", json=product, headers=key)
    assert first.status_code == 201, first.text
    with Redis.from_url(system.redis_url) as redis:
        redis.flushall()
    again = door.http.post("/v1/products", json=product, headers=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    with Redis.from_url(system.redis_url) as redis:
        redis.flushall()
    other = door.http.post("/v1/products", json=product | {"name": "Other"}, headers=key)
    assert other.status_code == 422, other.text
    history = door.get(f"{first.headers['location']}/history")["items"]
    assert [change["type"] for change in history] == ["ProductCreated"]


def test_while_redis_is_away_writes_and_their_repeats_work(
    door: Door, system: RunningSystem, product: dict[str, Any]
) -> None:
    """Slower by nothing that anyone waits for."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    system.kill("valkey")
    try:
        first = door.http.post("/v1/products", json=product, headers=key)
        again = door.http.post("/v1/products", json=product, headers=key)
    finally:
        system.start("valkey")
    assert (first.status_code, again.status_code) == (201, 201), (first.text, again.text)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"


def test_many_at_once_are_one(door: Door, reached: Reached, product: dict[str, Any]) -> None:
    """Those that do not get the answer are told that it is being worked on."""
    headers = {"Idempotency-Key": uuid.uuid4().hex, "Authorization": door.http.headers["authorization"]}
    tls = ssl.create_default_context(cafile=str(reached.ca))
    # HTTP/1.1: a connection of its own for each that is in flight.
    with (
        httpx.Client(base_url=reached.url, verify=tls, headers=headers, timeout=30) as many,
        ThreadPoolExecutor(16) as pool,
    ):
        answers = list(pool.map(lambda _: many.post("/v1/products", json=product), range(32)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    created = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in created}) == 1
    history = door.get(f"{created[0].headers['location']}/history")["items"]
    assert len(history) == 1
