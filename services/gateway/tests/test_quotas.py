"""Quotas: decided here, added up in Redis, told in headers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from ipaddress import ip_network

import httpx
import pytest
from chassis.redis import connect
from gateway.adapters.redis import RedisQuotas
from gateway.app import create_app
from gateway.application.quotas import Quota, Quotas, QuotasAway
from gateway.middleware.quotas import Limits, address_of
from hypothesis import given
from hypothesis import strategies as st

FIVE = Quota("person", 5, 10.0)


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_all_of_a_quota_may_be_used_at_once_and_comes_back_one_by_one():
    """Five in ten seconds: five at once, then one every two seconds; what is left and when is told."""
    clock = Clock()
    quotas = Quotas(clock=clock)
    standings = [quotas.take(FIVE, "ada") for _ in range(5)]
    assert [standing.allowed for standing in standings] == [True] * 5
    assert [standing.remaining for standing in standings] == [4, 3, 2, 1, 0]
    assert standings[-1].full_after == pytest.approx(10.0)
    refused = quotas.take(FIVE, "ada")
    assert not refused.allowed
    assert refused.retry_after == pytest.approx(2.0)
    assert quotas.take(FIVE, "grace").allowed
    clock.now += 1.9
    assert not quotas.take(FIVE, "ada").allowed
    clock.now += 0.11
    assert quotas.take(FIVE, "ada").allowed
    assert not quotas.take(FIVE, "ada").allowed
    clock.now += 100
    assert [quotas.take(FIVE, "ada").allowed for _ in range(6)] == [True] * 5 + [False]


@given(st.lists(st.floats(0, 8, allow_nan=False), min_size=1, max_size=80))
def test_no_window_holds_more_than_the_quota_and_one_refill(pauses: list[float]):
    """Whatever the rhythm: of what is allowed within the quota's seconds, at most the quota at once and its refill."""
    clock = Clock()
    quotas = Quotas(clock=clock)
    allowed: list[float] = []
    for pause in pauses:
        clock.now += pause
        if quotas.take(FIVE, "ada").allowed:
            allowed.append(clock.now)
        else:
            assert len([at for at in allowed if at > clock.now - FIVE.seconds]) >= FIVE.requests - 1
    for first in allowed:
        assert len([at for at in allowed if first <= at < first + FIVE.interval]) <= FIVE.requests + 1
        assert len([at for at in allowed if first <= at < first + FIVE.seconds]) <= 2 * FIVE.requests


def test_who_is_silent_for_longest_is_forgotten_first():
    """So an address that changes all the time fills no memory."""
    quotas = Quotas(capacity=3)
    for who in ("a", "b", "c"):
        for _ in range(5):
            quotas.take(FIVE, who)
    quotas.take(FIVE, "a")
    quotas.take(FIVE, "d")
    assert not quotas.take(FIVE, "a").allowed
    assert quotas.take(FIVE, "b").allowed


@pytest.fixture
async def shared(valkey) -> AsyncIterator[RedisQuotas]:
    redis = connect(valkey.url)
    await redis.flushdb()
    yield RedisQuotas(redis)
    await redis.aclose()


async def test_replicas_add_up_what_they_let_through(shared):
    """Three here and two there are five; the time that comes back is the same for both."""
    here, there = Quotas(shared), Quotas(shared)
    for _ in range(3):
        assert here.take(FIVE, "ada").allowed
    await here.share_once(shared)
    assert there.take(FIVE, "ada").remaining == 4
    await there.share_once(shared)
    assert there.take(FIVE, "ada").remaining == 0
    await there.share_once(shared)
    assert not there.take(FIVE, "ada").allowed
    # This one hears of it when it next has something to tell.
    assert here.take(FIVE, "ada").remaining == 1
    await here.share_once(shared)
    assert not here.take(FIVE, "ada").allowed
    assert here.take(FIVE, "grace").allowed


