"""Starting the system: what is told when it cannot be, and that nothing stays behind."""

import asyncio
import fcntl
import json
import os
import socket
import stat
import time
from datetime import UTC, datetime, timedelta

import asyncpg
import psutil
import pytest
from almagest_cli.local import layout, renewal
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.daemons import Daemon
from almagest_cli.local.databases import ExternalPostgres, Passwords
from almagest_cli.local.errors import LocalError, PortTakenError, ProcessDiedError
from almagest_cli.local.layout import SERVICES, WORKLOADS, Places, Ports
from almagest_cli.local.ports import free_ports, free_usual_ports, require_free
from almagest_cli.local.postgres import EmbeddedPostgres
from almagest_cli.local.programs import python
from almagest_cli.local.system import System
from cryptography import x509


def running(state) -> list[str]:
    """The processes of any system below the directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(state) in " ".join([*process.cmdline(), process.cwd()]) and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_a_taken_port_is_named_with_its_holder_and_nothing_is_started(state):
    """The error says which port, which process and which option; no server was started for nothing."""
    ports = free_ports()
    with socket.create_server(("127.0.0.1", ports.http["worker"])):
        with pytest.raises(PortTakenError) as refusal:
            System(state, ports=ports).up()
        for part in ("worker", str(ports.http["worker"]), f"process {os.getpid()}", "--base-port"):
            assert part in str(refusal.value)
        assert running(state) == []
    with (
        socket.create_server(("127.0.0.1", ports.gateway), reuse_port=True),
        pytest.raises(PortTakenError, match="--port"),
    ):
        require_free("gateway", ports.of("gateway"))


def test_a_service_that_dies_is_named_with_its_last_words_and_nothing_is_left_running(state, monkeypatch):
    """One service refuses its settings: the error quotes its log, and all that was started has ended."""
    monkeypatch.setenv("ALMAGEST_KNOWN_PRODUCTS", "0")
    steps = []
    system = System(state, ports=free_ports(), report=lambda name, step: steps.append((name, step)))
    try:
        with pytest.raises(ProcessDiedError) as refusal:
            system.up()
        assert "catalog-command ended (exit code " in str(refusal.value)
        assert "known_products" in str(refusal.value)
        assert ("postgres", "ready") in steps
        assert running(state) == []
        assert not any(daemon.process() for daemon in system.daemons().values())
    finally:
        system.reset()
    assert not state.exists()


def test_redis_is_the_embedded_one_unless_another_is_named(state, monkeypatch):
    """What the services are told is what a test or an operator can ask for."""
    monkeypatch.delenv("ALMAGEST_REDIS_URL", raising=False)
    (state / "valkey").mkdir(parents=True)
    system = System(state, ports=free_ports())
    assert system.redis_url.startswith("unix://")
    monkeypatch.setenv("ALMAGEST_REDIS_URL", "rediss://elsewhere:6379/0")
    assert system.redis_url == "rediss://elsewhere:6379/0"


def test_the_command_tells_the_same_on_one_line_of_json(almagest, state):
    """For programs: the error, the exit code, and nothing on standard output."""
    ports = free_usual_ports()
    with socket.create_server(("127.0.0.1", ports.gateway)):
        done = almagest("up", "--port", str(ports.gateway), "--base-port", str(min(ports.grpc.values())), "--json")
    assert (done.code, done.out) == (1, "")
    assert f"needs port {ports.gateway}" in json.loads(done.err.splitlines()[-1])["error"]
    down = almagest("status", "--json")
    assert (down.code, down.json["ready"]) == (3, False)
    assert {row["process"] for row in down.json["processes"]} >= {row.name for row in SERVICES}
    assert almagest("down", "--json").json == {"stopped": []}
    assert almagest("logs").code == 1
    assert almagest("logs", "nobody").code == 2


def test_only_one_command_at_a_time_starts_or_stops(state):
    """A second `up` beside the first is refused at once."""
    state.mkdir()
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LocalError, match="Another almagest command"):
            System(state, ports=free_ports()).up()


def test_the_number_of_shards_cannot_change_under_data(state):
    """What was started with three shards stays with three."""
    state.mkdir()
    (state / "system.json").write_text(json.dumps({"shards": 3}))
    assert System(state).shards == 3
    assert System(state, shards=3).shards == 3
    with pytest.raises(LocalError, match="3 shards, not 2"):
        System(state, shards=2)


def test_reset_forgets_ours_and_leaves_what_is_not(state):
    """A file of someone else's in the state directory survives a reset."""
    (state / "logs").mkdir(parents=True)
    (state / "logs" / "auth.log").write_text("old")
    (state / "mine.txt").write_text("keep")
    System(state).reset()
    assert [path.name for path in state.iterdir()] == ["mine.txt"]


