"""Two users databases, the adapters on them, and the service itself over mTLS."""

import base64
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from almagest.auth.v1 import auth_pb2 as wire
from almagest.auth.v1.auth_pb2_grpc import AuthServiceStub
from almagest.auth.v1.people_pb2_grpc import PeopleServiceStub
from auth.application.people import create_first_admin
from auth.bootstrap import Parts, assembled, bootstrap, now
from auth.domain.people import Role, registration
from auth.settings import Settings
from chassis.database.migrations import upgrade
from chassis.identity.files import FileIdentitySource
from chassis.ids import uuid7
from chassis.process import running
from chassis.rpc.channel import Channel
from harness.plugin import Postgres
from sqlalchemy import event

PASSWORD = "correct horse battery staple"


class Databases(NamedTuple):
    owner: tuple[str, ...]
    service: tuple[str, ...]


@pytest.fixture(scope="session")
async def migrated(postgres: Postgres) -> str:
    """A database that is only copied."""
    database = postgres.create_database("auth")
    await upgrade("auth.migrations", [database], "auth")
    return database


def copies(postgres: Postgres, migrated: str) -> Databases:
    """Two migrated shards."""
    owner = tuple(postgres.copy_database(migrated, "auth") for _ in range(2))
    return Databases(owner, tuple(postgres.service_dsn(dsn, "auth") for dsn in owner))


@pytest.fixture(scope="session")
async def databases(postgres: Postgres, migrated: str) -> Databases:
    """Two migrated shards, shared by the tests: each makes people of its own."""
    return copies(postgres, migrated)


@pytest.fixture
async def fresh_databases(postgres: Postgres, migrated: str) -> AsyncIterator[Databases]:
    """Two migrated shards for one test."""
    made = copies(postgres, migrated)
    yield made
    for dsn in made.owner:
        postgres.drop_database(dsn)


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key-encryption key."""
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
    return path


@pytest.fixture(scope="session")
def settings(databases: Databases, key_file: Path, identity: Callable[[str], Path]) -> Settings:
    return Settings(
        identity_directory=identity("auth"),
        database_urls=databases.service,
        migration_database_urls=databases.owner,
        key_encryption_key_file=key_file,
    )


@pytest.fixture
def fresh_settings(settings: Settings, fresh_databases: Databases) -> Settings:
    """Those of a service whose databases are empty, and which soon hears of new keys."""
    return settings.model_copy(
        update={
            "database_urls": fresh_databases.service,
            "migration_database_urls": fresh_databases.owner,
            "key_refresh_seconds": 0.1,
        }
    )


@pytest.fixture(scope="session")
async def parts(settings: Settings) -> AsyncIterator[Parts]:
    """The adapters on the two databases."""
    async with assembled(settings) as made:
        yield made


@contextmanager
def _asked(parts: Parts) -> Iterator[list[str]]:
    log: list[str] = []

    def listener(number: int) -> Callable[..., None]:
        return lambda *_: log.append(f"users_{number}")

    listeners = [listener(number) for number in range(len(parts.engines))]
    for engine, each in zip(parts.engines, listeners, strict=True):
        event.listen(engine.sync_engine, "before_cursor_execute", each)
    try:
        yield log
    finally:
        for engine, each in zip(parts.engines, listeners, strict=True):
            event.remove(engine.sync_engine, "before_cursor_execute", each)


@pytest.fixture
def asked(parts: Parts) -> Callable[[], AbstractContextManager[list[str]]]:
    """Which shards' statements run in the block, in order."""
    return lambda: _asked(parts)


@asynccontextmanager
async def _calling(service: str, port: int, identity: Callable[[str], Path]) -> AsyncIterator[AuthServiceStub]:
    """Calls to the service as another one."""
    source = FileIdentitySource(identity(service), "almagest.internal")
    channel = Channel(f"127.0.0.1:{port}", service="auth", identity=source)
    try:
        yield AuthServiceStub(channel)
    finally:
        await channel.close()


@pytest.fixture
def calling(identity: Callable[[str], Path]) -> Callable[[str, int], AbstractAsyncContextManager[AuthServiceStub]]:
    """Calls as a service to the port of this one."""
    return lambda service, port: _calling(service, port, identity)


class Running(NamedTuple):
    port: int
    gateway: AuthServiceStub
    worker: AuthServiceStub


@pytest.fixture(scope="session")
async def service(settings: Settings, identity: Callable[[str], Path]) -> AsyncIterator[Running]:
    """The service, and its two clients."""
    async with (
        running("auth", settings, bootstrap) as bound,
        _calling("gateway", bound.grpc_port, identity) as gateway,
        _calling("worker", bound.grpc_port, identity) as worker,
    ):
        yield Running(bound.grpc_port, gateway, worker)


@pytest.fixture
async def people(service, calling) -> AsyncIterator[PeopleServiceStub]:
    """The methods about people, as the gateway calls them."""
    async with calling("gateway", service.port) as stub:
        yield PeopleServiceStub(stub.LogIn._channel)


@pytest.fixture
def password() -> str:
    return PASSWORD


@pytest.fixture
def person() -> Callable[..., wire.CreateUserRequest]:
    """Makes requests for new persons, whom nobody has asked for before."""
    return _person


def _person(**changes: object) -> wire.CreateUserRequest:
    fields: dict[str, object] = {
        "email": f"{uuid7().hex}@example.org",
        "password": PASSWORD,
        "first_name": "Ada",
        "last_name": "Lovelace",
        "roles": [wire.ROLE_VIEWER],
        "command_id": str(uuid7()),
    }
    return wire.CreateUserRequest(**{**fields, **changes})


@pytest.fixture(scope="session")
async def admin(service, settings) -> wire.User:
    """An admin, made as `almagest up` makes the first one."""
    async with assembled(settings) as parts:
        user, _ = await create_first_admin(
            registration(
                email="root@localhost", password=PASSWORD, first_name="Grace", last_name="Hopper", roles=[Role.ADMIN]
            ),
            command_id=uuid7(),
            people=parts.people,
            common=parts.common,
            passwords=parts.passwords,
            fingerprints=parts.key_encryption_key,
            clock=now,
        )
    return (await service.gateway.LogIn(wire.LogInRequest(email=user.email, password=PASSWORD))).user


@pytest.fixture
def acting(service, password):
    """Metadata with a transaction token of a person, by e-mail address."""

    async def act(email: str, *scopes: str) -> tuple[tuple[str, str], ...]:
        session = await service.gateway.LogIn(wire.LogInRequest(email=email, password=password))
        exchanged = await service.gateway.ExchangeToken(
            wire.ExchangeTokenRequest(access_token=session.tokens.access_token, scopes=scopes)
        )
        return (("txn-token", exchanged.transaction_token),)

    return act


@pytest.fixture
def newcomer(service, admin, acting):
    """Creates persons through the service."""

    async def create(**changes: object) -> wire.User:
        answer = await service.gateway.CreateUser(_person(**changes), metadata=await acting(admin.email))
        return answer.user

    return create


@pytest.fixture
def log_in(service, password):
    async def start(user: wire.User) -> wire.Tokens:
        return (await service.gateway.LogIn(wire.LogInRequest(email=user.email, password=password))).tokens

    return start
