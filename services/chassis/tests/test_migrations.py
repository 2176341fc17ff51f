"""The Alembic runner against real Postgres."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from chassis.database.migrations import MigrationError, downgrade, upgrade
from chassis.database.restoring import MARK

PACKAGE = "sample_migrations"

ENVIRONMENT = "from chassis.database.migrations import run_environment\nrun_environment()\n"
FIRST = """
from alembic import op
from chassis.database.migrations import service_role
revision = "0001"
down_revision = None

def upgrade():
    op.execute("create table migrated (n int)")
    # Long enough for two processes to meet here, were it not for the lock.
    op.execute("select pg_sleep(0.3)")
    op.execute(f"grant select on migrated to {service_role()}")

def downgrade():
    op.execute("drop table migrated")
"""
SECOND = """
from alembic import op
revision = "0002"
down_revision = "0001"

def upgrade():
    op.execute("alter table migrated add column m int")

def downgrade():
    op.execute("alter table migrated drop column m")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    versions = tmp_path / PACKAGE / "versions"
    versions.mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").write_text("")
    (tmp_path / PACKAGE / "env.py").write_text(ENVIRONMENT)
    (versions / "0001_first.py").write_text(FIRST)
    (versions / "0002_second.py").write_text(SECOND)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def dsns(postgres: Any) -> Iterator[list[str]]:
    created = [postgres.create_database("event_store") for _ in range(2)]
    yield created
    for dsn in created:
        postgres.drop_database(dsn)


