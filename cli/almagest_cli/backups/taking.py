"""Making a backup while the system runs: one moment of each database, in an order in which they fit each other.

Who follows the log must not know more than the log does. So what follows it (the users, whose audit goes there; the
jobs; the read side) is looked at first, and the shards of the log last: restored, each finds what it knows of in the
log, and catches up with the rest. The shards agree with each other as long as no buckets move; so none may be moving
while they are looked at.

A snapshot is opened in each database at the beginning, and `pg_dump` reads by it, however long that takes.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from almagest_cli.backups.manifest import EVENTS, ArchiveFile, DatabaseFile, Manifest, sha256_of
from almagest_cli.backups.programs import PostgresPrograms
from almagest_cli.local.errors import LocalError

Report = Callable[[str, int], None]
"""Called with the name of what was copied, and its bytes."""

_CONNECT_SECONDS = 15
_MOVES = "SELECT coalesce(max(number), 0), count(*) FILTER (WHERE ended_at IS NULL) FROM moves"
_HEAD = "SELECT position, encode(hash, 'hex') FROM head"
_ARCHIVES = "SELECT name, bytes, encode(sha256, 'hex') FROM archives ORDER BY first"
_REVISION = "SELECT version_num FROM alembic_version"
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Source:
    """A database to back up: its name, the service that owns it, and its DSN as the owner."""

    name: str
    module: str
    dsn: str

    @property
    def is_log(self) -> bool:
        """Whether it is a shard of the log."""
        return self.name.startswith(f"{EVENTS}_")


@dataclass(frozen=True)
class _Moment:
    source: Source
    snapshot: str
    revision: str
    position: int | None
    hash: str | None
    archives: tuple[ArchiveFile, ...]
    server: str


async def take(
    sources: Sequence[Source],
    directory: Path,
    *,
    programs: PostgresPrograms,
    archives: Path,
    key_id: str,
    report: Report,
) -> Manifest:
    """Make a backup in a new or empty directory.

    Raises:
        LocalError: It cannot be made; what is in the directory then is no backup.
    """
    await asyncio.to_thread(_begin, directory)
    databases: list[DatabaseFile] = []
    files: list[ArchiveFile] = []
    try:
        async with _moments(sources) as moments:
            made_at = datetime.now(UTC).isoformat()
            for source in sources:
                moment = moments[source.name]
                databases.append(await asyncio.to_thread(_dump, moment, directory, programs))
                report(source.name, databases[-1].bytes)
                files.extend(moment.archives)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise LocalError(f"A database cannot be read: {error}.") from error
    for one in files:
        await asyncio.to_thread(_copy, archives, one, directory)
        report(one.file, one.bytes)
    manifest = Manifest(
        backup_id=str(uuid4()),
        made_at=made_at,
        server=next(iter(moments.values())).server,
        key_id=key_id,
        databases=tuple(databases),
        archives=tuple(files),
    )
    await asyncio.to_thread(_sync, directory)
    manifest.write(directory)
    return manifest


def _begin(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(directory.iterdir()):
        raise LocalError(f"{directory} is not empty. A backup is a directory of its own: name another one.")


@asynccontextmanager
async def _moments(sources: Sequence[Source]) -> AsyncGenerator[Mapping[str, _Moment]]:
    """A snapshot of each database, which holds for as long as the block lasts: those of the log after all others."""
    async with AsyncExitStack() as stack:
        connections: dict[str, Any] = {}
        for source in sources:
            connections[source.name] = await asyncpg.connect(
                source.dsn, timeout=_CONNECT_SECONDS, server_settings={"application_name": "almagest backup"}
            )
            stack.push_async_callback(connections[source.name].close, timeout=10)
        first = next(source.name for source in sources if source.is_log)
        # As they are now, not as they are in a snapshot.
        before = await _moves(connections[first])
        moments: dict[str, _Moment] = {}
        for source in sorted(sources, key=lambda source: source.is_log):
            moments[source.name] = await _moment(source, connections[source.name])
        witness = await asyncpg.connect(next(s.dsn for s in sources if s.name == first), timeout=_CONNECT_SECONDS)
        try:
            if await _moves(witness) != before:
                raise LocalError("Buckets of the log were moved at this very moment. Nothing was made; try again.")
        finally:
            await witness.close(timeout=10)
        yield moments


async def _moves(connection: Any) -> int:
    last, under_way = await connection.fetchrow(_MOVES)
    if under_way:
        raise LocalError(
            "Buckets of the log are being moved (`almagest log moves`), and shards that are looked at one after the "
            "other would not fit. Wait until that has ended, or end it: `almagest log cancel-move`."
        )
    return int(last)


async def _moment(source: Source, connection: Any) -> _Moment:
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
    revision = await connection.fetchval(_REVISION)
    position, chain, archives = None, None, ()
    if source.is_log:
        position, chain = await connection.fetchrow(_HEAD)
        shard = int(source.name.rpartition("_")[2])
        archives = tuple(ArchiveFile(shard, *row) for row in await connection.fetch(_ARCHIVES))
    server = ".".join(map(str, connection.get_server_version()[:2]))
    return _Moment(source, str(snapshot), str(revision), position, chain, archives, server)


def _dump(moment: _Moment, directory: Path, programs: PostgresPrograms) -> DatabaseFile:
    file = f"{moment.source.name}.dump"
    path = directory / file
    programs.dump(moment.source.dsn, snapshot=moment.snapshot, file=path)
    path.chmod(0o600)
    return DatabaseFile(
        name=moment.source.name,
        module=moment.source.module,
        file=file,
        bytes=path.stat().st_size,
        sha256=sha256_of(path),
        revision=moment.revision,
        position=moment.position,
        hash=moment.hash,
    )


def _copy(archives: Path, one: ArchiveFile, directory: Path) -> None:
    """Copy a file of old events, and see that it is the one that the log knows."""
    source, target = archives / f"shard-{one.shard}" / one.name, directory / one.file
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest = hashlib.sha256()
    try:
        with source.open("rb") as read, target.open("xb") as written:
            target.chmod(0o600)
            while piece := read.read(_CHUNK):
                digest.update(piece)
                written.write(piece)
            os.fsync(written.fileno())
    except OSError as error:
        raise LocalError(f"The archive {source} cannot be copied: {error.strerror}.") from error
    if digest.hexdigest() != one.sha256:
        raise LocalError(
            f"The archive {source} is not the file that the log wrote: its sha256 is another one. "
            "`almagest log verify` says the same. Take it from an earlier backup."
        )


def _sync(directory: Path) -> None:
    """See to it that the files are on the disk before the manifest says so."""
    for path in directory.glob("*.dump"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
