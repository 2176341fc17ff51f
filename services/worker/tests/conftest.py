"""The real auth, event store and catalog-command in processes of their own, people who submit, and workers in this process or in others."""

import asyncio
import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from almagest.auth.v1 import auth_pb2, auth_pb2_grpc
from almagest.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from almagest_cli.local.ports import free_port
from chassis.database.migrations import upgrade
from chassis.identity.files import FileIdentitySource
from chassis.process import running
from chassis.rpc.channel import Channel
from worker.bootstrap import bootstrap
from worker.domain.identifiers import product_id
from worker.settings import Settings

TRUST_DOMAIN = "almagest.internal"
ENDED = (jobs_pb2.JOB_STATE_SUCCEEDED, jobs_pb2.JOB_STATE_FAILED, jobs_pb2.JOB_STATE_CANCELLED)


async def eventually(check: Callable[[], Any], *, seconds: float = 30, every: float = 0.05) -> Any:
    """The first true answer of a check, which may be a coroutine function."""
    until = time.monotonic() + seconds
    while True:
        answer = check()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < until, "it did not come about in time"
        await asyncio.sleep(every)


@dataclass
class Process:
    """A service in a process of its own, which can be killed and started again at the same ports."""

    module: str
    environment: dict[str, str]
    log: Path
    grpc: int
    http: int
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", self.module, "serve"], env=self.environment, stdout=log, stderr=log
            )

    def ready(self) -> bool:
        assert self.child is not None
        assert self.child.poll() is None, f"{self.module} ended:\n{self.log.read_text()[-4000:]}"
        try:
            with socket.create_connection(("127.0.0.1", self.http), timeout=1) as connection:
                connection.sendall(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def send(self, number: int) -> None:
        assert self.child is not None
        self.child.send_signal(number)

    def end(self, number: int = signal.SIGKILL) -> int | None:
        if self.child is None:
            return None
        if self.child.poll() is None:
            self.child.send_signal(number)
        code = self.child.wait(30)
        self.child = None
        return code


@dataclass
class Backend:
    """What the worker depends on."""

    postgres: Any
    valkey: Any
    identity: Callable[[str], Path]
    directory: Path
    processes: dict[str, Process] = field(default_factory=dict)
    event_databases: tuple[str, ...] = ()

    def environment(self, service: str, **more: str) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return inherited | {"ALMAGEST_IDENTITY_DIRECTORY": str(self.identity(service))} | more

    def process(self, service: str, **more: str) -> Process:
        module = service.replace("-", "_")
        grpc, http = free_port(), free_port()
        listen = {"ALMAGEST_LISTEN": f"127.0.0.1:{grpc}", "ALMAGEST_HTTP_LISTEN": f"127.0.0.1:{http}"}
        return Process(
            module,
            self.environment(service, **listen, **more),
            self.directory / f"{module}-{grpc}.log",
            grpc,
            http,
        )

    def target(self, service: str) -> str:
        return f"127.0.0.1:{self.processes[service].grpc}"

    def channel(self, service: str, *, port: int, caller: str = "gateway") -> Channel:
        source = FileIdentitySource(self.identity(caller), TRUST_DOMAIN, service=caller)
        return Channel(f"127.0.0.1:{port}", service=service, identity=source, default_timeout=10.0)

    async def events_of(self, skus: Iterable[str]) -> dict[str, list[str]]:
        """The types of the events of each product, in order."""
        streams = {f"product-{product_id(sku)}": sku for sku in skus}
        found: dict[str, list[str]] = {sku: [] for sku in streams.values()}
        for dsn in self.event_databases:
            connection = await asyncpg.connect(dsn)
            rows = await connection.fetch(
                "SELECT stream, type FROM events WHERE stream = ANY ($1::text[]) ORDER BY position", list(streams)
            )
            await connection.close()
            for row in rows:
                found[streams[row["stream"]]].append(row["type"].rpartition(".")[2])
        return found


async def _migrated(postgres: Any, module: str, count: int = 1) -> tuple[list[str], list[str]]:
    owners = [postgres.create_database(module) for _ in range(count)]
    await upgrade(f"{module}.migrations", owners, module)
    return owners, [postgres.service_dsn(owner, module) for owner in owners]


@pytest.fixture(scope="session")
async def backend(
    postgres: Any, valkey: Any, identity: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Backend]:
    directory = tmp_path_factory.mktemp("backend")
    built = Backend(postgres, valkey, identity, directory)
    key = directory / "key"
    key.write_bytes(base64.b64encode(secrets.token_bytes(32)))
    key.chmod(0o600)
    _, users = await _migrated(postgres, "auth", 2)
    event_owners, events = await _migrated(postgres, "event_store", 2)
    built.event_databases = tuple(event_owners)
    add = built.processes.__setitem__
    add(
        "auth",
        built.process("auth", ALMAGEST_DATABASE_URLS=json.dumps(users), ALMAGEST_KEY_ENCRYPTION_KEY_FILE=str(key)),
    )
    auth = {"ALMAGEST_AUTH_TARGET": built.target("auth")}
    add(
        "event-store",
        built.process("event-store", ALMAGEST_DATABASE_URLS=json.dumps(events), ALMAGEST_REDIS_URL=valkey.url, **auth),
    )
    add(
        "catalog-command",
        built.process("catalog-command", ALMAGEST_EVENT_STORE_TARGET=built.target("event-store"), **auth),
    )
    try:
        for process in built.processes.values():
            process.start()
        for process in built.processes.values():
            await eventually(process.ready)
        yield built
    finally:
        for process in built.processes.values():
            process.end(signal.SIGTERM)


@dataclass
class Person:
    """Somebody who is logged in."""

    user_id: str
    access_token: str


class People:
    """Makes people, and gets their transaction tokens, as the gateway would."""

    def __init__(self, stub: Any, admin_token: str, backend: Backend) -> None:
        self._stub = stub
        self._admin_token = admin_token
        self._backend = backend

    async def log_in(self, email: str, password: str) -> Person:
        answer = await self._stub.LogIn(auth_pb2.LogInRequest(email=email, password=password))
        return Person(answer.user.user_id, answer.tokens.access_token)

    async def token(self, person: Person) -> str:
        answer = await self._stub.ExchangeToken(auth_pb2.ExchangeTokenRequest(access_token=person.access_token))
        return answer.transaction_token

    async def create(self, role: "auth_pb2.Role.ValueType") -> Person:
        email, password = f"{uuid.uuid4().hex}@example.org", "correct horse battery"
        admin = await self.log_in(*self._admin_token.split(" "))
        await self._stub.CreateUser(
            auth_pb2.CreateUserRequest(
                email=email,
                password=password,
                first_name="Ada",
                last_name="Lovelace",
                roles=[role],
                command_id=str(uuid.uuid4()),
            ),
            metadata=(("txn-token", await self.token(admin)),),
        )
        return await self.log_in(email, password)


@pytest.fixture(scope="session")
async def people(backend: Backend) -> AsyncIterator[People]:
    process = backend.processes["auth"]
    made = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "auth", "create-admin", "--email", "admin@example.org"],
        env=process.environment,
        capture_output=True,
        check=True,
    )
    admin = orjson.loads(made.stdout.splitlines()[-1])
    async with backend.channel("auth", port=process.grpc) as channel:
        yield People(auth_pb2_grpc.AuthServiceStub(channel), f"admin@example.org {admin['password']}", backend)


