"""A certificate authority that also makes bad certificates, and a small service behind the chassis to be called."""

import asyncio
import logging
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from almagest.eventstore.v1 import event_store_pb2, event_store_pb2_grpc
from chassis.errors import ErrorRow, ErrorTable
from chassis.identity.files import FileIdentitySource
from chassis.policy import Person, Rule
from chassis.process import Assembly, Bound, Chassis, running
from chassis.rpc.channel import Channel
from chassis.settings import ServiceSettings
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from harness.tokens import TransactionTokens

TRUST_DOMAIN = "almagest.internal"
SERVICE = "almagest.eventstore.v1.EventStoreService"
GET_SHARD_MAP = f"/{SERVICE}/GetShardMap"
GATEWAY = frozenset({"gateway"})


@pytest.fixture
def churned(tmp_path: Path) -> Iterator[Path]:
    """A directory in which somebody makes and removes directories with a file in each, over and over."""
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            for number in range(20):
                (tmp_path / str(number)).mkdir()
                (tmp_path / str(number) / "file").touch()
            for number in range(20):
                (tmp_path / str(number) / "file").unlink()
                (tmp_path / str(number)).rmdir()

    churning = threading.Thread(target=churn)
    churning.start()
    yield tmp_path
    ended.set()
    churning.join()


class Authority:
    """Signs whatever it is asked to."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test authority {uuid.uuid4()}")])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        directory: Path,
        service: str,
        *,
        uris: Iterable[str] | None = None,
        dns: Iterable[str] | None = None,
        lifetime: float = 3600,
        age: float = 60,
        ca: bool = False,
        bundle: bytes | None = None,
    ) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(uri)
            for uri in (uris if uris is not None else [f"spiffe://{TRUST_DOMAIN}/{service}"])
        ]
        names += [x509.DNSName(name) for name in (dns if dns is not None else [f"{service}.{TRUST_DOMAIN}"])]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service.replace("-", "_"))]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=age))
            # Certificates know whole seconds; rounded down, one of a second may have none left.
            .not_valid_after((now + timedelta(seconds=lifetime + 1)).replace(microsecond=0))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=False,
                    crl_sign=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "ca.crt").write_bytes(bundle or self.pem)
        (directory / "tls.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (directory / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return directory


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    """A line per call would bury what a failing test says."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))


@pytest.fixture(scope="session")
def ca() -> Authority:
    return Authority()


@pytest.fixture
def issue(ca: Authority, tmp_path: Path) -> Callable[..., Path]:
    """From a service's name, and what is odd about its certificate, to an identity directory."""
    count = iter(range(1000))

    def issued(service: str, **odd: Any) -> Path:
        return ca.issue(tmp_path / f"{service}-{next(count)}", service, **odd)

    return issued


Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Servicer(event_store_pb2_grpc.EventStoreServiceServicer):
    """A service whose method does what a test says."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = self.answer
        self.calls = 0

    async def answer(self, _request: Any, _context: Any) -> event_store_pb2.GetShardMapResponse:
        return event_store_pb2.GetShardMapResponse(epoch=1)

    async def GetShardMap(self, request: Any, context: Any) -> Any:
        self.calls += 1
        return await self.behaviour(request, context)

    async def Append(self, request: Any, context: Any) -> Any:
        self.calls += 1
        return await self.behaviour(request, context)

    async def Subscribe(self, request: Any, context: Any) -> AsyncIterator[Any]:
        count = len(request.after)
        for _ in range(count):
            yield event_store_pb2.SubscribeResponse()
        await self.behaviour(request, context)

    async def ReadAll(self, request: Any, context: Any) -> AsyncIterator[Any]:
        while True:
            yield event_store_pb2.ReadAllResponse()
            await asyncio.sleep(0.01)


class Refused(Exception):
    """A domain error of the test's service."""

    def __init__(self, actual: int) -> None:
        self.actual = actual
        super().__init__(f"the revision is {actual}")


ERRORS = ErrorTable(
    {
        Refused: ErrorRow[Refused](
            code=grpc.StatusCode.FAILED_PRECONDITION,
            reason="REVISION_CONFLICT",
            metadata=lambda error: {"actual_revision": str(error.actual)},
        )
    }
)


def rows_of(**rows: Rule) -> dict[str, Rule]:
    """A row for each method of the service: those given, and for the others a gateway without a person."""
    names = [method.name for method in event_store_pb2.DESCRIPTOR.services_by_name["EventStoreService"].methods]
    return {f"/{SERVICE}/{name}": rows.get(name, Rule(callers=GATEWAY, person=Person.NONE)) for name in names}


@dataclass
class Service:
    """A running service and ways to call it."""

    bound: Bound
    servicer: Servicer
    directory: Path
    chassis: Chassis[ServiceSettings]
    channels: list[Channel] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.bound.grpc_port}"

    def channel(self, identity: Path, **options: Any) -> Channel:
        source = FileIdentitySource(identity, TRUST_DOMAIN)
        channel = Channel(self.target, service="event-store", identity=source, **options)
        self.channels.append(channel)
        return channel

    def stub(self, identity: Path, **options: Any) -> Any:
        return event_store_pb2_grpc.EventStoreServiceStub(self.channel(identity, **options))


@pytest.fixture(scope="session")
def foreign() -> Authority:
    """An authority that nobody of ours trusts."""
    return Authority()


@pytest.fixture(scope="session")
def policy() -> Callable[..., dict[str, Rule]]:
    """A policy with a row for each method of the service."""
    return rows_of


@pytest.fixture(scope="session")
def refusal() -> type[Refused]:
    """A domain error that the service's table knows."""
    return Refused


ServiceFactory = Callable[..., Any]


@pytest.fixture
def serve(issue: Callable[..., Path], transaction_tokens: TransactionTokens) -> ServiceFactory:
    """An event store that does what the test says, as an asynchronous context manager taking rows and settings."""

    @asynccontextmanager
    async def serving(
        *, rows: dict[str, Rule] | None = None, identity: Path | None = None, tasks: Any = (), **settings: Any
    ) -> AsyncIterator[Service]:
        directory = identity or issue("event-store")
        servicer = Servicer()
        kept: list[Chassis[ServiceSettings]] = []

        @asynccontextmanager
        async def bootstrap(_settings: ServiceSettings, chassis: Chassis[ServiceSettings]) -> AsyncIterator[Assembly]:
            async def jwks() -> bytes:
                return transaction_tokens.jwks

            chassis.verify_with(jwks)
            kept.append(chassis)
            yield Assembly(
                servicers=[(SERVICE, event_store_pb2_grpc.add_EventStoreServiceServicer_to_server, servicer)],
                policy=rows or rows_of(),
                errors=ERRORS,
                tasks=tasks,
            )

        read = ServiceSettings(identity_directory=directory, identity_poll_seconds=0.02, **settings)
        async with running("event-store", read, bootstrap) as bound:
            service = Service(bound, servicer, directory, kept[0])
            try:
                yield service
            finally:
                for channel in service.channels:
                    await channel.close()

    return serving
