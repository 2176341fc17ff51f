"""The embedded servers, as real processes."""

import asyncio
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from almagest_cli.local import accounts
from almagest_cli.local.daemons import Daemon
from almagest_cli.local.errors import LocalError, ProcessDiedError
from almagest_cli.local.postgres import EmbeddedPostgres
from almagest_cli.local.valkey import EmbeddedValkey
from redis.asyncio import Redis


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[EmbeddedPostgres]:
    # A path with a blank, and too long for a socket.
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("state") / f"a blank and {'x' * 80}" / "postgres")
    try:
        postgres.start()
        yield postgres
    finally:
        postgres.remove()


async def test_databases_and_roles_are_made_once_and_kept(server):
    """Ensuring the same databases again neither fails nor changes a password."""
    server.ensure({"first_0": ("reader",), "first_1": ("reader",)})
    before = server.dsn("first_0", "reader")
    server.ensure({"first_0": ("reader",), "first_1": ("reader",)})
    connection = await asyncpg.connect(before)
    assert await connection.fetchval("SELECT current_user || '@' || current_database()") == "reader@first_0"
    await connection.close()
    assert server.dsn("first_0", "reader") == before


async def test_a_role_enters_only_its_own_database_and_only_with_its_password(server):
    """A service's role is kept out of the databases of others, creates nothing in its own, and needs its password."""
    server.ensure({"mine": ("me",), "theirs": ("them",)})
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(server.dsn("theirs", "me"))
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.dsn("mine", "me").replace(server.password("me"), server.password("them")))
    connection = await asyncpg.connect(server.dsn("mine", "me"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("CREATE TABLE public.planted ()")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("CREATE SCHEMA planted")
    await connection.close()


async def test_the_server_flushes_to_disk_folds_unicode_and_opens_no_port(server):
    """The default is durable, knows the case of more than ASCII, and is reached by its private socket only."""
    connection = await asyncpg.connect(server.superuser_dsn())
    assert await connection.fetchval("SHOW fsync") == "on"
    assert await connection.fetchval("SHOW synchronous_commit") == "on"
    assert await connection.fetchval("SHOW listen_addresses") == ""
    assert await connection.fetchval("SELECT lower('ŠKODA ÉTÉ')") == "škoda été"
    await connection.close()
    assert stat.S_IMODE(server.socket_directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.directory / "secret").stat().st_mode) == 0o600


async def test_what_was_committed_survives_kill_minus_nine_of_the_server(server):
    """After SIGKILL the server starts again with every committed row."""
    server.ensure({"durable": ()})
    connection = await asyncpg.connect(server.dsn("durable"))
    await connection.execute("CREATE TABLE facts (fact int)")
    await connection.executemany("INSERT INTO facts VALUES ($1)", [(number,) for number in range(100)])
    server.kill()
    connection.terminate()
    assert server.daemon.pid is None
    server.start()
    connection = await asyncpg.connect(server.dsn("durable"))
    assert await connection.fetchval("SELECT count(*) FROM facts") == 100
    await connection.close()


def test_starting_twice_keeps_the_one_server(server):
    """A second start, also by another object over the same directory, finds the server that runs."""
    pid = server.daemon.pid
    EmbeddedPostgres(server.directory).start()
    assert pid is not None
    assert server.daemon.pid == pid


def test_a_script_that_fails_says_why(server):
    """Errors of the server come back in its own words."""
    with pytest.raises(LocalError, match='relation "nowhere" does not exist'):
        server.execute("SELECT * FROM nowhere;")


def test_a_server_that_dies_at_start_is_told_with_its_log(tmp_path):
    """A broken cluster gives an error that quotes the log, and leaves nothing running."""
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    try:
        postgres.start()
        postgres.stop()
        (postgres.data / "global" / "pg_control").unlink()
        with pytest.raises(ProcessDiedError, match="could not open file"):
            postgres.start()
        assert postgres.daemon.pid is None
    finally:
        postgres.remove()
    assert not postgres.data.exists()
    assert not postgres.directory.exists()


async def test_valkey_keeps_what_it_was_given_over_a_restart_and_a_crash(tmp_path):
    """Valkey asks for its password, and has its data after a stop and after SIGKILL."""
    valkey = EmbeddedValkey(tmp_path / "valkey")
    try:
        valkey.start()
        async with Redis.from_url(valkey.url) as redis:
            await redis.set("kept", "yes")
        valkey.stop()
        assert valkey.daemon.pid is None
        valkey.start()
        async with Redis.from_url(valkey.url) as redis:
            assert await redis.get("kept") == b"yes"
            await redis.xadd("doorbell", {"job": "1"})
            async with asyncio.timeout(10):
                while (await redis.info("persistence"))["aof_pending_bio_fsync"] or not await redis.waitaof(1, 0, 5000):
                    pass
        valkey.kill()
        valkey.start()
        async with Redis.from_url(valkey.url) as redis:
            assert await redis.xlen("doorbell") == 1
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(valkey.socket))
            stranger.sendall(b"GET kept\r\n")
            assert stranger.recv(100).startswith(b"-NOAUTH")
    finally:
        valkey.remove()
    assert not valkey.directory.exists()


