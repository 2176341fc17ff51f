"""Alembic over every shard of a service, one process at a time.

A service's `migrations/env.py` is two lines:

    from chassis.database.migrations import run_environment
    run_environment(metadata)

Several processes may start a migration at once, as pods do: an advisory lock per database lets one work and the others
find it done.

A migration whose statement waits for a table holds up everybody who comes to that table after it, also those who would
only read: they queue behind it. So it waits for a fortieth of a second at most, gives way, and comes again; a revision
is one transaction, hence it was not there at all. What was in its way is named when it never gets through.

A database into which a backup is being restored (`almagest backup restore`) is not migrated, and so not served: it
would look whole before it is.
"""

import asyncio
import importlib.util
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from alembic import command, context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, NullPool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from chassis.database.connection import LOST, connect
from chassis.database.restoring import COMMENT, is_open

_LOCK = 0x616C6D616765  # "almage"
_LOCK_SECONDS = 300.0
_STATEMENT_SECONDS = 600.0
_WAIT_SECONDS = 60.0
_ATTEMPT_SECONDS = 0.25
LOCK_TIMEOUT: Final = "25ms"
"""How long a migration waits for a lock before it gives way; who comes later waits as long."""
_GIVE_WAY_SECONDS: Final = (0.1, 5.0)
"""The first and the longest pause after a lock that was not to be had."""
_PATIENCE_SECONDS: Final = 120.0
"""How long a database's locks are tried for."""
_NOT_TO_BE_HAD: Final = frozenset({"55P03", "40P01"})
"""A lock in time; a lock at all, without a deadlock."""

_logger = structlog.stdlib.get_logger(__name__)


class MigrationError(Exception):
    """A database cannot be brought to a revision."""


async def upgrade(
    package: str,
    dsns: Sequence[str],
    service_role: str,
    revision: str = "head",
    *,
    wait: float = _WAIT_SECONDS,
) -> None:
    """Bring every shard up to a revision, one after another, waiting up to `wait` seconds for one that is not up yet.

    One that a later release has migrated stays as it is: releases can work with the tables of the next one, and whoever
    goes back to an earlier one migrates as ever.

    Args:
        package: The package of the migrations, for example `event_store.migrations`.
        dsns: The shards, as their owner.
        service_role: The role that the migrations grant access to.
        revision: The revision to go up to.
        wait: Seconds to wait for a database.

    Raises:
        MigrationError: A database does not come up, or the role does not exist.
    """
    await _each(package, dsns, service_role, wait, lambda config: _up(config, revision))


async def downgrade(
    package: str,
    dsns: Sequence[str],
    service_role: str,
    revision: str,
    *,
    wait: float = _WAIT_SECONDS,
) -> None:
    """Bring every shard down to a revision; arguments and errors as for `upgrade`."""
    await _each(package, dsns, service_role, wait, lambda config: command.downgrade(config, revision))


def configuration(package: str, service_role: str = "") -> Config:
    """Alembic's configuration of a package of migrations."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MigrationError(f"there is no package {package}")
    config = Config()
    config.set_main_option("script_location", str(next(iter(spec.submodule_search_locations))))
    config.set_main_option("path_separator", "os")
    config.attributes["service_role"] = service_role
    return config


async def _each(
    package: str, dsns: Sequence[str], service_role: str, wait: float, step: Callable[[Config], None]
) -> None:
    # One after another: Alembic keeps its context in module globals.
    for shard, dsn in enumerate(dsns):
        engine = _engine(dsn, wait)
        try:
            async with engine.connect() as connection:
                raw: Any = (await connection.get_raw_connection()).driver_connection
                await _lock(raw)
                try:
                    await _require_whole(raw)
                    await _require_role(raw, service_role)
                    await _giving_way(connection, raw, configuration(package, service_role), step)
                finally:
                    await raw.execute("select pg_advisory_unlock($1)", _LOCK)
        finally:
            await engine.dispose()
        _logger.info("migrated", package=package, shard=shard)


def _up(config: Config, revision: str) -> None:
    script = ScriptDirectory.from_config(config)
    known = {one.revision for one in script.walk_revisions()}
    connection: Connection = config.attributes["connection"]
    later = set(MigrationContext.configure(connection).get_current_heads()) - known
    # Each migration is a transaction of its own, which it is not within this one.
    connection.rollback()
    if later:
        _logger.warning("a later release has migrated this database", revision=", ".join(sorted(later)))
    else:
        command.upgrade(config, revision)


async def _giving_way(connection: Any, raw: Any, config: Config, step: Callable[[Config], None]) -> None:
    """Migrate; whenever a lock is not to be had at once, let those through who wait behind, and go on."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE_SECONDS
    pause, longest = _GIVE_WAY_SECONDS
    while True:
        try:
            await connection.run_sync(_with_connection, config, step)
            await connection.commit()
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _NOT_TO_BE_HAD:
                raise
            await connection.rollback()
            if loop.time() >= deadline:
                raise MigrationError(
                    f"a lock was not to be had within {_PATIENCE_SECONDS:g} seconds, of which nobody was kept waiting "
                    f"for more than {LOCK_TIMEOUT} at a time; in its way: {await _in_the_way(raw)}"
                ) from error
            _logger.info("gave way to those who use the tables", problem=str(error.orig))
        else:
            return
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that two do not meet for ever
        pause = min(2 * pause, longest)