@pytest.fixture(scope="session")
async def editor(people: People) -> Person:
    return await people.create(auth_pb2.ROLE_EDITOR)


@pytest.fixture(scope="session")
async def other_editor(people: People) -> Person:
    return await people.create(auth_pb2.ROLE_EDITOR)


@pytest.fixture(scope="session")
async def viewer(people: People) -> Person:
    return await people.create(auth_pb2.ROLE_VIEWER)


@pytest.fixture(scope="session")
async def admin(people: People) -> Person:
    return await people.create(auth_pb2.ROLE_ADMIN)


@dataclass(frozen=True)
class JobsDatabase:
    """The jobs database, for its owner and for the service."""

    owner: str
    service: str

    async def fetch(self, query: str, *values: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.owner)
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()


@pytest.fixture(scope="session")
async def migrated_jobs(postgres: Any) -> JobsDatabase:
    owners, services = await _migrated(postgres, "worker")
    return JobsDatabase(owners[0], services[0])


@pytest.fixture
async def jobs_database(migrated_jobs: JobsDatabase) -> JobsDatabase:
    """Empty."""
    await migrated_jobs.fetch("TRUNCATE jobs, job_files CASCADE")
    return migrated_jobs


class Client:
    """A person at the worker, through the gateway's identity."""

    def __init__(self, channel: Channel, people: People, person: Person) -> None:
        self.channel = channel
        self.stub = jobs_pb2_grpc.JobsServiceStub(channel)
        self._people = people
        self._person = person

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("txn-token", await self._people.token(self._person)),)

    async def submit(
        self,
        content: bytes,
        *,
        format: "jobs_pb2.ImportFormat.ValueType" = jobs_pb2.IMPORT_FORMAT_NDJSON,  # noqa: A002
        on_error: "jobs_pb2.OnError.ValueType" = jobs_pb2.ON_ERROR_STOP,
        dry_run: bool = False,
        command_id: str | None = None,
        size: int | None = -1,
        pieces: int = 100_000,
        name: str = "file",
    ) -> jobs_pb2.Job:
        header = header_of(
            len(content) if size == -1 else size,
            format=format,
            on_error=on_error,
            dry_run=dry_run,
            command_id=command_id,
            name=name,
        )
        requests = [header]
        requests += [
            jobs_pb2.SubmitImportRequest(chunk=content[start : start + pieces])
            for start in range(0, len(content), pieces)
        ]
        return (await self.stub.SubmitImport(iter(requests), metadata=await self.metadata(), timeout=60)).job

    async def get(self, job_id: str) -> jobs_pb2.Job:
        return (await self.stub.GetJob(jobs_pb2.GetJobRequest(job_id=job_id), metadata=await self.metadata())).job

    async def cancel(self, job_id: str) -> jobs_pb2.Job:
        return (await self.stub.CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id), metadata=await self.metadata())).job

    async def jobs(self, **request: Any) -> jobs_pb2.ListJobsResponse:
        return await self.stub.ListJobs(jobs_pb2.ListJobsRequest(**request), metadata=await self.metadata())

    async def refused(self, job_id: str, **request: Any) -> jobs_pb2.ListRefusedRowsResponse:
        return await self.stub.ListRefusedRows(
            jobs_pb2.ListRefusedRowsRequest(job_id=job_id, **request), metadata=await self.metadata()
        )

    async def watch(self, job_id: str) -> AsyncIterator[jobs_pb2.Job]:
        call = self.stub.WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id), metadata=await self.metadata(), timeout=60)
        async for answer in call:
            yield answer.job

    async def ended(self, job_id: str) -> jobs_pb2.Job:
        """The job once it has ended."""
        job = [seen async for seen in self.watch(job_id)][-1]
        assert job.state in ENDED
        return job


