import asyncio
import time

import grpc
import httpx
import pytest
from chassis.errors import RemoteProblem
from chassis.revocations import Revocation, Revocations, Revoked
from gateway.application.people import InvalidAccessToken, People


async def test_a_token_is_exchanged_once_however_many_ask(fakes):
    """Concurrent requests of one person are one exchange, and later ones none."""
    fakes.auth.exchange_gate = asyncio.Event()
    people = People(fakes.auth)
    token = fakes.access_token()
    asking = [asyncio.create_task(people.person(token)) for _ in range(50)]
    await asyncio.sleep(0)
    fakes.auth.exchange_gate.set()
    persons = await asyncio.gather(*asking)
    assert len(set(persons)) == 1
    assert (await people.person(token)) is persons[0]
    assert fakes.auth.exchanges == 1
    assert persons[0].token not in repr(persons[0])


async def test_a_transaction_token_is_not_used_up_to_its_end(fakes):
    """It must still be good when the last service in the chain looks at it."""
    people = People(fakes.auth)
    token = fakes.access_token()
    fakes.auth.lifetime = 60.0
    person = await people.person(token)
    known, until = people._known[token]
    assert known is person
    assert 9 < person.expires_at - until < 11
    people._known[token] = (person, time.time() - 0.001)
    await people.person(token)
    assert fakes.auth.exchanges == 2


async def test_an_access_token_is_good_for_no_longer_than_it_says(fakes, jwt):
    """Also while what auth gave for it is good for longer."""
    people = People(fakes.auth)
    user = next(iter(fakes.auth.users))
    ending = jwt(user, exp=time.time() + 30)
    fakes.auth.access[ending] = user
    fakes.auth.lifetime = 60.0
    await people.person(ending)
    _, until = people._known[ending]
    assert until <= time.time() + 30
    people._known[ending] = (people._known[ending][0], time.time() - 0.001)
    assert people.known(ending) is None


async def test_a_person_who_was_revoked_is_exchanged_anew(fakes):
    """Those of another session or generation are not."""
    revocations = Revocations()
    people = People(fakes.auth, revocations=revocations)
    tokens = [fakes.access_token() for _ in range(2)]
    first, second = [await people.person(token) for token in tokens]
    revocations.add(Revocation(Revoked.SESSION, first.session_id))
    assert people.known(tokens[0]) is None
    assert people.known(tokens[1]) is second
    fakes.auth.generation = 2
    revocations.add(Revocation(Revoked.PERSON, second.subject, 2))
    assert people.known(tokens[1]) is None
    renewed = await people.person(tokens[1])
    assert renewed.generation == 2
    assert people.known(tokens[1]) is renewed


async def test_a_replica_of_auth_that_is_behind_is_asked_again(fakes, monkeypatch):
    """Its answer would be refused by every service; it is not remembered in any case."""
    monkeypatch.setattr("gateway.application.people._BEHIND_SECONDS", 0.01)
    revocations = Revocations()
    people = People(fakes.auth, revocations=revocations)
    token = fakes.access_token()
    subject = fakes.auth.access[token]
    revocations.add(Revocation(Revoked.PERSON, subject, 2))
    behind = await people.person(token)
    assert (behind.generation, people.known(token)) == (1, None)
    asking = asyncio.create_task(people.person(token))
    while fakes.auth.exchanges < 7:  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0)
    fakes.auth.generation = 2
    assert (await asking).generation == 2
    assert people.known(token) is not None