async def _in_the_way(raw: Any) -> str:
    """Who uses tables of this database at the moment, for a message. What they run is not for every role to see."""
    holders = await raw.fetch(
        "select l.pid, a.usename, string_agg(distinct l.relation::regclass::text, ', ') as tables"
        " from pg_locks l join pg_stat_activity a using (pid)"
        " where l.locktype = 'relation' and l.granted and l.pid <> pg_backend_pid() and l.relation >= 16384"
        " and l.database = (select oid from pg_database where datname = current_database())"
        " group by l.pid, a.usename order by l.pid limit 5"
    )
    return "; ".join(f"process {pid} of {user}, in {tables}" for pid, user, tables in holders) or "nobody any more"


def _with_connection(connection: Connection, config: Config, step: Callable[[Config], None]) -> None:
    config.attributes["connection"] = connection
    step(config)


async def _lock(raw: Any) -> None:
    try:
        async with asyncio.timeout(_LOCK_SECONDS):
            await raw.execute("select pg_advisory_lock($1)", _LOCK)
    except TimeoutError as error:
        raise MigrationError("another process has been migrating this database for too long") from error
    # From here on: rather come again than hold up the services that use the tables.
    await raw.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")


async def _require_whole(raw: Any) -> None:
    comment = await raw.fetchval(COMMENT)
    if not is_open(comment):
        raise MigrationError(
            f"{comment}; it has not come to its end: give the same `almagest backup restore` again, or drop the"
            " database"
        )


async def _require_role(raw: Any, service_role: str) -> None:
    if service_role and not await raw.fetchval("select true from pg_roles where rolname = $1", service_role):
        raise MigrationError(f"the role {service_role} does not exist; create it before migrating")


def _engine(dsn: str, wait: float) -> AsyncEngine:
    async def creator(*_arguments: Any, **_options: Any) -> Any:
        return await _patiently(dsn, wait)

    return create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)


async def _patiently(dsn: str, wait: float) -> Any:
    """Connect, trying again for `wait` seconds while the server is not there or still starting."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    while True:
        try:
            return await connect(dsn, application_name="almagest migrate", statement_seconds=_STATEMENT_SECONDS)
        except (OSError, *LOST) as error:
            if loop.time() >= deadline:
                raise MigrationError(f"the database did not come up within {wait:g} seconds") from error
            _logger.info("waiting for the database", problem=str(error))
        await asyncio.sleep(_ATTEMPT_SECONDS)


def service_role() -> str:
    """The role to grant access to, quoted for SQL: what migrations put after `grant ... to`.

    Raises:
        MigrationError: Nobody said which role.
    """
    role = context.config.attributes.get("service_role") or context.get_x_argument(as_dictionary=True).get(
        "service_role"
    )
    if not role:
        raise MigrationError("which role to grant access to is not known; give -x service_role=...")
    return '"' + str(role).replace('"', '""') + '"'


def run_environment(metadata: MetaData | None = None, **options: Any) -> None:
    """What `env.py` does: run the migrations on the connection that is given, or on `-x dsn=...` when Alembic is called
    by hand.
    """
    given = context.config.attributes.get("connection")
    if isinstance(given, Connection):
        _run(given, metadata, options)
    elif isinstance(given, Engine):
        with given.connect() as connection:
            _run(connection, metadata, options)
            connection.commit()
    elif isinstance(given, AsyncEngine):
        asyncio.run(_run_async(given, metadata, options))
    else:
        dsn = context.get_x_argument(as_dictionary=True).get("dsn")
        if not dsn:
            raise MigrationError("which database to migrate is not known; give -x dsn=...")
        asyncio.run(_run_async(_engine(dsn, 0.0), metadata, options))


async def _run_async(engine: AsyncEngine, metadata: MetaData | None, options: dict[str, Any]) -> None:
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run, metadata, options)
            await connection.commit()
    finally:
        await engine.dispose()


def _run(connection: Connection, metadata: MetaData | None, options: dict[str, Any]) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        compare_server_default=True,
        **options,
    )
    with context.begin_transaction():
        context.run_migrations()