async def _columns(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch(
        "select column_name from information_schema.columns where table_name = 'migrated' order by 1"
    )
    await connection.close()
    return [row[0] for row in rows]


async def test_every_shard_goes_up_and_down(package: Path, dsns: list[str], postgres: Any) -> None:
    """Up to the head, down to a revision, up again; the service's role gets what the migration grants."""
    await upgrade(PACKAGE, dsns, "event_store")
    assert [await _columns(dsn) for dsn in dsns] == [["m", "n"]] * 2
    service = await asyncpg.connect(postgres.service_dsn(dsns[0], "event_store"))
    assert await service.fetchval("select count(*) from migrated") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.execute("insert into migrated values (1)")
    await service.close()
    await downgrade(PACKAGE, dsns, "event_store", "0001")
    assert [await _columns(dsn) for dsn in dsns] == [["n"]] * 2
    await downgrade(PACKAGE, dsns, "event_store", "base")
    await upgrade(PACKAGE, dsns, "event_store")
    assert [await _columns(dsn) for dsn in dsns] == [["m", "n"]] * 2


async def test_an_earlier_release_leaves_what_a_later_one_has_migrated(package: Path, dsns: list[str]) -> None:
    """To go back to it is to start it: its own migrations find nothing to do, and take nothing away."""
    await upgrade(PACKAGE, dsns, "event_store")
    (package / PACKAGE / "versions" / "0002_second.py").unlink()
    await upgrade(PACKAGE, dsns, "event_store")
    assert [await _columns(dsn) for dsn in dsns] == [["m", "n"], ["m", "n"]]


async def test_two_processes_at_once_migrate_each_database_once(package: Path, dsns: list[str]) -> None:
    """One works, the other waits and finds it done; neither fails. Over two databases, in opposite order."""
    code = (
        "import asyncio, sys; from chassis.database.migrations import upgrade; "
        f"asyncio.run(upgrade('{PACKAGE}', sys.argv[1:], 'event_store'))"
    )

    async def process(order: list[str]) -> tuple[int, str]:
        started = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            *order,
            env={**os.environ, "PYTHONPATH": str(package)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await started.communicate()
        return started.returncode or 0, output.decode()

    outcomes = await asyncio.gather(process(dsns), process(dsns[::-1]))
    assert [status for status, _ in outcomes] == [0, 0], outcomes
    assert [await _columns(dsn) for dsn in dsns] == [["m", "n"]] * 2


async def test_a_failing_migration_leaves_its_database_as_it_was(package: Path, dsns: list[str]) -> None:
    """Each migration is one transaction, and the lock is given back."""
    broken = package / PACKAGE / "versions" / "0003_broken.py"
    broken.write_text(
        'from alembic import op\nrevision = "0003"\ndown_revision = "0002"\n'
        "def upgrade():\n    op.execute('alter table migrated add column o int')\n    op.execute('select 1/0')\n"
        "def downgrade():\n    pass\n"
    )
    with pytest.raises(Exception, match="division by zero"):
        await upgrade(PACKAGE, dsns[:1], "event_store")
    assert await _columns(dsns[0]) == ["m", "n"]
    broken.unlink()
    async with asyncio.timeout(10):
        await upgrade(PACKAGE, dsns[:1], "event_store")


async def test_a_migration_gives_way_to_those_who_use_its_table(package: Path, dsns: list[str]) -> None:
    """While somebody's long transaction keeps it from a table, nobody queues behind it; it gets through afterwards."""
    await upgrade(PACKAGE, dsns[:1], "event_store", "0001")
    holder, user = [await asyncpg.connect(dsns[0]) for _ in range(2)]
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("insert into migrated values (1)")
        migrating = asyncio.create_task(upgrade(PACKAGE, dsns[:1], "event_store"))
        # Far more than a migration waits for a lock, far less than it has patience.
        await user.execute("set statement_timeout = '2s'")
        async with asyncio.timeout(30):
            while not await user.fetchval(
                "select exists (select from pg_stat_activity where datname = current_database()"
                " and application_name = 'almagest migrate' and query ilike 'alter table%')"
            ):
                await user.execute("insert into migrated values (2)")
        for number in range(20):
            await user.execute("insert into migrated values ($1)", number)
        assert not migrating.done()
        await transaction.commit()
        await migrating
        assert await _columns(dsns[0]) == ["m", "n"]
    finally:
        await holder.close()
        await user.close()


async def test_who_is_in_the_way_for_too_long_is_named(
    package: Path, dsns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says whose process uses which table, and the database is as it was."""
    monkeypatch.setattr("chassis.database.migrations._PATIENCE_SECONDS", 0.0)
    await upgrade(PACKAGE, dsns[:1], "event_store", "0001")
    holder = await asyncpg.connect(dsns[0])
    try:
        async with holder.transaction():
            await holder.execute("insert into migrated values (1)")
            with pytest.raises(
                MigrationError, match=rf"process {holder.get_server_pid()} of almagest_owner, in migrated"
            ):
                await upgrade(PACKAGE, dsns[:1], "event_store")
        await upgrade(PACKAGE, dsns[:1], "event_store")
    finally:
        await holder.close()


async def test_a_database_that_is_being_restored_is_not_migrated(package: Path, dsns: list[str], postgres: Any) -> None:
    """What looks whole before it is would be served."""
    name = dsns[0].partition("?")[0].rpartition("/")[2]
    postgres.execute(f"comment on database {name} is '{MARK} (backup 1)'")
    with pytest.raises(MigrationError, match=r"backup 1.*almagest backup restore"):
        await upgrade(PACKAGE, dsns[:1], "event_store")
    postgres.execute(f"comment on database {name} is 'anything else'")
    await upgrade(PACKAGE, dsns[:1], "event_store")


async def test_what_cannot_work_is_said(package: Path, dsns: list[str]) -> None:
    """A role that does not exist and a database that does not come up are named."""
    with pytest.raises(MigrationError, match="nobody_at_all"):
        await upgrade(PACKAGE, dsns, "nobody_at_all")
    with pytest.raises(MigrationError, match="did not come up"):
        await upgrade(PACKAGE, ["postgresql://x@127.0.0.1:1/x"], "event_store", wait=0.1)
    with pytest.raises(MigrationError, match="no package"):
        await upgrade("not_there", dsns, "event_store")