async def test_one_that_gives_up_does_not_take_the_others_with_it(fakes):
    """The exchange goes on for those who still wait."""
    fakes.auth.exchange_gate = asyncio.Event()
    people = People(fakes.auth)
    token = fakes.access_token()
    first, second = (asyncio.create_task(people.person(token)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    fakes.auth.exchange_gate.set()
    assert (await second).subject
    assert fakes.auth.exchanges == 1


async def test_what_cannot_be_a_token_is_refused_without_asking(fakes):
    """Garbage costs auth nothing."""
    people = People(fakes.auth)
    for garbage in ("", "x", "a.b", "a.b.c.d", "a b.c.d", "ä.b.c", "a." * 5000):
        with pytest.raises(InvalidAccessToken):
            await people.person(garbage)
    assert fakes.auth.exchanges == 0
    with pytest.raises(RemoteProblem) as refused:
        await people.person("a.b.c")
    assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED


async def test_the_memory_of_persons_is_bounded(fakes):
    """The least lately used go."""
    people = People(fakes.auth, capacity=2)
    tokens = [fakes.access_token() for _ in range(3)]
    for token in (tokens[0], tokens[1], tokens[0], tokens[2]):
        await people.person(token)
    assert list(people._known) == [tokens[0], tokens[2]]


@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        (None, 'Bearer realm="almagest"'),
        ("Basic YTpi", 'Bearer realm="almagest"'),
        ("Bearer", 'Bearer realm="almagest"'),
        ("Bearer nonsense", 'Bearer realm="almagest", error="invalid_token"'),
        ("Bearer a.b.c", 'Bearer realm="almagest", error="invalid_token"'),
    ],
)
async def test_without_a_valid_token_nothing_is_answered(fakes, authorization, challenge):
    """401 with a challenge, before anything else about the request is looked at."""
    transport = httpx.ASGITransport(fakes.app)
    headers = {} if authorization is None else {"Authorization": authorization}
    async with httpx.AsyncClient(transport=transport, base_url="https://gateway", headers=headers) as anyone:
        for method, path in (
            ("GET", "/v1/products/sku:x"),
            ("GET", "/v1/products?page_size=ten"),
            ("POST", "/v1/products"),
            ("POST", "/v1/imports"),
            ("GET", "/v1/users/me"),
            ("GET", "/v1/jobs"),
        ):
            answer = await anyone.request(method, path)
            assert answer.status_code == 401, (method, path)
            expected = 'Bearer realm="almagest"' if authorization == "Bearer" else challenge
            assert answer.headers["www-authenticate"].startswith(expected)
            assert answer.headers["content-type"] == "application/problem+json"


async def test_sessions(client, fakes):
    """Log in, go on, log out; a refresh token is good once."""
    wrong = await client.post("/v1/sessions", json={"email": "ada@example.com", "password": "wrong"})
    assert (wrong.status_code, wrong.json()["reason"]) == (401, "INVALID_CREDENTIALS")
    session = await client.post(
        "/v1/sessions", json={"email": "ada@example.com", "password": "correct horse battery staple"}
    )
    assert session.status_code == 201
    assert session.headers["cache-control"] == "no-store"
    body = session.json()
    assert body["token_type"] == "Bearer"
    assert body["user"]["full_name"] == "Ada Lovelace"
    assert body["user"]["created_at"] == "2026-11-22T16:30:00.123456Z"
    assert body["expires_at"].endswith("Z")
    me = await client.get("/v1/users/me", headers={"Authorization": f"Bearer {body['access_token']}"})
    assert me.json() == body["user"]
    assert (await client.get(f"/v1/users/{me.json()['user_id']}")).json() == me.json()
    assert (await client.get("/v1/users?email=ada@example.com")).json() == me.json()
    renewed = await client.post("/v1/sessions:refresh", json={"refresh_token": body["refresh_token"]})
    assert renewed.status_code == 200
    assert "user" not in renewed.json()
    again = await client.post("/v1/sessions:refresh", json={"refresh_token": body["refresh_token"]})
    assert again.status_code == 401
    ended = await client.post("/v1/sessions:end", json={"refresh_token": renewed.json()["refresh_token"]})
    assert (ended.status_code, ended.content) == (204, b"")
    assert not fakes.auth.sessions or renewed.json()["refresh_token"] not in fakes.auth.sessions