def header_of(
    size: int | None,
    *,
    format: "jobs_pb2.ImportFormat.ValueType" = jobs_pb2.IMPORT_FORMAT_NDJSON,  # noqa: A002
    on_error: "jobs_pb2.OnError.ValueType" = jobs_pb2.ON_ERROR_STOP,
    dry_run: bool = False,
    command_id: str | None = None,
    name: str = "file",
) -> jobs_pb2.SubmitImportRequest:
    options = jobs_pb2.ImportOptions(format=format, on_error=on_error, dry_run=dry_run, reason="a test")
    header = jobs_pb2.ImportHeader(options=options, command_id=command_id or str(uuid.uuid4()), name=name)
    if size is not None:
        header.size_bytes = size
    return jobs_pb2.SubmitImportRequest(header=header)


class Workers:
    """Starts workers, in this process or in processes of their own, over one jobs database."""

    def __init__(self, backend: Backend, database: JobsDatabase, people: People) -> None:
        self.backend = backend
        self.database = database
        self.people = people
        self._processes: list[Process] = []

    def told(self, **more: Any) -> dict[str, Any]:
        backend = self.backend
        return {
            "identity_directory": backend.identity("worker"),
            "database_urls": (self.database.service,),
            "redis_url": backend.valkey.url,
            "auth_target": backend.target("auth"),
            "catalog_command_target": backend.target("catalog-command"),
            "lease_seconds": 3.0,
            "drain_seconds": 5.0,
            "sweep_seconds": 0.2,
            "housekeeping_seconds": 0.2,
        } | more

    @asynccontextmanager
    async def here(self, **more: Any) -> AsyncIterator[int]:
        """A worker in this process; its port."""
        async with running("worker", Settings(**self.told(**more)), bootstrap) as bound:
            yield bound.grpc_port

    async def elsewhere(self, **more: Any) -> Process:
        """A worker in a process of its own, ready."""
        told = self.told(**more)
        told["database_urls"] = json.dumps(told["database_urls"])
        process = self.backend.process(
            "worker", **{f"ALMAGEST_{name.upper()}": str(value) for name, value in told.items()}
        )
        self._processes.append(process)
        process.start()
        await eventually(process.ready)
        return process

    @asynccontextmanager
    async def client(self, port: int, person: Person) -> AsyncIterator[Client]:
        async with self.backend.channel("worker", port=port) as channel:
            yield Client(channel, self.people, person)

    def end(self) -> None:
        for process in self._processes:
            if process.child is not None and process.child.poll() is None:
                process.send(signal.SIGCONT)
            process.end()


@pytest.fixture
async def workers(backend: Backend, jobs_database: JobsDatabase, people: People) -> AsyncIterator[Workers]:
    for process in backend.processes.values():
        await eventually(process.ready)
    made = Workers(backend, jobs_database, people)
    try:
        yield made
    finally:
        made.end()


class Rows:
    """Builds files."""

    @staticmethod
    def row(sku: str, **more: Any) -> dict[str, Any]:
        return {
            "sku": sku,
            "kind": "car",
            "name": f"Volvo V60 {sku}",
            "category": "vehicles/estate",
            "attributes": {"make": "Volvo", "model": "V60", "model_year": 2020, "body_styles": ["Estate"]},
            "price": {"amount": "12999.00", "currency": "EUR"},
            "publish": True,
        } | more

    @staticmethod
    def ndjson(rows: Sequence[Any]) -> bytes:
        return b"".join(orjson.dumps(row) + b"\n" for row in rows)

    @staticmethod
    def skus(count: int) -> list[str]:
        prefix = uuid.uuid4().hex[:12]
        return [f"{prefix}-{number:06d}" for number in range(count)]


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def fresh_redis(valkey: Any) -> Iterator[None]:
    """The test stops Redis; afterwards it runs again."""
    yield
    valkey.start()


@pytest.fixture
def until() -> Any:
    """Waits until a check is true."""
    return eventually


@pytest.fixture
def header() -> Any:
    """Makes the first message of an upload."""
    return header_of
