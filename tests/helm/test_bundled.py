"""The servers that the chart brings for development do what their configuration is for: Debian's Postgres and Redis,
started with what the chart renders for theirs, only files and ports being elsewhere.
"""

import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis
from almagest_cli.local import accounts
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.programs import run_to_end
from chassis.redis import connect
from harness.external import _External, postgres_programs, redis_program

from .rendering import Rendered, render

pytestmark = pytest.mark.xdist_group("helm")

IDENTITY = "/var/run/almagest/identity"
DATABASES = ("events_0", "events_1", "users_0", "users_1", "catalog_0", "catalog_1", "jobs")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    return LocalAuthority(tmp_path_factory.mktemp("authority"))


class Server(_External):
    """A server whose files are where the chart mounts them, but for what comes before."""

    def __init__(self, directory: Path, authority: LocalAuthority) -> None:
        super().__init__(directory, authority=authority, clients=authority.certificate_file)
        self.authority = authority
        self.renew()

    def renew(self) -> None:
        """Give it a new certificate, for the name by which it is called here."""
        issued = self.authority.issue(self.name, dns_names=["localhost"], uris=[])
        for name in ("tls.key", "tls.crt", "ca.crt"):
            self.write(f"identity/{name}", (issued / name).read_text())

    def write(self, name: str, content: str) -> Path:
        accounts.make_directory((self.home / name).parent, account=self.account)
        return super().write(name, content)

    def here(self, text: str, **others: str) -> str:
        """A rendered file, or variable, with the places of this machine."""
        for there, place in {IDENTITY: str(self.home / "identity"), **others}.items():
            text = text.replace(there, place)
        return text

    def reloading(self, script: str, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        """The sidecar that has the server read its certificates."""
        shell = self.write("reload.sh", script.replace("sleep 5", "sleep 0.1"))
        path = {"PATH": f"{self.home}/bin:{postgres_programs()}:{os.defpath}"}
        return subprocess.Popen(["sh", shell], env=path | environment, cwd=self.home, **accounts.run_as(self.account))


class Postgres(Server):
    """Postgres with the chart's configuration, on its socket and a port."""

    name = "postgres"

    def start(self, rendered: Rendered) -> None:
        files = rendered.named("ConfigMap", "almagest-postgres")["data"]
        data = accounts.make_directory(self.home / "data", account=self.account)
        self.me = self.account.name if self.account else pwd.getpwuid(os.geteuid()).pw_name
        command = [postgres_programs() / "initdb", f"--pgdata={data}", f"--username={self.me}", "--no-sync"]
        subprocess.run(command, cwd=data, check=True, capture_output=True, **accounts.run_as(self.account))
        hba = self.write("pg_hba.conf", files["pg_hba.conf"])
        places = {"/etc/almagest/postgres/pg_hba.conf": str(hba)}
        configuration = self.write("postgresql.conf", self.here(files["postgresql.conf"], **places))
        options = {"port": str(self.port), "unix_socket_directories": str(self.home), "fsync": "off"}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self.launch(
            [postgres_programs() / "postgres", "-D", data, "-c", f"config_file={configuration}", *words], directory=data
        )
        made: set[str] = set()
        for database in DATABASES:
            name = f"almagest-postgres-{database.replace('_', '-')}"
            for statement in rendered.named("ConfigMap", name)["data"]["create.sql"].splitlines():
                # Here all are in one server, where a role is made once.
                if not (statement.startswith("CREATE ROLE") and statement in made):
                    self.psql(statement)
                made.add(statement)

    def psql(self, statement: str) -> None:
        command = [postgres_programs() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement]
        given = {"PGHOST": str(self.home), "PGPORT": str(self.port), "PGDATABASE": "postgres", "PATH": os.defpath}
        subprocess.run(command, env=given, check=True, capture_output=True, cwd="/", **accounts.run_as(self.account))

    def told(self, dsn: str, workload: str) -> str:
        """A rendered DSN, with the certificate of a workload."""
        address = urlsplit(dsn).netloc.rpartition("@")[2]
        issued = self.authority.ensure(workload)
        return dsn.replace(address, f"localhost:{self.port}").replace(IDENTITY, str(issued))


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory, authority: LocalAuthority) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("postgres"), authority)
    try:
        server.start(render("dev"))
        yield server
    finally:
        server.remove()


