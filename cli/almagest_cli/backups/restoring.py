"""Restoring a backup, such that half of it never looks like all of it.

Each database is marked before its first row comes: its comment says that a restore is under way, and the services'
migrations refuse such a one, so nothing is served from it (`chassis.database.restoring`). Each is filled by one
transaction. Only when all are there, and the chain of every shard of the log ends with the hash that the backup says,
the marks are taken away. Who was interrupted gives the same command again: what is marked is made anew. A file in the
state directory keeps `almagest up` from making what is missing in between.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from almagest_cli.backups.manifest import ArchiveFile, DatabaseFile, Manifest
from almagest_cli.backups.programs import PostgresPrograms
from almagest_cli.local.daemons import write_private
from almagest_cli.local.databases import Databases
from almagest_cli.local.errors import LocalError, ProcessDiedError
from almagest_cli.local.layout import AUTH, EVENT_STORE
from almagest_cli.local.maintenance import Maintenance

MARK = "almagest: a restore is under way"
"""As in `chassis.database.restoring`, which the services read it by."""
Step = Callable[[str], None]

_CONNECT_SECONDS = 15
_EMPTY = """
    SELECT NOT EXISTS (
        SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
    )
"""
_COMMENT = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
_FORGOTTEN = "SELECT user_id::text FROM erasures"
_TO_BE_PROJECTED = "catalog_"
_NOT_THERE = (asyncpg.InvalidCatalogNameError, asyncpg.InvalidAuthorizationSpecificationError)
"""No such database; or nobody yet who would own it."""


@dataclass(frozen=True)
class Wanted:
    """Which state is wanted: that of the backup, or an earlier one of the log.

    Attributes:
        positions: where to cut the log, as `SHARD:POSITION`.
        time: when to cut the shards that have no position; RFC 3339.
    """

    positions: tuple[str, ...] = ()
    time: str | None = None

    @property
    def earlier(self) -> bool:
        """Whether the log is cut."""
        return bool(self.positions or self.time)

    def arguments(self) -> list[str]:
        """Those of `python -m event_store cut`."""
        at = [word for one in self.positions for word in ("--at", one)]
        return ["cut", *at, *(["--time", self.time] if self.time else [])]


@dataclass
class Restored:
    """What was restored.

    Attributes:
        log: the last position and hash of each shard.
        replaced: what the databases before are called now.
        forgotten: people who were forgotten since the backup was made, and are back.
        redis_forgotten: whether Redis was ours to empty.
    """

    log: list[dict[str, Any]]
    replaced: dict[str, str] = field(default_factory=dict[str, str])
    forgotten: list[str] = field(default_factory=list[str])
    redis_forgotten: bool = False


@dataclass(frozen=True)
class Restore:
    """One restore: a checked backup in a directory, and the system that it goes into, whose services are down."""

    manifest: Manifest
    directory: Path
    maintenance: Maintenance
    databases: Databases
    programs: PostgresPrograms
    step: Step

    def run(self, wanted: Wanted, *, replace: bool) -> Restored:
        """Restore everything.

        Raises:
            LocalError: It cannot be; what is there then is marked, and not served.
        """
        restored = Restored(log=[])
        known = self._ever_forgotten() if replace else set[str]()
        restored.replaced = self._make_room(replace=replace)
        for number, one in enumerate(self.manifest.databases, 1):
            self.step(f"{one.name} ({number} of {len(self.manifest.databases)})")
            self.programs.restore(self.databases.dsn(one.name), file=self.directory / one.file)
        for archive in self.manifest.archives:
            self._put(archive)
        # What an earlier release backed up is brought to the form that this one knows; `up` does so with the rest.
        self._command(EVENT_STORE, "migrate")
        self.step("computing the chains of the log")
        restored.log = self._verified(self.manifest)
        if wanted.earlier:
            self.step("going back in the log")
            self._command(EVENT_STORE, *wanted.arguments())
            self._project_anew()
            restored.log = self._verified(None)
        self._command(AUTH, "migrate")
        self._command(AUTH, "restored", *(["--log-was-cut"] if wanted.earlier else []))
        restored.forgotten = sorted(known - self._forgotten())
        restored.redis_forgotten = self.maintenance.forget_redis()
        self._open()
        return restored

    def _make_room(self, *, replace: bool) -> dict[str, str]:
        """Empty, marked databases. Those that are there already are renamed, if they may be."""
        mark = f"{MARK} (backup {self.manifest.backup_id})"
        names = [one.name for one in self.manifest.databases]
        found = asyncio.run(self._found(names))
        begun = [name for name, (_, comment) in found.items() if comment is not None and comment.startswith(MARK)]
        full = [name for name, (empty, _) in found.items() if not empty and name not in begun]
        if full and not replace:
            raise LocalError(
                f"There is something already: {', '.join(full)}. With --replace it is kept under other names; "
                "nothing was done."
            )
        write_private(self.maintenance.system.places.restoring, self.manifest.backup_id.encode())
        stamp = datetime.now(UTC).strftime("%Y%m%dt%H%M%S")
        renamed = {name: f"{name}_before_{stamp}" for name in full}
        self.databases.administer(
            [
                *(f'DROP DATABASE "{name}" WITH (FORCE)' for name in begun),
                *(f'ALTER DATABASE "{name}" RENAME TO "{new}"' for name, new in renamed.items()),
            ]
        )
        if full and self.maintenance.archives.is_dir():
            self.maintenance.archives.rename(self.maintenance.archives.with_name(f"archives-before-{stamp}"))
        self.databases.ensure({one.name: (one.module,) for one in self.manifest.databases})
        asyncio.run(self._comment(names, mark))
        return renamed

    async def _found(self, names: Sequence[str]) -> Mapping[str, tuple[bool, str | None]]:
        """Which databases there are: whether each is empty, and its comment."""
        found: dict[str, tuple[bool, str | None]] = {}
        for name in names:
            try:
                connection = await asyncpg.connect(self.databases.dsn(name), timeout=_CONNECT_SECONDS)
            except _NOT_THERE:
                continue
            try:
                found[name] = (await connection.fetchval(_EMPTY), await connection.fetchval(_COMMENT))
            finally:
                await connection.close(timeout=10)
        return found

    async def _comment(self, names: Sequence[str], comment: str | None) -> None:
        text = "NULL" if comment is None else f"'{comment}'"
        for name in names:
            connection = await asyncpg.connect(self.databases.dsn(name), timeout=_CONNECT_SECONDS)
            try:
                await connection.execute(f'COMMENT ON DATABASE "{name}" IS {text}')
            finally:
                await connection.close(timeout=10)

    def _put(self, archive: ArchiveFile) -> None:
        """A file of old events, where the event store looks for it."""
        target = self.maintenance.archives / f"shard-{archive.shard}" / archive.name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = target.with_name(f"{archive.name}.restoring.partial")
        with (self.directory / archive.file).open("rb") as read, partial.open("wb") as written:
            partial.chmod(0o600)
            shutil.copyfileobj(read, written)
            written.flush()
            os.fsync(written.fileno())
        partial.replace(target)

    def _verified(self, manifest: Manifest | None) -> list[dict[str, Any]]:
        """How each shard of the log ends, its chain computed again; as the backup says, if that is given."""
        try:
            said = self._command(EVENT_STORE, "verify")
        except ProcessDiedError as error:
            raise LocalError(f"The log is not what was written: {error}") from error
        found: list[dict[str, Any]] = [orjson.loads(line) for line in said.splitlines() if line.startswith('{"shard"')]
        for one, database in zip(found, manifest.log if manifest else (), strict=manifest is not None):
            _compare(one, database)
        return [{"shard": one["shard"], "position": one["position"], "hash": one["hash"]} for one in found]

    def _project_anew(self) -> None:
        """The read side was ahead of what the log is now: it begins anew, from the first event, in empty databases."""
        modules = {one.name: one.module for one in self.manifest.databases if one.name.startswith(_TO_BE_PROJECTED)}
        self.databases.administer([f'DROP DATABASE "{name}"' for name in modules])
        self.databases.ensure({name: (module,) for name, module in modules.items()})

    def _forgotten(self) -> set[str]:
        """The people who were forgotten, by the databases of users that are there."""
        return asyncio.run(self._ask([one.name for one in self.manifest.databases if one.module == AUTH]))

    def _ever_forgotten(self) -> set[str]:
        """The same, by those as well that a restore has put aside: this one, when it was interrupted."""
        return asyncio.run(self._ask(asyncio.run(self._put_aside())))

    async def _put_aside(self) -> list[str]:
        names = [one.name for one in self.manifest.databases if one.module == AUTH]
        for name in names:
            with suppress(*_NOT_THERE):
                connection = await asyncpg.connect(self.databases.dsn(name), timeout=_CONNECT_SECONDS)
                try:
                    rows = await connection.fetch("SELECT datname FROM pg_database WHERE datname LIKE 'users\\_%'")
                finally:
                    await connection.close(timeout=10)
                return [str(row[0]) for row in rows]
        return names

    async def _ask(self, names: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for name in names:
            with suppress(*_NOT_THERE, asyncpg.UndefinedTableError):
                connection = await asyncpg.connect(self.databases.dsn(name), timeout=_CONNECT_SECONDS)
                try:
                    found.update(str(row[0]) for row in await connection.fetch(_FORGOTTEN))
                finally:
                    await connection.close(timeout=10)
        return found

    def _open(self) -> None:
        asyncio.run(self._comment([one.name for one in self.manifest.databases], None))
        self.maintenance.system.places.restoring.unlink()

    def _command(self, service: str, *arguments: str) -> str:
        return self.maintenance.run(
            service,
            *arguments,
            environment={"ALMAGEST_RESTORE": self.manifest.backup_id, "ALMAGEST_LOG_LEVEL": "ERROR"},
        )


def _compare(found: Mapping[str, Any], said: DatabaseFile) -> None:
    if (found["position"], found["hash"]) != (said.position, said.hash):
        raise LocalError(
            f"Shard {found['shard']} of the log ends at position {found['position']} with the hash {found['hash']}, "
            f"and the backup says position {said.position} with {said.hash}. It was changed on the way; nothing is "
            "served from it."
        )
