"""Every RPC, called by every workload in every state of its certificate, over real TLS, at the real services.

The universe is what the protos describe; what is declared stands in `rpc_rows.py`. What is refused by policy never
reaches a use case; what is admitted may still be refused by one, as the requests here are empty.

`make matrix` asks for every cell. Elsewhere (`make test`) every workload calls every RPC with a valid certificate, and
in each other state one that would be let in, another for each: there the state alone is what keeps it out.
"""

import asyncio
import base64
import importlib
import os
import pkgutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

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
from .rpc_rows import EVERYBODY, NOT_SERVED, ROWS, SERVERS, UNIMPLEMENTED, WORKLOADS, undecided

pytestmark = pytest.mark.xdist_group("system")

_PASSWORD = "correct horse battery staple"
_SCOPES = {"viewer": ("catalog:read", "jobs:read"), "admin": ("catalog:read", "catalog:write", "jobs:read")}
"""What the worker asks for when it acts for somebody."""
_ENDLESS_SECONDS = 1.0
_AT_ONCE = 16
_WHOLE = os.environ.get("ALMAGEST_MATRIX") == "whole"


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
    assert not undecided(METHODS)
    assert not set(ROWS) & NOT_SERVED
    for path, row in ROWS.items():
        assert row.servers, path
        assert row.servers <= set(SERVERS), path
        assert row.callers, path
        assert row.callers <= set(WORKLOADS) - {"nobody"}, path


def test_an_rpc_without_a_row_is_noticed() -> None:
    """The test above can fail: for a method that is new, and for one that is gone."""
    planted, gone = "/almagest.auth.v1.AuthService/Planted", "/almagest.auth.v1.AuthService/LogIn"
    assert undecided({*METHODS, planted}) == [planted]
    assert undecided(set(METHODS) - {gone}) == [gone]


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

    def __init__(self, callers: Callers, people: dict[str, str]) -> None:
        self._gateway, self._worker = (
            auth_pb2_grpc.AuthServiceStub(callers.channel(workload, VALID, "auth"))
            for workload in ("gateway", "worker")
        )
        self._people = people
        self._ids: dict[str, str] = {}
        self._known: dict[tuple[str, str], tuple[float, str]] = {}
        self.access: dict[str, str] = {}

    async def of(self, role: str, workload: str = "gateway") -> str:
        """One that this workload may show; of those who get none from auth, one of the gateway."""
        workload = "worker" if workload == "worker" else "gateway"
        born, token = self._known.get((role, workload), (0.0, ""))
        if time.monotonic() - born > 20:
            token = await (self._delegated(role) if workload == "worker" else self._exchanged(role))
            self._known[(role, workload)] = (time.monotonic(), token)
        return token

    async def _exchanged(self, role: str) -> str:
        await self._log_in(role)
        asked = auth_pb2.ExchangeTokenRequest(access_token=self.access[role])
        return (await self._gateway.ExchangeToken(asked, timeout=20)).transaction_token

    async def _delegated(self, role: str) -> str:
        await self._log_in(role)
        asked = auth_pb2.DelegateTokenRequest(user_id=self._ids[role], job_id=str(uuid.uuid4()), scopes=_SCOPES[role])
        return (await self._worker.DelegateToken(asked, timeout=20)).transaction_token

    async def _log_in(self, role: str) -> None:
        if role not in self.access:
            answer = await self._gateway.LogIn(
                auth_pb2.LogInRequest(email=self._people[role], password=_PASSWORD), timeout=20
            )
            self._ids[role], self.access[role] = answer.user.user_id, answer.tokens.access_token


@pytest.fixture(scope="module")
async def tokens(door: Door, callers: Callers) -> Tokens:
    people: dict[str, str] = {}
    for role in ("viewer", "admin"):
        people[role] = f"{uuid.uuid4().hex}@example.org"
        body = {"email": people[role], "password": _PASSWORD, "first_name": "A", "last_name": "B", "roles": [role]}
        answer = await asyncio.to_thread(door.call, "POST", "/v1/users", json=body)
        assert answer.status_code == 201, answer.text
    return Tokens(callers, people)


def _cells(path: str, callers: frozenset[str]) -> Iterator[tuple[str, str, Outcome]]:
    """Who calls in which state, and what is declared of that."""
    number = sorted(ROWS).index(path) if path in ROWS else 0
    for place, (condition, outcome) in enumerate(CONDITIONS.items()):
        some = sorted(callers)[(number + place) % len(callers)]
        for workload in WORKLOADS:
            if _WHOLE or condition == VALID or workload == some:
                allowed = Outcome.ADMITTED if workload in callers else Outcome.PERMISSION_DENIED
                yield workload, condition, outcome or allowed


