"""What a backup says of itself.

The manifest is written last and in one step: a directory without one is no backup, whatever lies in it. It names every
file with its size and SHA-256, so that one that is missing, cut short or changed is named before anything is restored;
and for each shard of the log the position and the hash that it ends with, so that what was restored can be proven to
be what was backed up. A digest of the manifest itself finds a changed byte in it; that somebody wrote another manifest
is found by the digest that `almagest backup make` prints, kept elsewhere.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from almagest_cli.local.daemons import write_private
from almagest_cli.local.errors import LocalError

FORMAT = 1
NAME = "manifest.json"
EVENTS = "events"


@dataclass(frozen=True)
class DatabaseFile:
    """One database.

    Attributes:
        name: of the database, such as `events_0`.
        module: of the service that owns it, which is also its role in Postgres.
        file: in the directory of the backup.
        bytes: of the file.
        sha256: of the file, in hexadecimal.
        revision: of its migrations.
        position: for a shard of the log, the last position in it; None for others.
        hash: of the event there, in hexadecimal.
    """

    name: str
    module: str
    file: str
    bytes: int
    sha256: str
    revision: str
    position: int | None = None
    hash: str | None = None

    @property
    def shard(self) -> int:
        """The number at the end of the name; 0 without one."""
        return int(self.name.rpartition("_")[2]) if "_" in self.name else 0


@dataclass(frozen=True)
class ArchiveFile:
    """A file of old events, as the log names it."""

    shard: int
    name: str
    bytes: int
    sha256: str

    @property
    def file(self) -> str:
        """In the directory of the backup, as in that of the archives."""
        return f"archives/shard-{self.shard}/{self.name}"


@dataclass(frozen=True)
class Manifest:
    """A backup.

    Attributes:
        backup_id: of its own.
        made_at: when the last shard of the log was looked at, in RFC 3339.
        server: the version of Postgres.
        key_id: of the key-encryption key without which names, addresses and keys in it cannot be read. The key itself
            is in no backup.
        databases: in the order of the services.
        archives: of all shards.
    """

    backup_id: str
    made_at: str
    server: str
    key_id: str
    databases: tuple[DatabaseFile, ...]
    archives: tuple[ArchiveFile, ...]

    @property
    def shards(self) -> int:
        """How many shards the log has."""
        return len(self.log)

    @property
    def log(self) -> tuple[DatabaseFile, ...]:
        """The shards of the log, in order."""
        shards = (one for one in self.databases if one.name.startswith(f"{EVENTS}_"))
        return tuple(sorted(shards, key=lambda one: one.shard))

    @property
    def digest(self) -> str:
        """SHA-256 over all that it says."""
        return hashlib.sha256(_encoded(self)).hexdigest()

    def write(self, directory: Path) -> None:
        """Make the directory a backup."""
        content = {"format": FORMAT, "sha256": self.digest, "backup": asdict(self)}
        write_private(directory / NAME, orjson.dumps(content, option=orjson.OPT_INDENT_2))

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """What the directory says of itself.

        Raises:
            LocalError: It is no backup, or none that can be trusted.
        """
        path = directory / NAME
        try:
            content: dict[str, Any] = orjson.loads(path.read_bytes())
            if content["format"] != FORMAT:
                raise LocalError(f"{path} is of format {content['format']}, which this release does not know.")
            said = content["backup"]
            manifest = cls(
                **{name: said[name] for name in ("backup_id", "made_at", "server", "key_id")},
                databases=tuple(DatabaseFile(**one) for one in said["databases"]),
                archives=tuple(ArchiveFile(**one) for one in said["archives"]),
            )
        except FileNotFoundError:
            raise LocalError(
                f"{directory} is no backup: it has no {NAME}. One that was broken off while it was made has none "
                "either; make another one."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LocalError(f"{path} cannot be read as a manifest: {error!r}.") from error
        if manifest.digest != content["sha256"]:
            raise LocalError(f"{path} was changed: it says other things than its own sha256 is of.")
        return manifest

    def faults(self, directory: Path) -> list[str]:
        """What is wrong with the files: each with its name; empty when all are as they were written."""
        found: list[str] = []
        for one in (*self.databases, *self.archives):
            path = directory / one.file
            try:
                size = path.stat().st_size
                if size != one.bytes:
                    found.append(f"{one.file} has {size} bytes, and had {one.bytes}")
                elif sha256_of(path) != one.sha256:
                    found.append(f"{one.file} was changed: its sha256 is another one")
            except OSError as error:
                found.append(f"{one.file} cannot be read: {error.strerror}")
        return found


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encoded(manifest: Manifest) -> bytes:
    return orjson.dumps(asdict(manifest), option=orjson.OPT_SORT_KEYS)
