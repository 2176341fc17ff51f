import asyncio
import uuid

import httpx
import pytest
from chassis.errors import Unavailable
from chassis.redis import connect
from gateway.adapters.redis import RedisKeyMemory
from gateway.application.ports import Claim, Remembered


async def test_the_same_key_with_the_same_request_gets_the_original_answer(client, fakes, car):
    """Also when nobody but the log remembers the key."""
    first = await client.post("/v1/products", json=car, headers={"Idempotency-Key": "k"})
    assert "idempotency-replayed" not in first.headers
    for forgotten in (False, True):
        if forgotten:
            fakes.keys.known.clear()
        again = await client.post("/v1/products", json=car, headers={"Idempotency-Key": "k"})
        assert again.status_code == 201
        assert again.headers["idempotency-replayed"] == "true"
        assert again.content == first.content
        assert again.headers["etag"] == first.headers["etag"]
    assert fakes.catalog.position == 1


async def test_the_same_key_with_another_request_is_refused(client, fakes, car):
    """By the memory, and, when that has forgotten or is away, by the log; nothing is changed."""
    await client.post("/v1/products", json=car, headers={"Idempotency-Key": "k"})
    for away in (False, True):
        fakes.keys.away = away
        other = await client.post("/v1/products", json={**car, "sku": "other"}, headers={"Idempotency-Key": "k"})
        assert other.status_code == 422
        assert other.json()["reason"] in {"IDEMPOTENCY_KEY_REUSED", "COMMAND_ID_REUSED"}
        price = {"amount": "1.00", "currency": "EUR"}
        elsewhere = await client.put("/v1/products/sku:volvo-v60/price", json=price, headers={"Idempotency-Key": "k"})
        assert elsewhere.status_code == 422
    assert fakes.catalog.position == 1


async def test_a_request_that_changed_nothing_is_answered_as_before_after_anothers_change(client, fakes, car):
    """The log has nothing to keep of it; the memory of keys has its answer, for as long as it remembers."""
    await client.post("/v1/products", json=car)
    price = {"amount": "1.00", "currency": "EUR"}
    path = "/v1/products/sku:volvo-v60/price"
    await client.put(path, json=price)
    asked = {"json": price, "headers": {"Idempotency-Key": "k"}}
    first = await client.put(path, **asked)
    assert first.json()["changed"] is False
    await client.put(path, json={"amount": "2.00", "currency": "EUR"})
    again = await client.put(path, **asked)
    assert again.content == first.content
    assert (again.headers["idempotency-replayed"], again.headers["etag"]) == ("true", first.headers["etag"])
    other = await client.put(path, json={"amount": "3.00", "currency": "EUR"}, headers=asked["headers"])
    assert other.status_code == 422
    product = (await client.get("/v1/products/sku:volvo-v60")).json()
    assert product["price"]["amount"] == "2.00"


async def test_a_repeat_while_the_first_still_runs_is_told_so(client, fakes, car):
    """409 with Retry-After; the first goes on."""
    fakes.catalog.gate = asyncio.Event()
    first = asyncio.create_task(client.post("/v1/products", json=car, headers={"Idempotency-Key": "k"}))
    await fakes.catalog.began.wait()
    again = await client.post("/v1/products", json=car, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["reason"]) == (409, "REQUEST_IN_PROGRESS")
    assert again.headers["retry-after"] == "1"
    fakes.catalog.gate.set()
    assert (await first).status_code == 201


async def test_a_request_that_failed_may_be_tried_again_with_its_key(client, fakes, car):
    """A failure is not an answer to keep."""
    fakes.catalog.failure = Unavailable()
    headers = {"Idempotency-Key": "k"}
    assert (await client.post("/v1/products", json=car, headers=headers)).status_code == 503
    fakes.catalog.failure = None
    again = await client.post("/v1/products", json=car, headers=headers)
    assert again.status_code == 201
    assert "idempotency-replayed" not in again.headers


async def test_keys_belong_to_their_person(fakes, car):
    """The same key of two people names two commands."""
    users = [next(iter(fakes.auth.users.values())), fakes.auth.add("eve@example.com", "Eve", "Adams", 2)]
    transport = httpx.ASGITransport(fakes.app)
    async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as anyone:
        for user in users:
            token = fakes.auth._tokens(user.user_id).access_token
            headers = {"Idempotency-Key": "k", "Authorization": f"Bearer {token}"}
            answer = await anyone.post("/v1/products", json=car, headers=headers)
            assert answer.is_success
            assert "idempotency-replayed" not in answer.headers
    assert len({item.command_id for item in fakes.catalog.items}) == 2


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "\u00e4"])
async def test_a_key_that_is_none_is_refused(client, fakes, car, key):
    """1 to 200 visible ASCII characters."""
    answer = await client.post("/v1/products", json=car, headers={"Idempotency-Key": key.encode()})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "Idempotency-Key")
    assert not fakes.catalog.items


async def test_a_person_is_created_once(client, fakes):
    """Users take keys, too."""
    new = {
        "email": "bob@example.com",
        "password": "correct horse battery staple",
        "first_name": "Bob",
        "last_name": "Builder",
        "roles": ["viewer"],
    }
    first = await client.post("/v1/users", json=new, headers={"Idempotency-Key": "k"})
    again = await client.post("/v1/users", json=new, headers={"Idempotency-Key": "k"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert first.json()["full_name"] == "Bob Builder"
    assert first.headers["location"] == f"/v1/users/{first.json()['user_id']}"
    assert (await client.post("/v1/users", json=new)).status_code == 409
    assert len(fakes.auth.users) == 2


@pytest.fixture(params=["fake", "redis"])
async def memory(request, fakes, valkey):
    if request.param == "fake":
        yield fakes.keys
        return
    redis = connect(valkey.url, timeout=1)
    yield RedisKeyMemory(redis)
    await redis.aclose()


async def test_a_memory_of_keys_keeps_its_contract(memory):
    """New, running, done, used otherwise, forgotten: the same for the fake and for Redis."""
    key = uuid.uuid4().hex
    new, running, other = Remembered(Claim.NEW), Remembered(Claim.RUNNING), Remembered(Claim.OTHER)
    assert await memory.claim(key, b"a" * 32, seconds=5) == new
    assert await memory.claim(key, b"a" * 32, seconds=5) == running
    assert await memory.claim(key, b"b" * 32, seconds=5) == other
    await memory.done(key, b"a" * 32)
    assert await memory.claim(key, b"a" * 32, seconds=5) == Remembered(Claim.DONE)
    assert await memory.claim(key, b"b" * 32, seconds=5) == other
    await memory.done(key, b"a" * 32, b"the answer")
    assert await memory.claim(key, b"a" * 32, seconds=5) == Remembered(Claim.DONE, b"the answer")
    assert await memory.claim(key, b"b" * 32, seconds=5) == other
    await memory.forget(key)
    assert await memory.claim(key, b"b" * 32, seconds=5) == new


async def test_without_redis_every_key_is_new_and_nothing_fails(tmp_path):
    """The log decides; and a Redis that is away is not asked for every request."""
    asked = 0

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.close()

    async with await asyncio.start_unix_server(hang_up, tmp_path / "redis.sock"):
        redis = connect(f"unix://{tmp_path}/redis.sock", timeout=0.2)
        memory = RedisKeyMemory(redis)
        for _ in range(200):
            assert await memory.claim("k", b"a" * 32, seconds=5) == Remembered(Claim.NEW)
            await memory.done("k", b"a" * 32)
            await memory.forget("k")
        await redis.aclose()
    assert 0 < asked < 100
