"""The whole system on a Postgres and a Redis that are not ours: everything between them is encrypted, and both ends of each connection show a certificate."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.layout import DATABASE_OWNER, OPERATOR, SERVICES
from harness.door import Door
from harness.external import ExternalPostgres, ExternalRedis, postgres_programs, redis_program
from harness.running import RunningSystem, running_system

pytestmark = pytest.mark.xdist_group("external-servers")

ROWS = 300
ROLES = {row.module for row in SERVICES if row.databases}


@dataclass(frozen=True)
class Outside:
    """The servers, what they trust and are trusted by, and the system that uses them."""

    postgres: ExternalPostgres
    redis: ExternalRedis
    ca: Path
    clients: LocalAuthority
    system: RunningSystem
    door: Door

    def superuser(self) -> str:
        certificate = self.clients.ensure("postgres")
        return dsn(self.postgres, self.ca, f"postgres:{self.postgres.password}", certificate=certificate)

    def service(self, role: str, database: str) -> str:
        """The URL that a service was given."""
        return self.system.local.databases().dsn(database, role)

    def redis_client(self, **changed: Any) -> "redis.Redis":
        """The Redis for its administrator, who shows the operator's certificate."""
        shown = self.clients.ensure(OPERATOR)
        options: dict[str, Any] = {
            "host": "localhost",
            "port": self.redis.port,
            "username": "administrator",
            "password": self.redis.administrator,
            "ssl": True,
            "ssl_ca_certs": str(self.ca),
            "ssl_certfile": str(shown / "tls.crt"),
            "ssl_keyfile": str(shown / "tls.key"),
        }
        return redis.Redis(**(options | changed))


def dsn(postgres: ExternalPostgres, ca: Path, login: str, *, certificate: Path) -> str:
    return (
        f"postgresql://{login}@localhost:{postgres.port}/postgres?sslmode=verify-full&sslrootcert={ca}"
        f"&sslcert={certificate}/tls.crt&sslkey={certificate}/tls.key"
    )


async def provide_operator(superuser: str) -> None:
    """What an administrator does for us: a role that may make roles and databases, and nothing more."""
    connection = await asyncpg.connect(superuser)
    await connection.execute("CREATE ROLE operator LOGIN CREATEDB CREATEROLE PASSWORD 'made-up'")
    await connection.close()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    postgres_programs()
    redis_program()
    home = tmp_path_factory.mktemp("outside")
    theirs = LocalAuthority(home / "theirs")
    ca = theirs.certificate_file
    # The system's own authority, which the servers must know before it starts.
    clients = LocalAuthority(home / "state" / "authority")
    postgres = ExternalPostgres(home / "postgres", authority=theirs, clients=clients.certificate_file)
    cache = ExternalRedis(home / "redis", authority=theirs, clients=clients.certificate_file)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environment:
        for server in (postgres, cache):
            stack.callback(server.remove)
            server.start()
        superuser = dsn(postgres, ca, f"postgres:{postgres.password}", certificate=clients.ensure("postgres"))
        asyncio.run(provide_operator(superuser))
        environment.setenv(
            "ALMAGEST_POSTGRES_URL", dsn(postgres, ca, "operator:made-up", certificate=Path("{identity}"))
        )
        environment.setenv(
            "ALMAGEST_REDIS_URL",
            f"rediss://{cache.user}:{cache.password}@localhost:{cache.port}/0?ssl_ca_certs={ca}",
        )
        system = stack.enter_context(running_system(home / "state"))
        door = stack.enter_context(Door.to(system))
        yield Outside(postgres=postgres, redis=cache, ca=ca, clients=clients, system=system, door=door)


def product(number: int) -> dict[str, Any]:
    return {
        "sku": f"OUTSIDE-{number}",
        "kind": "general",
        "name": f"Astrolabe {number}",
        "category": "instruments",
        "attributes": {"brand": "Hipparchus"},
        "price": {"amount": f"{number}.50", "currency": "EUR"},
        "publish": True,
    }


def test_the_tour_works(outside: Outside) -> None:
    """Nothing of ours runs but the services; a product is created and read by its token, an import is applied and found."""
    assert not {"postgres", "valkey"} & set(outside.system.local.daemons())
    door = outside.door
    created = door.call("POST", "/v1/products", json=product(0), headers={"Idempotency-Key": "outside-0"})
    assert created.status_code == 201, created.text
    fresh = {"Almagest-Consistency": created.headers["Almagest-Consistency"]}
    found = door.get(f"/v1/products/{created.json()['product_id']}", headers=fresh)
    assert found["sku"] == "OUTSIDE-0"

    job = door.await_end(door.submit_import([product(number) for number in range(1, ROWS + 1)])["job_id"])
    assert job["state"] == "succeeded", job
    assert job["progress"]["rows_created"] == ROWS
    fresh = {"Almagest-Consistency": ", ".join(job["consistency_tokens"])}
    results = list(door.items("/v1/products:search", text="astrolabe", category="instruments", headers=fresh))
    assert len(results) == ROWS + 1


