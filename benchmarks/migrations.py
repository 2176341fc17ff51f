"""How long the newest migration of each tree holds up those who write meanwhile.

Eight writers use the tables that it changes, over as many connections, while it runs in a process of its own. What is
told is the longest wait for the migration that any of them was seen in (asked of `pg_locks` all the time), beside the
longest statement, which also has what the machine and the other writers did to it. Then the same while somebody's
transaction of three seconds is in the migration's way: as it is, and for comparison with a migration that waits for its
locks for as long as it takes.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import asyncpg
import uvloop
from alembic.script import ScriptDirectory
from almagest_cli.local.postgres import EmbeddedPostgres
from chassis.database.migrations import LOCK_TIMEOUT, configuration, upgrade
from chassis.telemetry.logging import configure_logging

WRITERS = 8
ROWS = 20_000
BEFORE_SECONDS = 2.0
IN_THE_WAY_SECONDS = 3.0

_MIGRATE = """
import asyncio, sys
from chassis.database import migrations
migrations.LOCK_TIMEOUT = sys.argv[4]
asyncio.run(migrations.upgrade(sys.argv[1], [sys.argv[2]], sys.argv[3]))
"""
_WAITING = """
    SELECT coalesce(extract(epoch FROM max(clock_timestamp() - l.waitstart)) * 1000, 0)::float
    FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
    WHERE NOT l.granted AND a.datname = current_database() AND a.application_name = 'writer' AND EXISTS (
        SELECT FROM unnest(pg_blocking_pids(l.pid)) AS b (pid) JOIN pg_stat_activity AS m USING (pid)
        WHERE m.application_name = 'almagest migrate'
    )
"""
"""Who waits for what the migration has, or behind what it waits for; writers wait for each other as well."""

_MIGRATING = """
    SELECT EXISTS (
        SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'almagest migrate'
    )
"""


class Tree(NamedTuple):
    """A service's migrations: what fills the tables before the newest one, what the writers do, and what is in the
    way of it. `$1` is an id of the writer's own.
    """

    package: str
    role: str
    fill: str
    writes: Sequence[str]
    in_the_way: str
    since: str = ""
    """The revision to begin at; nothing said: the one before the newest."""


_APPEND = """
    SELECT outcomes FROM append_batch(
        ARRAY[gen_random_uuid()], ARRAY[1], ARRAY[''::bytea], ARRAY[1], ARRAY['a-' || gen_random_uuid()],
        ARRAY[1::smallint], ARRAY['a'], ARRAY[1], ARRAY[-1::bigint], ARRAY[2], ARRAY[1, 1], ARRAY['t', 'u'],
        ARRAY[gen_random_uuid(), gen_random_uuid()], ARRAY['one'::bytea, 'two'::bytea], ARRAY[''::bytea, 'm'::bytea],
        '{}', '{}', '{}', '{}', '{}'
    ) WHERE $1::uuid IS NOT NULL
"""
_MOVE = """
    INSERT INTO moves (move_id, first_bucket, last_bucket, from_shard, to_shard, phase, epoch)
    VALUES ($1, 0, 7, 0, 1, 'done', (random() * 1e15)::bigint) ON CONFLICT DO NOTHING
"""
_SCHEDULE = """
    INSERT INTO schedules (schedule_id, product_id, published, effective_at, scheduled_by, scheduled_at, reason, state)
    SELECT {id}, gen_random_uuid(), true, now(), '', now(), '', 'open' {rows}
"""
_USER = """
    INSERT INTO users (id, sealed_email, sealed_first_name, sealed_last_name, roles, command_id, created_at,
        password_hash)
    SELECT {id}, '', '', '', '{{viewer}}', gen_random_uuid(), now(), '$argon2id$' {rows}
"""
_SESSION = """
    INSERT INTO sessions (id, user_id, token_hash, started_at, expires_at)
    SELECT gen_random_uuid(), $1, '', now(), now() WHERE EXISTS (SELECT FROM users WHERE id = $1)
"""
_JOB = """
    INSERT INTO jobs (job_id, type, name, state, submitted_by, command_id, fingerprint, traceparent, format, on_error,
        dry_run, reason, bytes_total)
    SELECT {id}, 'import', '', 'queued', '', gen_random_uuid(), '', '', 'csv', 'skip', false, '', 0 {rows}