def _dsns(where: str) -> list[str]:
    rendered = render("dev")
    (container,) = (one for name, _, one in rendered.containers() if name.startswith(where))
    return json.loads(rendered.environment(container)["ALMAGEST_DATABASE_URLS"])


async def test_a_role_is_let_in_by_its_certificate_and_by_nothing_else(postgres: Postgres) -> None:
    """Its own, over TLS, into its own databases; there is no password that could leak."""
    for service, role in (("event-store", "event_store"), ("auth", "auth"), ("worker", "worker")):
        for dsn in _dsns(f"almagest-{service}/"):
            connection = await asyncpg.connect(postgres.told(dsn, service))
            assert await connection.fetchval("SELECT current_user") == role
            assert (
                await connection.fetchval("SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                == f"/CN={role}"
            )
            await connection.close()
    dsn = _dsns("almagest-event-store/")[0]
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(postgres.told(dsn, "auth"))
    bare = f"postgresql://event_store@localhost:{postgres.port}/events_0"
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match=r"no pg_hba\.conf entry|certificate"):
        await asyncpg.connect(f"{bare}?sslmode=require")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="no encryption"):
        await asyncpg.connect(f"{bare}?sslmode=disable")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(postgres.told(dsn.replace("event_store@", "auth@"), "auth"))


def test_migrations_may_run_twice_as_the_owner(postgres: Postgres, tmp_path: Path) -> None:
    """The rendered Job's command and environment, on databases as the chart makes them."""
    rendered = render("dev")
    (container,) = (one for name, _, one in rendered.containers() if name.startswith("almagest-migrate-event-store-"))
    owner = postgres.authority.ensure("almagest-owner")
    told = {
        name: value.replace(IDENTITY, str(owner))
        for name, value in rendered.environment(container).items()
        if isinstance(value, str)
    }
    told["ALMAGEST_DATABASE_URLS"] = json.dumps(
        [postgres.told(dsn, "almagest-owner") for dsn in _dsns("almagest-migrate-event-store-")]
    )
    denied = tmp_path / "deny-list"
    denied.write_text(rendered.named("ConfigMap", "almagest-deny-list")["data"]["deny-list"])
    told |= {"ALMAGEST_DENY_LIST": str(denied), "PATH": os.environ["PATH"], "ALMAGEST_REDIS_URL": "redis://nowhere"}
    told.pop("OTEL_EXPORTER_OTLP_ENDPOINT")
    module, command = container["command"][2:]
    for _ in range(2):
        run_to_end(module, command, environment=told, directory=tmp_path, given_up=lambda: False)


def _until(seen: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_postgres_shows_a_renewed_certificate_without_a_restart(postgres: Postgres) -> None:
    """The sidecar has it read what cert-manager wrote, and ends when it is told to."""
    script = render("dev").named("ConfigMap", "almagest-postgres")["data"]["reload.sh"]
    given = {"PGHOST": str(postgres.home), "PGPORT": str(postgres.port), "PGDATABASE": "postgres"}
    _renewed(postgres, postgres.here(script), given, _postgres_serial)


def _renewed(server: Server, script: str, given: dict[str, str], serial: Callable[[Server], str]) -> None:
    before = serial(server)
    sidecar = server.reloading(script, given)
    try:
        server.renew()
        _until(lambda: serial(server) != before)
        sidecar.send_signal(signal.SIGTERM)
        assert sidecar.wait(timeout=30) == 0
    finally:
        sidecar.kill()
        sidecar.wait()


def _postgres_serial(server: Server) -> str:
    return _serial(server, "-starttls", "postgres")


def _serial(server: Server, *options: str) -> str:
    issued = server.authority.ensure("operator")
    command = ["openssl", "s_client", "-connect", f"localhost:{server.port}", *options]
    command += ["-cert", str(issued / "tls.crt"), "-key", str(issued / "tls.key"), "-CAfile", str(issued / "ca.crt")]
    shown = subprocess.run(command, input=b"", capture_output=True, check=False, timeout=20).stdout
    said = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=shown, capture_output=True, check=True)
    return said.stdout.decode()


