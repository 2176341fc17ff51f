"""What the system consists of on one machine: a table of services, and the environment that each is told.

A new service is a row here. Nothing else in the local runtime knows a service by name, except who makes the first
admin.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

GATEWAY = "gateway"
AUTH = "auth"
EVENT_STORE = "event-store"
HTTP_OFFSET = 100
"""A service's HTTP side stands this far above its gRPC port."""


@dataclass(frozen=True)
class Service:
    """One of the processes that make up Almagest.

    Attributes:
        name: as in its SPIFFE id.
        databases: the stem of its databases' names; empty if it has none.
        sharded: whether there is one database per shard, numbered from 0.
        calls: the services whose address it must know.
        redis: whether it talks to Redis.
        replica_of: the service that this is a further process of; empty for the first of each.
    """

    name: str
    databases: str = ""
    sharded: bool = False
    calls: tuple[str, ...] = ()
    redis: bool = False
    replica_of: str = ""

    @property
    def workload(self) -> str:
        """Whose identity it has."""
        return self.replica_of or self.name

    @property
    def module(self) -> str:
        """What `python -m` runs; also the service's role in Postgres."""
        return self.workload.replace("-", "_")

    def database_names(self, shards: int) -> tuple[str, ...]:
        """Its databases, in shard order."""
        if not self.databases:
            return ()
        return tuple(f"{self.databases}_{shard}" for shard in range(shards)) if self.sharded else (self.databases,)


SERVICES = (
    Service("auth", databases="users", sharded=True, calls=(EVENT_STORE, "catalog-query", "worker"), redis=True),
    Service(EVENT_STORE, databases="events", sharded=True, calls=("auth",), redis=True),
    Service("catalog-command", calls=("auth", "event-store")),
    Service("catalog-query", databases="catalog", sharded=True, calls=("auth", "event-store"), redis=True),
    Service("worker", databases="jobs", calls=("auth", "catalog-command", "catalog-query"), redis=True),
    Service(GATEWAY, calls=("auth", "catalog-command", "catalog-query", "worker"), redis=True),
)
"""In the order in which they are shown; they may be started in any."""

OPERATOR = "operator"
"""The human at this machine."""
ADMIN_EMAIL = "admin@localhost"
"""Who logs in first."""
DATABASE_OWNER = "almagest-owner"
"""Whom migrations show a database that asks for certificates; no service lets it in."""
WORKLOADS = (*(service.name for service in SERVICES), OPERATOR, DATABASE_OWNER)
"""Who has an identity."""

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "VIRTUAL_ENV")
_INHERITED_PREFIXES = ("PYTHON", "OTEL_", "COVERAGE_", "SSL_CERT_", "GRPC_", "ALMAGEST_")
_NOT_INHERITED = frozenset(
    {
        # For the command line.
        "ALMAGEST_URL",
        "ALMAGEST_CA",
        "ALMAGEST_STATE",
        "ALMAGEST_TOKEN",
        "ALMAGEST_POSTGRES_URL",
        # For the services whom we tell.
        "ALMAGEST_REDIS_URL",
        "ALMAGEST_DATABASE_URLS",
        "ALMAGEST_MIGRATION_DATABASE_URLS",
    }
)