"""
_MANY = f"FROM generate_series(1, {ROWS})"
_NEW = "gen_random_uuid()"

TREES = (
    Tree(
        "event_store.migrations",
        "event_store",
        "INSERT INTO moves (move_id, first_bucket, last_bucket, from_shard, to_shard, phase, epoch)"
        f" SELECT gen_random_uuid(), 0, 7, 0, 1, 'done', n FROM generate_series(1, {ROWS}) AS n",
        (_APPEND, _MOVE, "UPDATE moves SET copied_events = copied_events + 1 WHERE move_id = $1"),
        "UPDATE moves SET error = '' WHERE number = 1",
    ),
    Tree(
        "catalog_query.migrations",
        "catalog_query",
        _SCHEDULE.format(id=_NEW, rows=_MANY),
        (
            _SCHEDULE.format(id="$1::uuid", rows="ON CONFLICT DO NOTHING"),
            "UPDATE schedules SET failure = 'x' WHERE schedule_id = $1",
            "UPDATE checkpoints SET position = position + 1 WHERE owner = ($1::uuid)::text",
            "UPDATE projections SET switched_by = '' WHERE name = ($1::uuid)::text",
        ),
        "UPDATE projections SET switched_by = '' WHERE name = 'products'",
        since="0004",
    ),
    Tree(
        "auth.migrations",
        "auth",
        _USER.format(id=_NEW, rows=_MANY),
        (
            _USER.format(id="$1::uuid", rows="ON CONFLICT DO NOTHING"),
            "UPDATE users SET password_hash = '$argon2id$x' WHERE id = $1",
            _SESSION,
        ),
        "UPDATE users SET password_hash = '$argon2id$y' WHERE id IN (SELECT id FROM users LIMIT 1)",
    ),
    Tree(
        "worker.migrations",
        "worker",
        _JOB.format(id=_NEW, rows=_MANY),
        (
            _JOB.format(id="$1::uuid", rows="ON CONFLICT DO NOTHING"),
            "UPDATE jobs SET bytes_done = bytes_done + 1 WHERE job_id = $1",
        ),
        "UPDATE jobs SET bytes_done = 1 WHERE job_id IN (SELECT job_id FROM jobs LIMIT 1)",
    ),
)


class Seen(NamedTuple):
    """What the writers met while a migration ran."""

    seconds: float
    writes: int
    waited_ms: float
    statement_ms: float
    before_ms: float
    deadlocks: int


class Writers:
    """Eight who write, and one who looks whom they wait for."""

    def __init__(self, dsn: str, writes: Sequence[str]) -> None:
        self._dsn = dsn
        self._writes = writes
        self._stopping = False
        self.longest = self.waited = 0.0
        self.count = self.deadlocks = 0
        self.met = asyncio.Event()
        """Set when the migration has been seen."""

    async def run(self) -> None:
        """Write until stopped."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look())
            for _ in range(WRITERS):
                tasks.create_task(self._write())

    def again(self) -> None:
        """Begin to count."""
        self.longest = self.waited = 0.0
        self.count = self.deadlocks = 0

    def stop(self) -> None:
        """Let them end."""
        self._stopping = True

    async def _write(self) -> None:
        connection = await asyncpg.connect(self._dsn, server_settings={"application_name": "writer"})
        own = uuid4()
        while not self._stopping:
            for statement in self._writes:
                began = time.perf_counter()
                # A plan that the migration has made invalid is made anew, as in the services.
                try:
                    await connection.execute(statement, own)
                except asyncpg.InvalidCachedStatementError:
                    continue
                except asyncpg.DeadlockDetectedError:
                    self.deadlocks += 1
                self.longest = max(self.longest, (time.perf_counter() - began) * 1000)
                self.count += 1
        await connection.close()

    async def _look(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        while not self._stopping:
            self.waited = max(self.waited, await connection.fetchval(_WAITING))
            if not self.met.is_set() and await connection.fetchval(_MIGRATING):
                self.met.set()
            await asyncio.sleep(0.002)
        await connection.close()


def main() -> None:
    """Measure each tree, alone and with somebody in the way."""
    configure_logging("benchmark", "ERROR")
    with tempfile.TemporaryDirectory(prefix="almagest-migrations-") as directory:
        server = EmbeddedPostgres(Path(directory))
        try:
            server.start()
            uvloop.run(_measure(server))
        finally:
            server.remove()


async def _measure(server: EmbeddedPostgres) -> None:
    print(f"{WRITERS} writers, {ROWS} rows; milliseconds, the longest of all of them")
    titles = f"{'seconds':>9}{'writes':>9}{'lock wait':>11}{'statement':>11}{'before it':>11}{'deadlocks':>11}"
    print(f"{'newest migration':30}{titles}")
    for tree in TREES:
        scripts = ScriptDirectory.from_config(configuration(tree.package))
        newest = scripts.get_current_head() or ""
        before = tree.since or str(scripts.get_revision(newest).down_revision)
        name = f"{tree.package.partition('.')[0]} {before} to {newest}"
        _tell(name, await _one(server, tree, before))
        _tell("  3 s in the way", await _one(server, tree, before, in_the_way=True))
        _tell("  the same, waiting for it", await _one(server, tree, before, in_the_way=True, timeout="60s"))


def _tell(name: str, seen: Seen) -> None:
    print(
        f"{name:30}{seen.seconds:9.1f}{seen.writes:9}{seen.waited_ms:11.1f}{seen.statement_ms:11.1f}{seen.before_ms:11.1f}"
        f"{seen.deadlocks:11}",
        flush=True,
    )


async def _one(
    server: EmbeddedPostgres,
    tree: Tree,
    before: str,
    *,
    in_the_way: bool = False,
    timeout: str = LOCK_TIMEOUT,
) -> Seen:
    database = f"migrated_{uuid4().hex}"
    await asyncio.to_thread(server.ensure, {database: (tree.role,)})
    dsn = server.dsn(database)
    await upgrade(tree.package, [dsn], tree.role, before)
    blocker = await asyncpg.connect(dsn)
    await blocker.execute(tree.fill)
    writers = Writers(dsn, tree.writes)
    writing = asyncio.create_task(writers.run())
    try:
        await asyncio.sleep(BEFORE_SECONDS)
        undisturbed = writers.longest
        writers.again()
        began = time.monotonic()
        migrating = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _MIGRATE,
            tree.package,
            dsn,
            tree.role,
            timeout,
            env=dict(os.environ),
            stdout=-3,
            stderr=-1,
        )
        if in_the_way:
            async with blocker.transaction():
                await blocker.execute(tree.in_the_way)
                await writers.met.wait()
                await asyncio.sleep(IN_THE_WAY_SECONDS)
        _, said = await migrating.communicate()
        if migrating.returncode:
            raise RuntimeError(said.decode())
        seconds = time.monotonic() - began
        return Seen(seconds, writers.count, writers.waited, writers.longest, undisturbed, writers.deadlocks)
    finally:
        writers.stop()
        await writing
        await blocker.close()
        await asyncio.to_thread(server.administer, [f'DROP DATABASE "{database}" WITH (FORCE)'])
