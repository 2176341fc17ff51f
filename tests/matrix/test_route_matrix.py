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
from collections.abc import AsyncIterator, Mapping
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
from .route_rows import KNOWN, LATER, ROWS, UNDESCRIBED, UNKNOWN, Row

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

    def fresh(self, name: str) -> str:
        """What each request needs a new one of."""
        if name == "fresh_refresh_token":
            return self.log_in("editor")["refresh_token"]
        made = {
            "fresh": lambda: uuid.uuid4().hex,
            "fresh_product": self.create_product,
            "fresh_key": self.create_key,
            "fresh_session": self.create_session,
        }
        return made[name]()

    def __getitem__(self, name: str) -> str:
        return self.fresh(name) if name.startswith("fresh") else self.things[name]

    def furnish(self) -> None:
        """Make what belongs to the editor."""
        self.things |= {"user": self.things["editor_user"], "email": self.emails["editor"]}
        self.things["product"] = self.create_product()
        plan = {"effective_at": LATER, "price": {"amount": "9.00", "currency": "EUR"}}
        schedules = f"/v1/products/{self.things['product']}/schedules"
        self.things["schedule"] = self.made(self.ask("editor", "POST", schedules, json=plan))["schedule_id"]
        self.things["key"] = self.create_key()
        self.things["session"] = self.create_session()
        headers = {"Content-Type": "application/x-ndjson"}
        job = self.ask("editor", "POST", "/v1/imports", content=b'{"sku":"x"}\n', headers=headers)
        self.things["job"] = self.made(job)["job_id"]


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
    for person, role in (("viewer", "viewer"), ("editor", "editor"), ("admin", "admin"), ("other", "editor")):
        await asyncio.to_thread(made.create_person, person, role)
    await asyncio.to_thread(made.furnish)
    callers = Callers(system, directory)
    made.tokens["expired"] = await _expired(system, callers, made.emails["editor"], directory / "auth.log")
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
    assert set(operations) == set(ROWS)
    described = {path for _, path in operations.values()}
    assert {route.path for route in _ROUTES} - described == UNDESCRIBED
    for name, row in ROWS.items():
        assert row.persons <= {*KNOWN, "public"}, name
        assert not row.persons & row.hidden, name


def _wanted(row: Row, person: str) -> set[int] | None:
    """The statuses that are declared; None: any but 401 and 403."""
    if row.public or person in row.persons:
        return None
    if person in UNKNOWN:
        return {401}
    return {404} if person in row.hidden else {403}


def _request(row: Row, world: World, path: str, person: str) -> tuple[str, dict[str, Any]]:
    for parameter, thing in row.path.items():
        # What can be used up is made anew for those who may use it up.
        name = thing if person in row.persons else thing.removeprefix("fresh_")
        path = path.replace(f"{{{parameter}}}", world[name])
    arguments: dict[str, Any] = {
        "params": {name: value.format_map(world.things) for name, value in row.query.items()},
        "headers": dict(row.headers),
    }
    if row.body is not None:
        arguments["json"] = row.body(world)  # type: ignore[arg-type]
    elif row.headers:
        arguments["content"] = b'{"sku":"x"}\n'
    return path, arguments


@pytest.mark.parametrize("operation", ROWS)
async def test_an_operation_is_for_whom_its_row_names_and_nobody_else(
    operation: str, operations: Mapping[str, tuple[str, str]], world: World
) -> None:
    """Thirteen kinds of person, each with the outcome that is declared."""
    row, (method, template) = ROWS[operation], operations[operation]
    wrong: list[str] = []
    for person in (*UNKNOWN, *KNOWN):
        path, arguments = _request(row, world, template, person)
        assert "{" not in path, path
        answer = await asyncio.to_thread(world.ask, person, method, path, **arguments)
        wanted = _wanted(row, person)
        good = answer.status_code not in {401, 403} and answer.status_code < 500
        if not (good if wanted is None else answer.status_code in wanted):
            wrong.append(f"{person}: {wanted or 'allowed'} was declared, got {answer.status_code} {answer.text[:200]}")
        if answer.status_code == httpx.codes.UNAUTHORIZED and not row.public:
            assert answer.headers["www-authenticate"].startswith("Bearer "), person
    assert not wrong


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
