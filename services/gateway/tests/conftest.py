"""The gateway on fakes: implementations of the ports that keep their contracts, small and in memory."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import orjson
import pytest
from chassis.http import Readiness
from chassis.revocations import Revocations
from chassis.telemetry.logging import configure_logging
from chassis.telemetry.tracing import configure_tracing, shutdown_tracing
from gateway.app import create_app
from gateway.application.changes import Feeds
from gateway.application.ports import Ports
from gateway.application.quotas import Quotas
from gateway.settings import Settings

from .fake_access_keys import FakeAccessKeys
from .fake_answers import jwt
from .fake_auth import FakeAuth
from .fake_catalog import Catalog
from .fake_changes import FakeChanges
from .fake_erasures import FakeErasures
from .fake_keys import MemoryKeys
from .fake_operators import FakeOperators
from .fake_payloads import FakePayloadKeys, MemoryNonces
from .fake_worker import FakeWorker


class Fakes:
    """All ports, and an application over them."""

    def __init__(self, settings: Settings) -> None:
        self.auth = FakeAuth()
        self.catalog = Catalog()
        self.worker = FakeWorker()
        self.keys = MemoryKeys()
        self.readiness = Readiness()
        self.readiness.serving = True
        self.changes = FakeChanges()
        self.operators = FakeOperators()
        self.feeds = Feeds(per_person=settings.changes_feeds_per_person)
        self.nonces = MemoryNonces()
        self.payload_keys = FakePayloadKeys()
        self.access_keys = FakeAccessKeys()
        self.erasures = FakeErasures()
        self.ports = Ports(
            auth=self.auth,
            catalog_command=self.catalog,
            catalog_query=self.catalog,
            worker=self.worker,
            keys=self.keys,
            changes=self.changes,
            operators=self.operators,
            nonces=self.nonces,
            payload_keys=self.payload_keys,
            access_keys=self.access_keys,
            erasures=self.erasures,
        )
        self.quotas = Quotas()
        self.revocations = Revocations()
        self.app = create_app(settings, self.ports, self.readiness, self.quotas, self.feeds, self.revocations)

    def access_token(self) -> str:
        user = next(iter(self.auth.users.values()))
        return self.auth._tokens(user.user_id).access_token


@pytest.fixture(scope="session")
def settings(authority, identity) -> Settings:
    web: Path = authority.issue_web(["localhost", "127.0.0.1"])
    return Settings(
        identity_directory=identity("gateway"),
        tls_certificate=web / "tls.crt",
        tls_key=web / "tls.key",
        request_seconds=5.0,
        drain_seconds=2.0,
        upload_idle_seconds=1.0,
    )


@pytest.fixture(scope="session", autouse=True)
def telemetry(settings: Settings) -> Iterator[None]:
    configure_logging("gateway", "CRITICAL")
    configure_tracing(settings, "gateway")
    yield
    shutdown_tracing()


@pytest.fixture
def fakes(settings: Settings) -> Fakes:
    return Fakes(settings)


@pytest.fixture
async def client(fakes: Fakes) -> AsyncIterator[httpx.AsyncClient]:
    """A client that has logged in, without sockets in between."""
    transport = httpx.ASGITransport(fakes.app)
    headers = {"Authorization": f"Bearer {fakes.access_token()}"}
    async with httpx.AsyncClient(transport=transport, base_url="https://gateway", headers=headers) as client:
        yield client


CAR = {
    "sku": "volvo-v60",
    "kind": "car",
    "name": "Volvo V60",
    "category": "vehicles/estate",
    "attributes": {"make": "Volvo", "model": "V60", "model_year": 2026, "doors": 5},
    "price": {"amount": "52900.00", "currency": "EUR"},
    "publish": True,
}


@pytest.fixture
def car() -> dict[str, object]:
    return orjson.loads(orjson.dumps(CAR))


@pytest.fixture(name="jwt")
def jwt_fixture() -> Callable[..., str]:
    return jwt