def test_the_usual_ports_are_the_documented_ones():
    """Other tools and the README name them."""
    assert Ports.usual() == Ports(
        gateway=8443,
        grpc={"auth": 9101, "event-store": 9102, "catalog-command": 9103, "catalog-query": 9104, "worker": 9105},
        http={"auth": 9201, "event-store": 9202, "catalog-command": 9203, "catalog-query": 9204, "worker": 9205},
    )


def test_further_replicas_have_the_same_identity_and_are_called_by_whoever_calls_the_first(tmp_path):
    """A second process is a row of its own, with ports of its own; its callers know the addresses of both."""
    ports = free_ports({"event-store": 2})
    rows = {row.name: row for row in ports.processes()}
    assert set(rows) == {row.name for row in SERVICES} | {"event-store-2"}
    assert rows["event-store-2"].module == "event_store"
    assert rows["event-store-2"].database_names(2) == ("events_0", "events_1")

    def told(name):
        return layout.environment(
            rows[name], places=Places(tmp_path), ports=ports, database_urls=(), owner_urls=(), redis_url=""
        )

    first, second = told("event-store"), told("event-store-2")
    assert first["ALMAGEST_IDENTITY_DIRECTORY"] == second["ALMAGEST_IDENTITY_DIRECTORY"]
    assert first["ALMAGEST_ARCHIVE_DIRECTORY"] == second["ALMAGEST_ARCHIVE_DIRECTORY"] == str(tmp_path / "archives")
    both = f"{first['ALMAGEST_LISTEN']},{second['ALMAGEST_LISTEN']}"
    assert told("catalog-command")["ALMAGEST_EVENT_STORE_TARGET"] == f"ipv4:{both}"