async def test_every_connection_to_postgres_is_encrypted_and_shows_its_roles_certificate(outside: Outside) -> None:
    """As Postgres itself sees it: each service by its own role, and each role by the certificate of its service."""
    connection = await asyncpg.connect(outside.superuser())
    rows = await connection.fetch(
        "SELECT usename AS role, ssl, version, client_dn FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    await connection.close()
    assert {row["role"] for row in rows} == ROLES
    assert {(row["role"], row["client_dn"]) for row in rows} == {(role, f"/CN={role}") for role in ROLES}
    assert {(row["ssl"], row["version"]) for row in rows} == {(True, "TLSv1.3")}


def test_every_connection_to_redis_is_the_user_that_the_url_names(outside: Outside) -> None:
    """The services come by the TLS port, the only one, as a user who is no administrator."""
    with outside.redis_client() as administrator:
        assert administrator.config_get("port")["port"] == "0"
        others = [client for client in administrator.client_list() if client["user"] != "administrator"]
    assert others
    assert {client["user"] for client in others} == {outside.redis.user}
    assert {client["laddr"] for client in others} == {f"127.0.0.1:{outside.redis.port}"}


async def test_postgres_refuses_whoever_lacks_encryption_certificate_or_password(outside: Outside) -> None:
    """With everything else right: plaintext, no certificate, a stranger's, another service's, a wrong password."""
    good = outside.service("event_store", "events_0")
    connection = await asyncpg.connect(good)
    await connection.close()

    address, _, parameters = good.partition("?")
    without = "&".join(part for part in parameters.split("&") if not part.startswith(("sslcert", "sslkey")))
    identities = outside.system.local.places.authority / "identities"
    strangers = LocalAuthority(outside.ca.parent / "strangers").ensure("event-store")
    wrong_password = address.replace(address.partition("@")[0].rpartition(":")[2], "guessed")
    bad = {
        "plaintext": (f"{address}?sslmode=disable", "no encryption"),
        "no certificate": (f"{address}?{without}", "valid client certificate"),
        "a stranger's": (good.replace(str(identities / "event-store"), str(strangers)), ""),
        "another service's": (good.replace(str(identities / "event-store"), str(identities / "worker")), "failed"),
        "wrong password": (f"{wrong_password}?{parameters}", "password authentication failed"),
    }
    for what, (url, said) in bad.items():
        with pytest.raises((OSError, asyncpg.PostgresError)) as refused:
            await asyncpg.connect(url)
        assert said in str(refused.value), (what, refused.value)
    # TLS 1.3 tells a client only afterwards that its certificate will not do, and asyncpg does not listen any more.
    log = outside.postgres.daemon.tail(100)
    assert "certificate verify failed" in log
    assert 'certificate validation (clientcert=verify-full) failed for user "event_store": CN mismatch' in log


def test_redis_refuses_whoever_lacks_encryption_certificate_or_password(outside: Outside) -> None:
    """With everything else right: plaintext, no certificate, a stranger's, no password, and an administrator's command."""
    strangers = LocalAuthority(outside.ca.parent / "strangers").ensure("worker")
    bad: dict[str, dict[str, Any]] = {
        "no certificate": {"ssl_certfile": None, "ssl_keyfile": None},
        "a stranger's": {"ssl_certfile": str(strangers / "tls.crt"), "ssl_keyfile": str(strangers / "tls.key")},
        "no password": {"username": None, "password": None},
        "wrong password": {"password": "guessed"},
    }
    for what, changed in bad.items():
        with outside.redis_client(**changed) as client:
            with pytest.raises(redis.RedisError):
                client.ping()
                pytest.fail(what)
    plaintext = f"redis://administrator:{outside.redis.administrator}@localhost:{outside.redis.port}"
    with redis.Redis.from_url(plaintext) as client:
        with pytest.raises(redis.RedisError):
            client.ping()
    with outside.redis_client(username=outside.redis.user, password=outside.redis.password) as client:
        assert client.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.flushall()


async def test_a_service_can_do_in_postgres_what_it_must_and_no_more(outside: Outside) -> None:
    """The read side cannot even look into the log; the event store reads it and appends by its function, and changes no row; nobody becomes the owner."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
        await asyncpg.connect(outside.service("catalog_query", "events_0"))

    store = await asyncpg.connect(outside.service("event_store", "events_0"))
    seen = await store.fetchval("SELECT count(*) FROM events")
    for forbidden in (
        "INSERT INTO events SELECT * FROM events LIMIT 1",
        "UPDATE events SET position = position",
        "DELETE FROM events",
        "TRUNCATE events",
        "UPDATE head SET position = 0",
        "DROP FUNCTION append_batch",
        "CREATE TABLE planted ()",
        "SET ROLE almagest_owner",
    ):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await store.execute(forbidden)
        assert refused.value.sqlstate == "42501", (forbidden, refused.value)
    assert await store.fetchval("SELECT count(*) FROM events") == seen > 0
    await store.close()

    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(
            outside.service("almagest_owner", "events_0").replace(f"/{DATABASE_OWNER}/", "/event-store/")
        )
