"""Every RPC, called by every workload in every state of its certificate, over real TLS, at the real services.

The universe is what the protos describe; what is declared stands in `rpc_rows.py`. What is refused by policy never
reaches a use case; what is admitted may still be refused by one, as the requests here are empty.
"""

import asyncio
import base64
import importlib
import pkgutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import almagest
import grpc
import orjson
import pytest
from almagest.auth.v1 import auth_pb2, auth_pb2_grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from harness.door import Door
from harness.running import RunningSystem
from harness.tokens import TransactionTokens

from .callers import CONDITIONS, VALID, Answer, Callers, Outcome, call
from .rpc_rows import EVERYBODY, NOT_SERVED, ROWS, SERVERS, UNIMPLEMENTED, WORKLOADS

pytestmark = pytest.mark.xdist_group("system")

_PASSWORD = "correct horse battery staple"
_ENDLESS_SECONDS = 3.0
_AT_ONCE = 16


def _described() -> dict[str, MethodDescriptor]:
    """Every RPC of the protos."""
    for module in pkgutil.walk_packages(almagest.__path__, "almagest."):
        if module.name.endswith("_pb2"):
            importlib.import_module(module.name)
    pool = descriptor_pool.Default()
    found: dict[str, MethodDescriptor] = {}
    for module in pkgutil.walk_packages(almagest.__path__, "almagest."):
        if module.name.endswith("_pb2"):
            file = FileDescriptorProto()
            importlib.import_module(module.name).DESCRIPTOR.CopyToProto(file)
            for service in file.service:
                described = pool.FindServiceByName(f"{file.package}.{service.name}")
                found |= {f"/{described.full_name}/{method.name}": method for method in described.methods}
    return found


METHODS = _described()
SERVED = [(path, server) for path, row in sorted(ROWS.items()) for server in sorted(row.servers)]


def test_every_rpc_has_a_row() -> None:
    """An RPC that nobody has decided about fails the build, and so does a decision about one that is gone."""
    assert set(ROWS) | NOT_SERVED == set(METHODS)
    assert not set(ROWS) & NOT_SERVED
    for path, row in ROWS.items():
        assert row.servers, path
        assert row.servers <= set(SERVERS), path
        assert row.callers, path
        assert row.callers <= set(WORKLOADS) - {"nobody"}, path


@pytest.fixture(scope="module")
async def callers(system: RunningSystem, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callers]:
    made = Callers(system, tmp_path_factory.mktemp("callers"))
    made.revoke()
    until = time.monotonic() + 15
    for server in SERVERS:
        path = "/grpc.health.v1.Health/Check"
        while (await call(made.channel("gateway", "revoked", server), path, None)).outcome is Outcome.ADMITTED:
            assert time.monotonic() < until, f"{server} never reads its deny list"
            await asyncio.sleep(0.1)
    yield made
    await made.close()


class Tokens:
    """Transaction tokens of people, fresh enough for the next call."""

    def __init__(self, stub: auth_pb2_grpc.AuthServiceStub, people: dict[str, str]) -> None:
        self._stub = stub
        self._people = people
        self._known: dict[str, tuple[float, str]] = {}
        self.access: dict[str, str] = {}

    async def of(self, role: str) -> str:
        born, token = self._known.get(role, (0.0, ""))
        if time.monotonic() - born > 20:
            if role not in self.access:
                log_in = auth_pb2.LogInRequest(email=self._people[role], password=_PASSWORD)
                self.access[role] = (await self._stub.LogIn(log_in, timeout=20)).tokens.access_token
            asked = auth_pb2.ExchangeTokenRequest(access_token=self.access[role])
            token = (await self._stub.ExchangeToken(asked, timeout=20)).transaction_token
            self._known[role] = (time.monotonic(), token)
        return token


@pytest.fixture(scope="module")
async def tokens(door: Door, callers: Callers) -> Tokens:
    people: dict[str, str] = {}
    for role in ("viewer", "admin"):
        people[role] = f"{uuid.uuid4().hex}@example.org"
        body = {"email": people[role], "password": _PASSWORD, "first_name": "A", "last_name": "B", "roles": [role]}
        answer = await asyncio.to_thread(door.call, "POST", "/v1/users", json=body)
        assert answer.status_code == 201, answer.text
    return Tokens(auth_pb2_grpc.AuthServiceStub(callers.channel("gateway", VALID, "auth")), people)


def _cells(path: str) -> Iterator[tuple[str, str, Outcome]]:
    row = ROWS[path]
    for workload in WORKLOADS:
        allowed = Outcome.ADMITTED if workload in row.callers else Outcome.PERMISSION_DENIED
        for condition, outcome in CONDITIONS.items():
            yield workload, condition, outcome or allowed


