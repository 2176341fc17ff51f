"""`pg_dump` and `pg_restore`: those of the embedded server for itself, and this machine's for a server over TLS, which
the embedded ones do not speak.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from almagest_cli.local.errors import LocalError, ProcessDiedError

_LAST_LINES = 10
_INHERITED = ("HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


@dataclass(frozen=True)
class PostgresPrograms:
    """The programs of one release of Postgres."""

    directory: Path

    @classmethod
    def of_this_machine(cls) -> "PostgresPrograms":
        """Those in ALMAGEST_POSTGRES_PROGRAMS, or the newest that are installed.

        Raises:
            LocalError: There are none.
        """
        if named := os.environ.get("ALMAGEST_POSTGRES_PROGRAMS"):
            return cls(Path(named))
        debian = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/pg_dump")]
        if debian:
            return cls(max(debian, key=lambda path: int(path.parent.name)))
        if found := shutil.which("pg_dump"):
            return cls(Path(found).parent)
        raise LocalError(
            "There is no pg_dump on this machine, and a server of your own needs one at least as new as itself: "
            "install postgresql-client, or name a directory in ALMAGEST_POSTGRES_PROGRAMS."
        )

    def dump(self, dsn: str, *, snapshot: str, file: Path) -> None:
        """Write what a database is in a snapshot to a file.

        Raises:
            ProcessDiedError: With what it said.
        """
        options = ("--format=custom", "--compress=1", "--no-owner", "--lock-wait-timeout=10s")
        self._run("pg_dump", dsn, *options, f"--snapshot={snapshot}", f"--file={file}")

    def restore(self, dsn: str, *, file: Path) -> None:
        """Put what is in a file into an empty database, all of it or nothing.

        Raises:
            ProcessDiedError: With what it said.
        """
        self._run("pg_restore", dsn, "--single-transaction", "--exit-on-error", "--no-owner", str(file))

    def _run(self, program: str, dsn: str, *arguments: str) -> None:
        url, password = _without_password(dsn)
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        try:
            done = subprocess.run(
                _command(self.directory / program, url, arguments),
                env=environment | {"PATH": os.defpath, "PGPASSWORD": password},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise LocalError(f"{self.directory / program} cannot be run: {error.strerror}.") from error
        if done.returncode != 0:
            last = "\n".join(done.stderr.strip().splitlines()[-_LAST_LINES:])
            raise ProcessDiedError(f"{program} failed (exit code {done.returncode}). What it said last:\n{last}")


def _command(program: Path, url: str, arguments: Sequence[str]) -> list[str]:
    return [str(program), f"--dbname={url}", "--no-password", *arguments]


def _without_password(dsn: str) -> tuple[str, str]:
    """The URL without its password, which others could read among the arguments of a process."""
    parts = urlsplit(dsn)
    who, _, address = parts.netloc.rpartition("@")
    user, _, password = who.partition(":")
    return urlunsplit(parts._replace(netloc=f"{user}@{address}" if user else address)), unquote(password)