@pytest.mark.parametrize(("path", "server"), SERVED)
async def test_an_rpc_admits_whom_its_row_names_and_nobody_else(
    path: str, server: str, callers: Callers, tokens: Tokens
) -> None:
    """Eight workloads, and ten states of their certificates, each with the outcome that is declared."""
    row, method = ROWS[path], METHODS[path]
    held = {each: await tokens.of("admin", each) if row.person else "" for each in WORKLOADS}
    places = asyncio.Semaphore(_AT_ONCE)

    async def cell(workload: str, condition: str, wanted: Outcome) -> str:
        endless = method.server_streaming and wanted is Outcome.ADMITTED
        async with places:
            channel = callers.channel(workload, condition, server)
            seconds = _ENDLESS_SECONDS if endless else 20.0
            got = await call(channel, path, method, token=held[workload], seconds=seconds)
        if got.outcome is wanted and (wanted is not Outcome.PERMISSION_DENIED or got.reason == "CALLER_NOT_ALLOWED"):
            return ""
        return f"{workload}, {condition}: {wanted.value} was declared, got {got}"

    wrong = await asyncio.gather(*(cell(*each) for each in _cells(path, row.callers)))
    assert not [problem for problem in wrong if problem]


@pytest.mark.parametrize(("path", "server"), [each for each in SERVED if ROWS[each[0]].person])
async def test_an_rpc_of_a_person_asks_for_proof_of_them(
    path: str, server: str, callers: Callers, tokens: Tokens, transaction_tokens: TransactionTokens
) -> None:
    """Without a token, with one that is no transaction token, changed, of another key, of no algorithm, or stolen from
    another workload, nobody is known; with a viewer's, what viewers may do is admitted.
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
        stolen = await tokens.of("admin", "gateway" if workload == "worker" else "worker")
        got = await call(channel, path, method, token=stolen)
        assert (got.outcome, got.reason) == (Outcome.UNAUTHENTICATED, "TOKEN_OF_ANOTHER"), f"{workload}: {got}"
        own = await tokens.of("viewer", workload)
        got = await call(channel, path, method, token=own, seconds=_ENDLESS_SECONDS)
        if row.scopes <= {"catalog:read", "jobs:read"}:
            assert got.reason != "SCOPE_MISSING", got
            assert got.outcome is not Outcome.UNAUTHENTICATED, got
        else:
            assert (got.outcome, got.reason) == (Outcome.PERMISSION_DENIED, "SCOPE_MISSING")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("path", EVERYBODY)
async def test_what_every_server_serves_is_for_whom_it_is_declared(path: str, server: str, callers: Callers) -> None:
    """Health is for every workload that proves itself; what a server consists of is for operators."""
    for workload, condition, declared in _cells(path, EVERYBODY[path]):
        wanted = Outcome.NOT_SERVED if declared is Outcome.ADMITTED and path in UNIMPLEMENTED else declared
        got = await _chassis_call(callers, workload, condition, server, path)
        assert got.outcome is wanted, f"{workload}, {condition}: {got}"


async def _chassis_call(callers: Callers, workload: str, condition: str, server: str, path: str) -> Answer:
    service, _, name = path.lstrip("/").partition("/")
    file = (health_pb2 if "Health" in service else reflection_pb2).DESCRIPTOR
    method = file.services_by_name[service.rpartition(".")[2]].methods_by_name[name]
    return await call(callers.channel(workload, condition, server), path, method)


async def test_what_is_refused_stands_in_the_audit(callers: Callers, tokens: Tokens, door: Door) -> None:
    """Who called what they may not, or showed another's token: told by who refused it, auth included."""
    began = datetime.now(UTC)
    domain, stolen = "spiffe://almagest.internal", await tokens.of("admin", "worker")
    create, get = "almagest.auth.v1.AuthService/CreateUser", "almagest.jobs.v1.JobsService/GetJob"
    await call(callers.channel("operator", VALID, "auth"), f"/{create}", METHODS[f"/{create}"])
    await call(callers.channel("gateway", VALID, "worker"), f"/{get}", METHODS[f"/{get}"], token=stolen)
    wanted = {
        (f"{domain}/operator", create, "CALLER_NOT_ALLOWED", None),
        (f"{domain}/gateway", get, "TOKEN_OF_ANOTHER", f"{domain}/worker"),
    }
    asked = {"type": "CallsDenied", "since": began.isoformat(), "page_size": 500}
    async with asyncio.timeout(30):
        while wanted:
            answer = await asyncio.to_thread(door.call, "GET", "/v1/audit", params=asked)
            for one in answer.json()["items"]:
                told = one["details"]
                wanted.discard((told.get("caller"), told.get("method"), told["reason"], one["workload"]))
            await asyncio.sleep(0.2)


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