@dataclass(frozen=True)
class Ports:
    """Where each service listens, on loopback.

    Attributes:
        gateway: the port of the public API.
        grpc: from the other services' names to their gRPC ports.
        http: from the other services' names to the ports of their HTTP sides.
    """

    gateway: int = 8443
    grpc: Mapping[str, int] = field(default_factory=dict[str, int])
    http: Mapping[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def usual(cls, *, gateway: int = 8443, base: int = 9101) -> "Ports":
        """The documented ports: gRPC from `base` in the order of the table, HTTP a hundred above."""
        inner = [row.name for row in SERVICES if row.name != GATEWAY]
        grpc = {name: base + index for index, name in enumerate(inner)}
        return cls(gateway=gateway, grpc=grpc, http={name: port + HTTP_OFFSET for name, port in grpc.items()})

    def of(self, name: str) -> tuple[int, ...]:
        """The ports that a service opens."""
        return (self.gateway,) if name == GATEWAY else (self.grpc[name], self.http[name])

    def target(self, service: str) -> str:
        """The gRPC target of a service: all its processes."""
        addresses = [
            f"127.0.0.1:{port}" for name, port in self.grpc.items() if service in {name, name.rpartition("-")[0]}
        ]
        return addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"

    def processes(self) -> tuple[Service, ...]:
        """The rows of all processes: those of the table, and a further one for each name like `event-store-2` that has
        a port.
        """
        first = {row.name: row for row in SERVICES}
        further = {name: first[name.rpartition("-")[0]] for name in self.grpc if name not in first}
        return (*SERVICES, *(replace(row, name=name, replica_of=row.name) for name, row in further.items()))


@dataclass(frozen=True)
class Places:
    """The files of a state directory."""

    state: Path

    @property
    def authority(self) -> Path:
        """The certificate authority and all identities."""
        return self.state / "authority"

    @property
    def ca(self) -> Path:
        """What clients must trust."""
        return self.authority / "ca.crt"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.state / "logs"

    @property
    def traces(self) -> Path:
        """The spans of each service."""
        return self.state / "traces"

    @property
    def deny_list(self) -> Path:
        """The workloads that are refused although their certificates are good."""
        return self.state / "deny-list"

    @property
    def description(self) -> Path:
        """What was started, for later commands."""
        return self.state / "system.json"

    @property
    def key_encryption_key(self) -> Path:
        """Seals the signing keys in auth's database."""
        return self.state / "secrets" / "auth-key-encryption-key"

    @property
    def session(self) -> Path:
        """Who is logged in at the command line."""
        return self.state / "session.json"

    @property
    def archives(self) -> Path:
        """The files that old events are archived to."""
        return self.state / "archives"

    @property
    def restoring(self) -> Path:
        """Names the backup that is being restored, for as long as it is."""
        return self.state / "restoring"

    @property
    def demo(self) -> Path:
        """The demo catalogs, as they are imported."""
        return self.state / "demo"

    def everything(self) -> tuple[Path, ...]:
        """All that we ever make in a state directory, the servers' data first."""
        ours = (self.authority, self.deny_list, self.logs, self.traces, self.description, self.session, self.demo)
        ours += (self.restoring,)
        names = ("postgres", "valkey", "archives", "secrets", "pids")
        return (*(self.state / name for name in names), *ours, self.state / "session.lock", self.state / "lock")

    @property
    def first_admin(self) -> Path:
        """The first admin's password, from when it is made until it is shown."""
        return self.state / "secrets" / "first-admin.json"

    def log(self, process: str) -> Path:
        """The log of a process."""
        return self.logs / f"{process}.log"

    def pid(self, process: str) -> Path:
        """The pid file of a process."""
        return self.state / "pids" / f"{process}.json"


def environment(
    row: Service,
    *,
    places: Places,
    ports: Ports,
    database_urls: tuple[str, ...],
    owner_urls: tuple[str, ...],
    redis_url: str,
) -> dict[str, str]:
    """What a service's process is told. Of our own environment only what it may know is passed on."""
    told = {
        name: value
        for name, value in os.environ.items()
        if (name in _INHERITED or name.startswith(_INHERITED_PREFIXES)) and name not in _NOT_INHERITED
    }
    told |= {
        "ALMAGEST_IDENTITY_DIRECTORY": str(places.authority / "identities" / row.workload),
        "ALMAGEST_TRACE_DIRECTORY": str(places.traces),
        "ALMAGEST_DENY_LIST": str(places.deny_list),
    }
    for callee in row.calls:
        told[f"ALMAGEST_{callee.upper().replace('-', '_')}_TARGET"] = ports.target(callee)
    if row.name == GATEWAY:
        web = places.authority / "web"
        told["ALMAGEST_LISTEN"] = f"127.0.0.1:{ports.gateway}"
        told["ALMAGEST_TLS_CERTIFICATE"] = str(web / "tls.crt")
        told["ALMAGEST_TLS_KEY"] = str(web / "tls.key")
    else:
        told["ALMAGEST_LISTEN"] = f"127.0.0.1:{ports.grpc[row.name]}"
        told["ALMAGEST_HTTP_LISTEN"] = f"127.0.0.1:{ports.http[row.name]}"
    if row.name == AUTH:
        told["ALMAGEST_KEY_ENCRYPTION_KEY_FILE"] = str(places.key_encryption_key)
        told["ALMAGEST_SEARCH_DIRECTORIES"] = orjson.dumps([str(places.logs), str(places.traces)]).decode()
    if row.workload == EVENT_STORE:
        told.setdefault("ALMAGEST_ARCHIVE_DIRECTORY", str(places.archives))
    if row.redis:
        told["ALMAGEST_REDIS_URL"] = redis_url
    if database_urls:
        told["ALMAGEST_DATABASE_URLS"] = orjson.dumps(database_urls).decode()
        if owner_urls:
            # Only `migrate` is told how to become the owner.
            told["ALMAGEST_MIGRATION_DATABASE_URLS"] = orjson.dumps(owner_urls).decode()
    return told