class Redis(Server):
    """Redis with the chart's configuration and users."""

    name = "redis"

    def start(self, rendered: Rendered) -> None:
        self.secret: dict[str, str] = rendered.named("Secret", "almagest-redis")["stringData"]
        users = self.write("users.acl", self.secret["users.acl"])
        places = {
            "/etc/almagest/users/users.acl": str(users),
            "/tmp/valkey.sock": str(self.home / "valkey.sock"),  # noqa: S108 - what is replaced
            "dir /data": f"dir {accounts.make_directory(self.home / 'data', account=self.account)}",
            "tls-port 6379": f"tls-port {self.port}",
        }
        text = self.here(rendered.named("ConfigMap", "almagest-redis")["data"]["valkey.conf"], **places)
        self.launch([redis_program(), self.write("valkey.conf", text)], directory=self.home)

    def client(self, user: str, **options: Any) -> "redis.Redis":
        issued = self.authority.ensure("operator")
        given: dict[str, Any] = {
            "host": "localhost",
            "port": self.port,
            "username": user,
            "password": self.secret.get(f"{user}-password"),
            "ssl": True,
            "ssl_ca_certs": str(issued / "ca.crt"),
            "ssl_certfile": str(issued / "tls.crt"),
            "ssl_keyfile": str(issued / "tls.key"),
        }
        return redis.Redis(**(given | options))


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory, authority: LocalAuthority) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis"), authority)
    try:
        server.start(render("dev"))
        yield server
    finally:
        server.remove()


def test_each_service_may_do_in_redis_what_it_does_there(redis_server: Redis) -> None:
    """With its own keys and channels; the worker reads everything, which it searches for people who were forgotten."""
    own = {"gateway": "gateway:key:1", "auth": "auth:attempts:1", "worker": "jobs", "event-store": "event-store:x"}
    for user, key in own.items():
        client = redis_server.client(user)
        other = next(one for one in own if one != user)
        client.xadd(f"almagest:{key}", {"a": "b"})
        client.register_script("return redis.call('TYPE', KEYS[1])")(keys=[f"almagest:{key}"])
        client.publish(f"almagest:{key}", "news")
        client.pubsub().subscribe(f"almagest:{key}")
        assert client.scan()[0] == 0
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set(f"almagest:{own[other]}", "mine")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.publish(f"almagest:{own[other]}", "mine")
        for command in ("FLUSHALL", "CONFIG GET *", "KEYS *", "ACL LIST", "SHUTDOWN"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())
        reads = redis_server.client(user).xrange
        if user == "worker":
            assert reads("almagest:gateway:key:1")
        elif user != "gateway":
            with pytest.raises(redis.exceptions.NoPermissionError):
                reads("almagest:gateway:key:1")


def test_redis_lets_nobody_in_without_certificate_and_user(redis_server: Redis) -> None:
    """Neither alone is enough, and the default user is off."""
    for options in ({"ssl_certfile": None, "ssl_keyfile": None}, {"ssl": False}):
        with pytest.raises(redis.exceptions.ConnectionError):
            redis_server.client("gateway", **options).ping()
    for user, password in (("default", None), ("gateway", "guess"), ("reload", "guess")):
        with pytest.raises((redis.exceptions.AuthenticationError, redis.exceptions.ResponseError)):
            redis_server.client(user, password=password).ping()


async def test_services_come_by_the_url_that_they_are_given(redis_server: Redis) -> None:
    """The rendered URL is one that the chassis' client takes, with the service's own certificate."""
    url = redis_server.secret["gateway-url"]
    address = urlsplit(url).netloc.rpartition("@")[2]
    there = url.replace(address, f"localhost:{redis_server.port}")
    async with connect(there, identity_directory=redis_server.authority.ensure("gateway")) as client:
        assert await client.set("almagest:gateway:key:2", "x", nx=True, get=True, px=1000) is None


def test_redis_shows_a_renewed_certificate_without_a_restart(redis_server: Redis) -> None:
    """The sidecar may have it do that, and nothing else."""
    with pytest.raises(redis.exceptions.NoPermissionError):
        redis_server.client("reload").get("almagest:jobs")
    script = render("dev").named("ConfigMap", "almagest-redis")["data"]["reload.sh"]
    script = redis_server.here(script, **{"/tmp/valkey.sock": str(redis_server.home / "valkey.sock")})  # noqa: S108
    # Debian's has the name of its kin.
    script = script.replace("valkey-cli", "redis-cli")
    _renewed(redis_server, script, {"REDISCLI_AUTH": redis_server.secret["reload-password"]}, _serial)