def test_a_pid_file_of_another_time_kills_no_stranger(tmp_path):
    """A pid that now belongs to someone else is not ours: not seen as running, not stopped."""
    own = Daemon("own", pid_file=tmp_path / "pid", log_file=tmp_path / "log")
    own.start(["sleep", "60"], environment={"PATH": os.defpath})
    pid = own.pid
    assert pid is not None
    try:
        stale = Daemon("stale", pid_file=tmp_path / "stale", log_file=tmp_path / "log")
        stale.pid_file.write_text(f'{{"pid": {pid}, "birth": "1"}}')
        assert stale.pid is None
        stale.kill()
        stale.stop()
        assert own.pid == pid
    finally:
        own.kill()
    assert own.pid is None


def test_logs_are_rotated_at_start(tmp_path):
    """Each start begins a new log and keeps the one before."""
    daemon = Daemon("echo", pid_file=tmp_path / "pid", log_file=tmp_path / "logs" / "echo.log")
    for word in ("first", "second"):
        daemon.start(["echo", word], environment={"PATH": os.defpath})
        assert daemon.wait(60)
    assert daemon.tail() == "second"
    assert Path(f"{daemon.log_file}.1").read_text() == "first\n"


def test_a_server_whose_account_cannot_reach_our_files_keeps_its_data_elsewhere(tmp_path):
    """Started as root below a directory that only root enters, the data stands under /var/tmp; an ordinary user keeps it in place."""
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    account = accounts.server_account()
    assert (account is None) == (os.geteuid() != 0)
    home = accounts.server_home(hidden / "postgres", account)
    try:
        assert home.parent == (hidden if account is None else Path("/var/tmp"))  # noqa: S108 - where it is by design
        assert home == accounts.server_home(hidden / "postgres", account)
    finally:
        accounts.remove(hidden / "postgres")
    assert not home.exists()


def test_programs_that_the_account_cannot_reach_are_copied(tmp_path):
    """Programs below a directory that only root enters are run from a copy; those within reach from where they are."""
    account = accounts.server_account()
    hidden = tmp_path / "hidden" / "bin"
    hidden.mkdir(parents=True)
    program = hidden / "program"
    program.write_text("#!/bin/sh\necho version 1\n")
    program.chmod(0o755)
    (tmp_path / "hidden").chmod(0o700)
    tree = accounts.reachable_tree(tmp_path / "hidden", ("bin",), "bin/program", account)
    assert (tree == tmp_path / "hidden") == (account is None)
    assert (tree / "bin" / "program").read_text() == program.read_text()
    if tree != tmp_path / "hidden":
        shutil.rmtree(tree)
    assert accounts.reachable_tree(Path("/"), ("bin",), "bin/ls", account) == Path("/")


def test_a_stand_in_that_others_made_is_refused(tmp_path, monkeypatch):
    """A directory under /var/tmp with the right name but not private to us is not used."""
    monkeypatch.setattr(accounts, "_SPARE", tmp_path)
    planted = accounts.stand_in(tmp_path / "state")
    planted.chmod(0o777)
    with pytest.raises(LocalError, match="belongs to someone else"):
        accounts.stand_in(tmp_path / "state")
    planted.rmdir()
    planted.symlink_to(tmp_path)
    with pytest.raises(LocalError, match="belongs to someone else"):
        accounts.stand_in(tmp_path / "state")