def test_a_service_is_told_what_it_needs_and_no_more(tmp_path, monkeypatch):
    """The superuser's URL reaches no service, the owner's only migrations, another service's addresses only its callers."""
    monkeypatch.setenv("ALMAGEST_POSTGRES_URL", "postgresql://root:hush@db/postgres")
    monkeypatch.setenv("ALMAGEST_DATABASE_URLS", '["postgresql://stray"]')
    monkeypatch.setenv("ALMAGEST_REDIS_URL", "redis://stray")
    monkeypatch.setenv("ALMAGEST_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("SHELL_SECRET", "hush")

    def told(name, owner=()):
        row = next(row for row in SERVICES if row.name == name)
        return layout.environment(
            row,
            places=Places(tmp_path),
            ports=Ports.usual(),
            database_urls=tuple(f"postgresql://{name}@/{database}" for database in row.database_names(2)),
            owner_urls=owner,
            redis_url="unix://socket",
        )

    for row in SERVICES:
        assert "hush" not in json.dumps(told(row.name))
        assert "stray" not in json.dumps(told(row.name))
    store = told("event-store")
    assert json.loads(store["ALMAGEST_DATABASE_URLS"]) == [
        "postgresql://event-store@/events_0",
        "postgresql://event-store@/events_1",
    ]
    assert store["ALMAGEST_REDIS_URL"] == "unix://socket"
    assert store["ALMAGEST_LOG_LEVEL"] == "DEBUG"
    assert "ALMAGEST_MIGRATION_DATABASE_URLS" not in store
    assert "owner" in told("event-store", owner=("postgresql://owner@/events_0",))["ALMAGEST_MIGRATION_DATABASE_URLS"]
    assert "ALMAGEST_REDIS_URL" not in told("catalog-command")
    assert "ALMAGEST_WORKER_TARGET" not in told("catalog-command")
    assert told("gateway")["ALMAGEST_WORKER_TARGET"] == "127.0.0.1:9105"
    assert "ALMAGEST_DATABASE_URLS" not in told("gateway")


def test_identities_are_renewed_while_the_system_runs(tmp_path):
    """The process that `up` leaves behind replaces a certificate in the second half of its life, at once when it starts."""
    places = Places(tmp_path)
    authority = LocalAuthority(places.authority)
    authority.renew(WORKLOADS)
    now = datetime.now(UTC)
    where = authority.issue("worker", lifetime=timedelta(hours=1), not_before=now - timedelta(hours=2))
    young = authority.identity("gateway") / "tls.crt"
    old, kept = x509.load_pem_x509_certificate((where / "tls.crt").read_bytes()), young.read_bytes()
    daemon = Daemon("certificates", pid_file=tmp_path / "pid", log_file=tmp_path / "log")
    daemon.start(python(renewal.__name__, str(places.state)), environment=dict(os.environ))
    try:
        until = time.monotonic() + 30
        while (new := x509.load_pem_x509_certificate((where / "tls.crt").read_bytes())) == old:
            assert daemon.process() is not None, daemon.tail()
            assert time.monotonic() < until, daemon.tail()
            time.sleep(0.05)
    finally:
        daemon.stop()
    assert daemon.process() is None
    assert new.not_valid_before_utc <= datetime.now(UTC) < new.not_valid_after_utc
    assert young.read_bytes() == kept
    assert "renewed worker" in daemon.tail()


async def test_a_postgres_of_theirs_gets_the_same_databases_and_roles(tmp_path):
    """Given a URL of someone who may create roles and databases, not a superuser; twice changes nothing."""
    theirs = EmbeddedPostgres(tmp_path / "theirs")
    try:
        theirs.start()
        theirs.execute("CREATE ROLE provider LOGIN CREATEDB CREATEROLE PASSWORD 'made-up';")
        url = theirs.superuser_dsn().replace(f"postgres:{theirs.password('postgres')}@", "provider:made-up@")
        external = ExternalPostgres(url, passwords=Passwords(tmp_path / "secret"), identities=tmp_path / "ids")
        for _ in range(2):
            # In a thread of its own no loop is running, as at the command line.
            await asyncio.to_thread(external.ensure, {"theirs_0": ("service",), "theirs_1": ("service",)})
        assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
        owner = await asyncpg.connect(external.dsn("theirs_1"))
        await owner.execute("CREATE TABLE things ()")
        await owner.close()
        service = await asyncpg.connect(external.dsn("theirs_1", "service"))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service.execute("CREATE TABLE planted ()")
        await service.close()
    finally:
        theirs.remove()


def test_the_url_of_a_postgres_of_theirs_keeps_its_tls_and_names_each_roles_certificate(tmp_path):
    """Parameters hold for the services too, with the role put in; what cannot be reached is told without the password."""
    url = "postgresql://admin:hush@db.test:5433/postgres?sslmode=verify-full&sslrootcert=/ca.crt&sslcert=/{role}.crt"
    external = ExternalPostgres(url, passwords=Passwords(tmp_path / "secret"), identities=tmp_path / "ids")
    dsn = external.dsn("users_0", "auth")
    assert dsn.startswith("postgresql://auth:")
    assert dsn.endswith("@db.test:5433/users_0?sslmode=verify-full&sslrootcert=/ca.crt&sslcert=/auth.crt")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = ExternalPostgres(
            f"postgresql://admin:hush@127.0.0.1:{unused.getsockname()[1]}/postgres",
            passwords=Passwords(tmp_path / "secret"),
            identities=tmp_path / "ids",
        )
        with pytest.raises(LocalError) as refusal:
            nobody.ensure({"users_0": ("auth",)})
    assert "ALMAGEST_POSTGRES_URL" in str(refusal.value)
    assert "hush" not in str(refusal.value)
    with pytest.raises(LocalError, match="must look like"):
        ExternalPostgres("mysql://db", passwords=Passwords(tmp_path / "secret"), identities=tmp_path / "ids")
