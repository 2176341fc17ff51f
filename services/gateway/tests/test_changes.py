"""The change feed at the door, on a real socket with real TLS, under each of the three servers."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import httpx
import orjson
import pytest
from almagest.rpc.v1 import problem_pb2
from almagest_cli.local.ports import free_port
from chassis.errors import RemoteProblem
from chassis.revocations import Revocation, Revoked
from gateway.server import serve

SERVERS = ("granian", "hypercorn", "uvicorn")
PROTOCOLS = [("granian", True), ("granian", False), ("hypercorn", True), ("hypercorn", False), ("uvicorn", False)]


def gone(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, reason: str = "DRAINING") -> RemoteProblem:
    return RemoteProblem(problem_pb2.Problem(code=code.value[0], reason=reason, message="No."))


@asynccontextmanager
async def served(name, settings, fakes, authority):
    """A server over the fakes: its client, and the event that stops it."""
    port, stop = free_port(), asyncio.Event()
    told = settings.model_copy(update={"http_server": name, "listen": f"127.0.0.1:{port}"})
    serving = asyncio.create_task(serve(fakes.app, told, stop))
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.transport.abort()
                break
            except OSError:
                assert not serving.done(), serving
                await asyncio.sleep(0.02)
    try:
        yield Served(port, ssl.create_default_context(cafile=str(authority.directory / "ca.crt")), fakes), stop, serving
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await asyncio.gather(serving, return_exceptions=True)


class Served:
    def __init__(self, port, tls, fakes) -> None:
        self.port, self.tls = port, tls
        self.headers = {"Authorization": f"Bearer {fakes.access_token()}"}

    def client(self, *, http2: bool = False) -> httpx.AsyncClient:
        url = f"https://localhost:{self.port}"
        return httpx.AsyncClient(
            base_url=url, verify=self.tls, http2=http2, http1=not http2, headers=self.headers, timeout=10
        )


class Event:
    def __init__(self, lines: list[str]) -> None:
        fields = [line.partition(": ") for line in lines]
        self.id = next((value for name, _, value in fields if name == "id"), None)
        self.name = next((value for name, _, value in fields if name == "event"), None)
        self.data = next((orjson.loads(value) for name, _, value in fields if name == "data"), None)
        self.comment = any(line.startswith(":") for line in lines)


async def events(answer: httpx.Response) -> AsyncIterator[Event]:
    assert answer.status_code == 200, await answer.aread()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines: list[str] = []
    async for line in answer.aiter_lines():
        if line:
            lines.append(line)
        else:
            yield Event(lines)
            lines = []


async def told(stream: AsyncIterator[Event], count: int) -> list[Event]:
    """The next changes."""
    found: list[Event] = []
    async with asyncio.timeout(10):
        async for event in stream:
            if event.name == "change":
                found.append(event)
                if len(found) == count:
                    return found
    raise AssertionError(f"the stream ended after {len(found)} changes")


def skus(found: list[Event]) -> list[str]:
    return [event.data["sku"] for event in found]


async def eventually(condition) -> None:
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("server", "http2"), PROTOCOLS)
async def test_changes_come_as_they_happen_and_the_feed_is_left_with_its_client(
    server, http2, settings, fakes, authority
):
    """What was, then what comes, each with its id; when the client goes, nothing of its feed stays."""
    fakes.changes.add(3)
    async with served(server, settings, fakes, authority) as (edge, _, _):
        # The connection with it: httpx does not tell the server that it has left a stream.
        async with (
            edge.client(http2=http2) as client,
            client.stream("GET", "/v1/changes", params={"after": "start"}) as answer,
        ):
            assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            stream = events(answer)
            first = await anext(stream)
            assert (first.id, first.data) == (None, None), "the time to wait before coming again"
            assert (await anext(stream)).id == "0"
            assert skus(await told(stream, 3)) == ["sku-1", "sku-2", "sku-3"]
            fakes.changes.add(1, actor="ada")
            [change] = await told(stream, 1)
            assert change.id == "4"
            assert (change.data["cursor"], change.data["actor"], change.data["reason"]) == ("4", "ada", None)
            assert change.data["fields"] == [{"field": "price.amount", "before": None, "after": "12.00"}]
            assert change.data["recorded_at"] == "2026-11-22T16:30:00.123456Z"
            assert fakes.changes.running == 1
        await eventually(lambda: not fakes.changes.running)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_client_that_takes_nothing_is_not_fetched_for_and_is_let_go(server, settings, fakes, authority):
    """What is on the way is bounded by the buffers in between, whatever there is to tell, and given back at the end."""
    patient = settings.model_copy(update={"changes_stalled_seconds": 1.5})
    fakes = type(fakes)(patient)
    fakes.changes.add(3_000, reason="x" * 10_000)
    async with served(server, patient, fakes, authority) as (edge, _, _):
        reader, writer = await asyncio.open_connection("localhost", edge.port, ssl=edge.tls, limit=1024)
        writer.write(
            b"GET /v1/changes?after=start HTTP/1.1\r\nHost: localhost\r\n"
            b"Authorization: " + edge.headers["Authorization"].encode() + b"\r\n\r\n"
        )
        await eventually(lambda: fakes.changes.told > 0)
        await eventually(lambda: not fakes.changes.running)
        # 30 MB were there to be told, and some of it fits into the buffers of two sockets.
        assert fakes.changes.told < 1_000
        writer.transport.abort()
        del reader


async def test_the_last_event_id_goes_before_the_query(client, fakes):
    """As browsers send it when they come again, with the address that they were given first."""
    fakes.changes.add(4)
    answer = await client.get("/v1/changes?after=start&follow=false", headers={"Last-Event-ID": "2"})
    found = [event async for event in events(answer) if event.name == "change"]
    assert skus(found) == ["sku-3", "sku-4"]
    assert fakes.changes.requests[0].cursor == "2"


async def test_what_is_asked_for_is_passed_on(client, fakes):
    """Kinds by what they are made of, categories and types as they are, and the heartbeat."""
    await client.get("/v1/changes?follow=false&kind=vehicle&kind=general&category=a&category=b/c&type=PriceSet")
    [asked] = fakes.changes.requests
    assert asked.kinds == ["car", "general", "truck"]
    assert asked.categories == ["a", "b/c"]
    assert asked.types == ["PriceSet"]
    assert asked.only_recorded
    assert asked.WhichOneof("from") == "now"
    assert asked.heartbeat.ToNanoseconds() == 12 * 10**9


async def test_lines_for_those_who_prefer_them(client, fakes):
    """With the cursor in each; nothing else but empty lines."""
    fakes.changes.add(3)
    answer = await client.get("/v1/changes?after=start&follow=false", headers={"Accept": "application/x-ndjson"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    found = [orjson.loads(line) for line in answer.text.splitlines() if line]
    assert [(change["sku"], change["cursor"]) for change in found] == [("sku-1", "1"), ("sku-2", "2"), ("sku-3", "3")]


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "BAD_CURSOR", 400),
        (grpc.StatusCode.FAILED_PRECONDITION, "CURSOR_OF_ANOTHER_LOG", 409),
        (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING", 403),
        (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", 503),
    ],
)
async def test_a_feed_that_cannot_be_is_a_problem_like_any_other(client, fakes, code, reason, status):
    """Before anything is sent; and nothing is tried again for a client that can do so itself."""
    fakes.changes.faults.append((0, gone(code, reason)))
    answer = await client.get("/v1/changes?after=start")
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert len(fakes.changes.requests) == 1


async def test_parameters_are_checked_at_the_door(client, fakes):
    """Unknown ones, too."""
    for query in ("kind=boat", "after=", "follow=perhaps", "colour=red", "category="):
        assert (await client.get(f"/v1/changes?{query}")).status_code == 400, query
    assert not fakes.changes.requests


async def test_a_service_that_goes_away_is_only_a_pause(granian, fakes):
    """The feed is taken up from the last change that was fetched, again and again."""
    fakes.changes.add(9)
    fakes.changes.faults += [(2, gone()), (3, gone()), (0, gone()), (1, gone(reason="TOKEN_EXPIRED"))]
    fakes.changes.faults += [(0, gone(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED"))]
    async with granian.client() as client, client.stream("GET", "/v1/changes?after=start") as answer:
        stream = events(answer)
        assert skus(await told(stream, 9)) == [f"sku-{number}" for number in range(1, 10)]
        fakes.changes.add()
        assert skus(await told(stream, 1)) == ["sku-10"]
    assert [request.cursor for request in fakes.changes.requests] == ["", "2", "5", "5", "6", "6"]


async def test_what_cannot_go_on_is_said_and_ends_the_feed(granian, fakes):
    """For example when the log was set back under it."""
    fakes.changes.add(2)
    fakes.changes.faults.append((2, gone(grpc.StatusCode.FAILED_PRECONDITION, "CURSOR_OF_ANOTHER_LOG")))
    async with granian.client() as client, client.stream("GET", "/v1/changes?after=start") as answer:
        *_, last = [event async for event in events(answer)]
    assert (last.name, last.data) == ("end", {"reason": "CURSOR_OF_ANOTHER_LOG"})


async def test_the_person_is_proven_again_and_again(granian, fakes):
    """With a fresh token for each call, and the client notices nothing."""
    fakes.auth.lifetime = 2.0
    async with granian.client() as client, client.stream("GET", "/v1/changes") as answer:
        stream = events(answer)
        for number in range(1, 4):
            await eventually(lambda number=number: len(fakes.changes.requests) > number)
            fakes.changes.add()
            assert skus(await told(stream, 1)) == [f"sku-{number}"]
    assert len({person.token for person in fakes.changes.people}) >= 3


async def test_who_loses_their_session_loses_the_feed(granian, fakes):
    """At the next proof."""
    fakes.auth.lifetime = 2.0
    async with granian.client() as client, client.stream("GET", "/v1/changes") as answer:
        stream = events(answer)
        await anext(stream)
        fakes.auth.access.clear()
        async with asyncio.timeout(10):
            *_, last = [event async for event in stream]
    assert (last.name, last.data) == ("end", {"reason": "INVALID_TOKEN"})


async def test_a_session_that_ends_takes_its_feed_along_at_once(granian, fakes):
    """Its proof would be good for a minute. A feed of another session goes on."""
    async with granian.client() as client, client.stream("GET", "/v1/changes") as answer:
        other = {"Authorization": f"Bearer {fakes.access_token()}"}
        async with client.stream("GET", "/v1/changes", headers=other) as another:
            stream, others = events(answer), events(another)
            await anext(stream)
            await anext(others)
            ended = fakes.changes.people[0].session_id
            del fakes.auth.access[granian.headers["Authorization"].removeprefix("Bearer ")]
            fakes.revocations.add(Revocation(Revoked.SESSION, ended))
            async with asyncio.timeout(30):
                *_, last = [event async for event in stream]
            assert (last.name, last.data) == ("end", {"reason": "INVALID_TOKEN"})
            fakes.changes.add()
            await told(others, 1)
            assert len(fakes.changes.requests) == 2


async def test_a_change_of_rights_is_only_a_pause_for_who_may_still_look(granian, fakes):
    """The feed goes on with a proof of what the person may do now, whoever heard of the change first."""
    async with granian.client() as client, client.stream("GET", "/v1/changes") as answer:
        stream = events(answer)
        await anext(stream)
        fakes.auth.generation = 2
        fakes.revocations.add(Revocation(Revoked.PERSON, fakes.changes.people[0].subject, 2))
        await eventually(lambda: len(fakes.changes.people) == 2)
        fakes.changes.add()
        await told(stream, 1)
    assert [person.generation for person in fakes.changes.people] == [1, 2]


async def test_the_feed_ends_with_the_access_token(granian, fakes, jwt):
    """Though the proof of the person would be good for longer."""
    user = next(iter(fakes.auth.users))
    token = jwt(user, exp=time.time() + 1.5)
    fakes.auth.access[token] = user
    headers = {"Authorization": f"Bearer {token}"}
    async with granian.client() as client, client.stream("GET", "/v1/changes", headers=headers) as answer:
        async with asyncio.timeout(10):
            *_, last = [event async for event in events(answer)]
    assert (last.name, last.data) == ("end", {"reason": "ACCESS_TOKEN_EXPIRED"})
    assert not fakes.changes.running


async def test_auth_that_is_away_only_delays(granian, fakes):
    """A feed waits for it, and goes on."""
    fakes.auth.lifetime = 2.0
    async with granian.client() as client, client.stream("GET", "/v1/changes") as answer:
        stream = events(answer)
        await anext(stream)
        known, fakes.auth.access = fakes.auth.access, Away()
        await eventually(lambda: fakes.auth.access.asked > 1)
        fakes.auth.access = known
        fakes.changes.add()
        assert skus(await told(stream, 1)) == ["sku-1"]


class Away(dict):
    asked = 0

    def get(self, key: str, default: object = None) -> object:
        self.asked += 1
        raise gone()


async def test_one_person_has_so_many_feeds_and_no_more(granian, fakes, settings):
    """429, until one of them is closed; others are not concerned."""
    async with granian.client() as client:
        open_feeds = [client.stream("GET", "/v1/changes") for _ in range(settings.changes_feeds_per_person)]
        for feed in open_feeds:
            assert (await feed.__aenter__()).status_code == 200
        refused = await client.get("/v1/changes")
        assert (refused.status_code, refused.json()["reason"]) == (429, "TOO_MANY_FEEDS")
        assert refused.headers["retry-after"] == "5"
        other = fakes.auth._tokens(fakes.auth.add("bob@example.com", "Bob", "B").user_id).access_token
        assert (
            await client.get("/v1/changes?follow=false", headers={"Authorization": f"Bearer {other}"})
        ).status_code == 200
        await open_feeds.pop().__aexit__(None, None, None)
        await eventually(lambda: fakes.changes.running == settings.changes_feeds_per_person - 1)
        assert (await client.get("/v1/changes?follow=false")).status_code == 200
        for feed in open_feeds:
            await feed.__aexit__(None, None, None)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_door_that_closes_ends_its_feeds_first(server, settings, fakes, authority):
    """Properly, so that the client knows that it has all that was sent, and the server need not wait."""
    patient = settings.model_copy(update={"drain_seconds": 120.0})
    async with served(server, patient, fakes, authority) as (edge, stop, serving), edge.client() as client:
        async with client.stream("GET", "/v1/changes") as answer:
            stream = events(answer)
            await anext(stream)
            fakes.feeds.drain()
            stop.set()
            # Less than it takes until what does not end is cut off.
            async with asyncio.timeout(30):
                rest = [event async for event in stream]
            assert all(event.name is None for event in rest)
        # Hypercorn waits for the connection as well.
        await client.aclose()
        async with asyncio.timeout(30):
            await serving


async def test_silence_is_broken(settings, fakes, authority):
    """By a comment, when the service behind has nothing to say or is not there."""
    quick = settings.model_copy(update={"changes_heartbeat_seconds": 0.2})
    fakes = type(fakes)(quick)
    async with served("granian", quick, fakes, authority) as (edge, _, _), edge.client() as client:
        async with client.stream("GET", "/v1/changes") as answer:
            async with asyncio.timeout(30):
                assert [event.comment async for event in _first(events(answer), 4)] == [False, False, True, True]


async def _first(stream: AsyncIterator[Event], count: int) -> AsyncIterator[Event]:
    for _ in range(count):
        yield await anext(stream)


@pytest.fixture
async def granian(settings, fakes, authority):
    async with served("granian", settings, fakes, authority) as (edge, _, _):
        yield edge
