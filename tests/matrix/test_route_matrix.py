"""Every operation of the HTTP API, asked for by every kind of person, at the real gateway.

The universe is the OpenAPI document that the gateway serves; what is declared stands in `route_rows.py`.
"""

import asyncio
import base64
import hashlib
import hmac
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from almagest.auth.v1 import auth_pb2, auth_pb2_grpc
from almagest_cli.local.ports import free_port
from gateway.app import _ROUTES
from harness.door import Door
from harness.running import RunningSystem
from harness.tokens import TransactionTokens
from joserfc import jws
from joserfc.jwk import OKPKey

from .callers import VALID, Callers
from .route_rows import KNOWN, NOTHING, ROWS, SPENT, UNKNOWN, Row, operation_of, undecided

pytestmark = pytest.mark.xdist_group("system")

PASSWORD = "correct horse battery staple"
METHODS = ("get", "put", "post", "patch", "delete")


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class World:
    """People, what they hold, and what belongs to the editor."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.tokens: dict[str, str] = {"anonymous": ""}
        self.emails: dict[str, str] = {}
        self.things: dict[str, str] = {
            "password": PASSWORD,
            "projection": "products",
            "no_projection": "nothing",
            "no_generation": "999",
            "nobody": "00000000-0000-7000-8000-000000000000",
        }

    def ask(self, person: str, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Ask as a person; nobody else's token goes along."""
        token = self.tokens[person]
        headers = {"Authorization": f"Bearer {token}" if token else ""} | arguments.pop("headers", {})
        return self.door.http.request(method, path, headers=headers, **arguments)

    def made(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.is_success, answer.text
        return answer.json() if answer.content else {}

    def create_person(self, person: str, role: str) -> None:
        self.emails[person] = f"{uuid.uuid4().hex}@example.org"
        body = {
            "email": self.emails[person],
            "password": PASSWORD,
            "first_name": "A",
            "last_name": "B",
            "roles": [role],
        }
        user = self.door.call("POST", "/v1/users", json=body)
        self.things[f"{person}_user"] = self.made(user)["user_id"]
        self.tokens[person] = self.log_in(person)["access_token"]

    def log_in(self, person: str) -> dict[str, Any]:
        credentials = {"email": self.emails[person], "password": PASSWORD}
        return self.made(self.door.call("POST", "/v1/sessions", json=credentials))

    def create_product(self) -> str:
        car = {
            "sku": f"matrix-{uuid.uuid4().hex}",
            "kind": "car",
            "name": "Volvo V60",
            "attributes": {"make": "Volvo", "model": "V60", "model_year": 2026},
            "price": {"amount": "10.00", "currency": "EUR"},
        }
        made = self.ask("editor", "POST", "/v1/products", json=car)
        product: str = self.made(made)["product_id"]
        token = {"Almagest-Consistency": made.headers["almagest-consistency"]}
        self.made(self.ask("editor", "GET", f"/v1/products/{product}", headers=token))
        return product

    def create_key(self) -> str:
        body = {"name": uuid.uuid4().hex, "kind": "ed25519"}
        return self.made(self.ask("editor", "POST", "/v1/keys", json=body))["key_id"]

    def create_session(self) -> str:
        payload = self.log_in("editor")["access_token"].split(".")[1]
        return orjson.loads(base64.urlsafe_b64decode(payload + "=="))["sid"]

    def create_job(self) -> str:
        headers = {"Content-Type": "application/x-ndjson"}
        job = self.ask("editor", "POST", "/v1/imports", content=b'{"sku":"x"}\n', headers=headers)
        return self.made(job)["job_id"]

    def spend(self, person: str) -> tuple[str, str]:
        """Who asks in the place of a person, and for whom, where whoever is asked for is not the same afterwards."""
        somebody = f"{person} {uuid.uuid4().hex}"
        self.create_person(somebody, "editor")
        return somebody if person == "editor" else person, self.things[f"{somebody}_user"]

    def fresh(self, name: str) -> str:
        """What each request needs a new one of."""
        if name == "fresh_refresh_token":
            return self.log_in("editor")["refresh_token"]
        made: dict[str, Callable[[], str]] = {
            "fresh": lambda: uuid.uuid4().hex,
            "fresh_time": lambda: f"{datetime.now(UTC) + timedelta(days=300):%Y-%m-%dT%H:%M:%S.%fZ}",
            "fresh_product": self.create_product,
            "fresh_key": self.create_key,
            "fresh_session": self.create_session,
            "fresh_job": self.create_job,
        }
        return made[name]()

    def __getitem__(self, name: str) -> str:
        return self.fresh(name) if name.startswith("fresh") else self.things[name]

    def furnish(self) -> None:
        """Make what belongs to the editor."""
        self.things |= {"user": self.things["editor_user"], "email": self.emails["editor"]}
        self.things["product"] = self.create_product()
        self.things["since"] = self.door.get(f"/v1/products/{self.things['product']}")["created_at"]
        plan = {"effective_at": self["fresh_time"], "price": {"amount": "9.00", "currency": "EUR"}}
        schedules = f"/v1/products/{self.things['product']}/schedules"
        self.things["schedule"] = self.made(self.ask("editor", "POST", schedules, json=plan))["schedule_id"]
        self.things["key"] = self.create_key()
        self.things["session"] = self.create_session()
        self.things["job"] = self.create_job()
        _, self.things["forgotten"] = self.spend("admin")
        self.made(self.door.call("POST", f"/v1/users/{self.things['forgotten']}:forget"))


def _forged(token: str) -> dict[str, str]:
    """What an attacker makes of an access token."""
    head, payload, signature = token.split(".")
    claims = orjson.loads(base64.urlsafe_b64decode(payload + "=="))
    header = orjson.loads(base64.urlsafe_b64decode(head + "=="))
    symmetric = f"{_b64(orjson.dumps(header | {'alg': 'HS256'}))}.{payload}"
    # The published key as the secret: the oldest trick.
    mac = hmac.new(header["kid"].encode(), symmetric.encode(), hashlib.sha256).digest()
    stranger = OKPKey.generate_key("Ed25519", {"alg": "Ed25519", "use": "sig", "kid": header["kid"]})
    raised = _b64(orjson.dumps(claims | {"sub": str(uuid.uuid4())}))
    return {
        "no algorithm": f"{_b64(orjson.dumps(header | {'alg': 'none'}))}.{payload}.",
        "another algorithm": f"{symmetric}.{_b64(mac)}",
        "another key": jws.serialize_compact(header, orjson.dumps(claims), stranger, algorithms=["Ed25519"]),
        "changed": f"{head}.{raised}.{signature}",
    }


async def _expired(system: RunningSystem, callers: Callers, email: str, log: Path) -> str:
    """An access token that auth really signed, a short while too long ago: by another replica, told to be brief."""
    process = system.local.daemons()["auth"].process()
    assert process is not None
    port = free_port()
    told = process.environ() | {
        "ALMAGEST_LISTEN": f"127.0.0.1:{port}",
        "ALMAGEST_HTTP_LISTEN": f"127.0.0.1:{free_port()}",
        "ALMAGEST_ACCESS_TOKEN_SECONDS": "10",
    }
    with log.open("wb") as output:
        command = (sys.executable, "-m", "auth", "serve")
        replica = await asyncio.create_subprocess_exec(*command, env=told, stdout=output, stderr=output)
    try:
        stub = auth_pb2_grpc.AuthServiceStub(callers.at(port, "gateway", VALID, "auth"))
        asked = auth_pb2.LogInRequest(email=email, password=PASSWORD)
        answer = await stub.LogIn(asked, timeout=60, wait_for_ready=True)
        return answer.tokens.access_token
    finally:
        replica.terminate()
        await asyncio.wait_for(replica.wait(), 30)


@pytest.fixture(scope="module")
async def world(
    system: RunningSystem, door: Door, tmp_path_factory: pytest.TempPathFactory, transaction_tokens: TransactionTokens
) -> AsyncIterator[World]:
    del transaction_tokens
    directory = tmp_path_factory.mktemp("routes")
    made = World(door)
    callers = Callers(system, directory)
    await asyncio.to_thread(made.create_person, "editor", "editor")
    # First, as it takes a while.
    expiring = asyncio.create_task(_expired(system, callers, made.emails["editor"], directory / "auth.log"))
    for person, role in (("viewer", "viewer"), ("admin", "admin"), ("other", "editor")):
        await asyncio.to_thread(made.create_person, person, role)
    await asyncio.to_thread(made.furnish)
    made.tokens["expired"] = await expiring
    made.tokens |= _forged(made.tokens["editor"])
    stub = auth_pb2_grpc.AuthServiceStub(callers.channel("gateway", VALID, "auth"))
    exchange = auth_pb2.ExchangeTokenRequest(access_token=made.tokens["editor"])
    made.tokens["wrong audience"] = (await stub.ExchangeToken(exchange, timeout=20)).transaction_token
    stolen = await asyncio.to_thread(made.log_in, "editor")
    made.tokens["refresh token"] = stolen["refresh_token"]
    made.tokens["replayed"] = stolen["access_token"]
    assert made.ask("replayed", "GET", "/v1/users/me").status_code == 200
    made.made(door.http.post("/v1/sessions:end", json={"refresh_token": stolen["refresh_token"]}))
    for person, seconds in (("replayed", 5.0), ("expired", 30.0)):
        until = time.monotonic() + seconds
        while made.ask(person, "GET", "/v1/users/me").status_code != 401:
            assert time.monotonic() < until, f"the token of {person} is good for too long"
            await asyncio.sleep(0.1)
    yield made
    await callers.close()


@pytest.fixture(scope="module")
def operations(door: Door) -> Mapping[str, tuple[str, str]]:
    """Method and path of each operation of the served document."""
    document = door.http.get("/openapi.json").json()
    return {
        operation["operationId"]: (method.upper(), path)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def test_every_operation_has_a_row(operations: Mapping[str, tuple[str, str]]) -> None:
    """An operation that nobody has decided about fails the build; so does a route that the document hides."""
    assert not undecided(operations, [route.path for route in _ROUTES])
    for name, row in ROWS.items():
        assert row.persons <= {*KNOWN, "public"}, name
        assert not row.persons & row.hidden, name
        assert row.seen_by <= row.persons, name
        assert bool(row.lists) == bool(row.seen_by), name


def test_an_operation_without_a_row_is_noticed(operations: Mapping[str, tuple[str, str]]) -> None:
    """The test above can fail: for an operation, for a route that the document hides, and for a row of nothing."""
    routes = [route.path for route in _ROUTES]
    assert undecided({**operations, "planted": ("GET", "/v1/planted")}, routes) == ["planted"]
    assert undecided(operations, [*routes, "/v1/hidden"]) == ["/v1/hidden"]
    assert undecided({name: each for name, each in operations.items() if name != "getJob"}, routes) == [
        "/v1/jobs/{job_id}",
        "getJob",
    ]


def _wrong(row: Row, world: World, person: str, answer: httpx.Response) -> str:
    """What is not as declared."""
    said = f"{answer.status_code} {answer.text[:300]}"
    if row.public or person in row.persons:
        if row.reason:
            as_declared = answer.is_client_error and answer.json()["reason"] == row.reason
            return "" if as_declared else f"{row.reason} was declared, got {said}"
        if not answer.is_success:
            return f"success was declared, got {said}"
        if row.lists and (world[row.lists] in answer.text) != (person in row.seen_by):
            return f"{'seen' if person in row.seen_by else 'not seen'} was declared of the {row.lists}, got {said}"
        return ""
    wanted = 401 if person in UNKNOWN else 404 if person in row.hidden else 403
    if answer.status_code == 401 and not answer.headers["www-authenticate"].startswith("Bearer "):
        return "no challenge"
    return "" if answer.status_code == wanted else f"{wanted} was declared, got {said}"


def _path(row: Row, world: World, template: str, person: str) -> tuple[str, str]:
    """Who asks, and for what."""
    for parameter, thing in row.path.items():
        # What can be used up is made anew for those who may use it up.
        if thing == SPENT and person in row.persons:
            person, value = world.spend(person)
        elif person in row.persons:
            value = world[thing]
        else:
            value = world["user" if thing == SPENT else thing.removeprefix("fresh_")]
        template = template.replace(f"{{{parameter}}}", value)
    assert "{" not in template, template
    return person, template


def _arguments(row: Row, world: World) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "params": {name: value.format_map(world.things) for name, value in row.query.items()},
        "headers": dict(row.headers),
    }
    if row.body is not None:
        arguments["json"] = row.body(world)  # type: ignore[arg-type]
    elif row.headers:
        arguments["content"] = b'{"sku":"x"}\n'
    return arguments


@pytest.mark.parametrize("name", ROWS)
async def test_an_operation_is_for_whom_its_row_names_and_nobody_else(
    name: str, operations: Mapping[str, tuple[str, str]], world: World
) -> None:
    """Thirteen kinds of person, each with the outcome that is declared."""
    row, (method, template) = ROWS[name], operations[operation_of(name)]

    def ask(person: str) -> str:
        asker, path = _path(row, world, template, person)
        return _wrong(row, world, person, world.ask(asker, method, path, **_arguments(row, world)))

    problems = {person: await asyncio.to_thread(ask, person) for person in (*UNKNOWN, *KNOWN)}
    assert not {person: problem for person, problem in problems.items() if problem}


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.path and not row.public])
async def test_who_is_not_let_in_cannot_tell_what_is_there(
    name: str, operations: Mapping[str, tuple[str, str]], world: World
) -> None:
    """Somebody else's object is answered as one that nobody has, word for word."""
    row, (method, template) = ROWS[name], operations[operation_of(name)]

    def ask(person: str, path: str) -> tuple[int, str]:
        answer = world.ask(person, method, path, **_arguments(row, world))
        told = {key: value for key, value in answer.json().items() if key not in {"instance", "trace_id"}}
        text = orjson.dumps(told).decode()
        for part in path.replace(":", "/").split("/"):
            text = text.replace(part, "?") if len(part) == len(world["nobody"]) else text
        return answer.status_code, text

    for person in set(KNOWN) - row.persons:
        _, path = _path(row, world, template, person)
        nothing = template
        for parameter, thing in row.path.items():
            nothing = nothing.replace(f"{{{parameter}}}", world[NOTHING.get(thing, "nobody")])
        assert await asyncio.to_thread(ask, person, path) == await asyncio.to_thread(ask, person, nothing), person


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/openapi-3.0.json", "/docs/start.js"])
def test_what_the_document_leaves_out_is_public(path: str, world: World) -> None:
    """And tells nothing but how the API is used."""
    assert world.ask("anonymous", "GET", path).status_code == 200


def test_forgeries_are_forgeries(world: World) -> None:
    """Each of the tokens that prove nothing differs from the one that does, which still proves something."""
    unknown = {person: world.tokens[person] for person in UNKNOWN}
    assert len(set(unknown.values())) == len(UNKNOWN)
    assert world.tokens["editor"] not in unknown.values()
    assert world.ask("editor", "GET", "/v1/users/me").status_code == 200