async def test_what_is_used_while_redis_is_away_is_told_when_it_is_back(shared):
    """And meanwhile the quota holds in each replica."""

    class Away:
        async def add(self, debts: Mapping[str, float]) -> Mapping[str, float]:
            del debts
            raise QuotasAway

    here, there = Quotas(shared), Quotas(shared)
    for _ in range(5):
        assert here.take(FIVE, "ada").allowed
    assert not here.take(FIVE, "ada").allowed
    with pytest.raises(QuotasAway):
        await here.share_once(Away())
    await here.share_once(shared)
    there.take(FIVE, "ada")
    await there.share_once(shared)
    assert not there.take(FIVE, "ada").allowed


async def test_a_redis_that_is_gone_is_said_to_be_away(tmp_path):
    """And not by an error of its own, which would end the sharing."""
    redis = connect(f"unix://{tmp_path}/nobody.sock", timeout=0.1)
    with pytest.raises(QuotasAway):
        await RedisQuotas(redis).add({"x": 1.0})
    await redis.aclose()


async def test_sharing_goes_on_after_nobody_could_be_told():
    """A loop that ended would let the replicas drift apart for ever."""

    class Flaky:
        def __init__(self) -> None:
            self.refusals = 2
            self.told: asyncio.Future[Mapping[str, float]] = asyncio.get_running_loop().create_future()

        async def add(self, debts: Mapping[str, float]) -> Mapping[str, float]:
            if self.refusals:
                self.refusals -= 1
                raise QuotasAway
            self.told.set_result(debts)
            return debts

    shared = Flaky()
    quotas = Quotas(shared, share_seconds=0.001, away_seconds=0.001)
    quotas.take(FIVE, "ada")
    sharing = asyncio.create_task(quotas.share())
    async with asyncio.timeout(30):
        assert await shared.told == {"person:ada": pytest.approx(FIVE.interval)}
    sharing.cancel()


async def test_who_asks_too_often_is_told_to_wait_and_others_are_not(settings, fakes):
    """429 with Retry-After, and what is left on every answer; health has no quota."""
    meagre = settings.model_copy(update={"person_requests_per_minute": 3, "address_requests_per_minute": 7})
    app = create_app(meagre, fakes.ports, fakes.readiness, Quotas(), fakes.feeds)
    headers = {"Authorization": f"Bearer {fakes.access_token()}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://gateway") as client:
        answers = [await client.get("/v1/products/sku:none", headers=headers) for _ in range(2)]
        answers += [await client.get("/v1/products", headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [404, 404, 200, 429]
        assert answers[0].headers["ratelimit-policy"] == '"address";q=7;w=60, "person";q=3;w=60'
        assert answers[0].headers["ratelimit"].startswith('"address";r=6;t=9, "person";r=2;t=20')
        refused = answers[-1]
        assert refused.json()["reason"] == "RATE_LIMITED"
        assert refused.json()["metadata"] == {"quota": "person"}
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        for _ in range(3):
            assert (await client.get("/v1/products")).status_code == 401
        by_address = await client.get("/v1/products")
        assert by_address.status_code == 429
        assert by_address.json()["metadata"] == {"quota": "address"}
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", (), "192.0.2.1"),
        ("192.0.2.1", ("203.0.113.9",), "192.0.2.1"),
        ("10.0.0.7", ("203.0.113.9",), "203.0.113.9"),
        ("10.0.0.7", ("6.6.6.6", "203.0.113.9", "10.1.1.1"), "203.0.113.9"),
        ("10.0.0.7", ("nonsense",), "10.0.0.7"),
        ("10.0.0.7", (), "10.0.0.7"),
        ("2001:db8:1:2:3::4", (), "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", (), "192.0.2.1"),
        ("", (), ""),
    ],
)
def test_an_address_is_that_of_the_client_as_far_as_who_says_so_is_trusted(peer, forwarded, address):
    """Nobody gets another quota by writing a header."""
    assert address_of(peer, forwarded, Limits(None, None, (ip_network("10.0.0.0/8"),))) == address