@pytest.mark.parametrize(("path", "server"), SERVED)
async def test_an_rpc_admits_whom_its_row_names_and_nobody_else(
    path: str, server: str, callers: Callers, tokens: Tokens
) -> None:
    """Ten states of eight certificates, each with the outcome that is declared."""
    row, method = ROWS[path], METHODS[path]
    token = await tokens.of("admin") if row.person else ""
    places = asyncio.Semaphore(_AT_ONCE)

    async def cell(workload: str, condition: str, wanted: Outcome) -> str:
        endless = method.server_streaming and wanted is Outcome.ADMITTED
        async with places:
            channel = callers.channel(workload, condition, server)
            got = await call(channel, path, method, token=token, seconds=_ENDLESS_SECONDS if endless else 20.0)
        if got.outcome is wanted and (wanted is not Outcome.PERMISSION_DENIED or got.reason == "CALLER_NOT_ALLOWED"):
            return ""
        return f"{workload}, {condition}: {wanted.value} was declared, got {got}"

    wrong = await asyncio.gather(*(cell(*each) for each in _cells(path)))
    assert not [problem for problem in wrong if problem]


@pytest.mark.parametrize(("path", "server"), [each for each in SERVED if ROWS[each[0]].person])
async def test_an_rpc_of_a_person_asks_for_proof_of_them(
    path: str, server: str, callers: Callers, tokens: Tokens, transaction_tokens: TransactionTokens
) -> None:
    """Without a token, with one that is no transaction token, changed, of another key or of no algorithm, nobody is
    known; with a viewer's, what viewers may do is admitted.
    """
    row, method = ROWS[path], METHODS[path]
    viewer = await tokens.of("viewer")
    head, payload, signature = viewer.split(".")
    nothing = base64.urlsafe_b64encode(orjson.dumps({"alg": "none", "typ": "txntoken+jwt"})).rstrip(b"=").decode()
    claims = orjson.loads(base64.urlsafe_b64decode(payload + "=="))
    raised = base64.urlsafe_b64encode(orjson.dumps(claims | {"roles": ["admin"]})).rstrip(b"=").decode()
    forged = {
        "none": "",
        "an access token": tokens.access["viewer"],
        "no algorithm": f"{nothing}.{payload}.",
        "no signature": f"{head}.{payload}.",
        "changed": f"{head}.{raised}.{signature}",
        "another key": transaction_tokens(),
    }
    for workload in sorted(row.callers):
        channel = callers.channel(workload, VALID, server)
        for name, token in forged.items():
            got = await call(channel, path, method, token=token)
            assert got.outcome is Outcome.UNAUTHENTICATED, f"{workload} with {name}: {got}"
        got = await call(channel, path, method, token=viewer, seconds=_ENDLESS_SECONDS)
        if row.scopes <= {"catalog:read", "jobs:read"}:
            assert got.reason != "SCOPE_MISSING", got
            assert got.outcome is not Outcome.UNAUTHENTICATED, got
        else:
            assert (got.outcome, got.reason) == (Outcome.PERMISSION_DENIED, "SCOPE_MISSING")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("path", EVERYBODY)
async def test_what_every_server_serves_is_for_whom_it_is_declared(path: str, server: str, callers: Callers) -> None:
    """Health is for every workload that proves itself; what a server consists of is for operators."""
    for workload in WORKLOADS:
        for condition, outcome in CONDITIONS.items():
            wanted = outcome or (Outcome.ADMITTED if workload in EVERYBODY[path] else Outcome.PERMISSION_DENIED)
            if wanted is Outcome.ADMITTED and path in UNIMPLEMENTED:
                wanted = Outcome.NOT_SERVED
            got = await _chassis_call(callers, workload, condition, server, path)
            assert got.outcome is wanted, f"{workload}, {condition}: {got}"


async def _chassis_call(callers: Callers, workload: str, condition: str, server: str, path: str) -> Answer:
    service, _, name = path.lstrip("/").partition("/")
    file = (health_pb2 if "Health" in service else reflection_pb2).DESCRIPTOR
    method = file.services_by_name[service.rpartition(".")[2]].methods_by_name[name]
    return await call(callers.channel(workload, condition, server), path, method)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_server_serves_its_rows_and_nothing_else(server: str, callers: Callers) -> None:
    """Asked by reflection what it consists of; a method that there is none of is served to nobody."""
    stub = reflection_pb2_grpc.ServerReflectionStub(callers.channel("operator", VALID, server))
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = stub.ServerReflectionInfo(iter([asked]), timeout=20)
    answer = await answers.read()
    answers.cancel()
    served = {service.name for service in answer.list_services_response.service}
    rows = {path.split("/")[1] for path, row in ROWS.items() if server in row.servers}
    assert served == rows | {path.split("/")[1] for path in EVERYBODY}
    for service in sorted(rows):
        got = await call(callers.channel("gateway", VALID, server), f"/{service}/Nothing", None)
        assert got.code is grpc.StatusCode.UNIMPLEMENTED
