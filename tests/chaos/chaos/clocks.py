"""Clocks that are wrong: the wall clock of a service's process, and the one that a log's database writes by.

The machine's clock is not ours to move, and a time namespace moves only the monotonic one. So a small library of our
own (`clock.c`, built by the machine's C compiler) stands before the system's clock in each service's process. A
database is not given it, since all shards live in one: a function stands before the one that `append_batch` and
`append_plain` ask.
"""

import mmap
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncpg

_OFFSET: Final = struct.Struct("<q")
_SOURCE: Final = Path(__file__).with_name("clock.c")


class NoCompiler(Exception):
    """There is no C compiler, so no process can be given a clock of its own."""


class ProcessClocks:
    """A clock of its own for each process, which can be moved while they run.

    Args:
        directory: where the library and the clocks' files go.

    Raises:
        NoCompiler: there is none (`cc`).
    """

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise NoCompiler
        directory.mkdir(parents=True, exist_ok=True)
        library = directory / "clock.so"
        subprocess.run(
            [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True
        )
        self._directory = directory
        self._library = library
        self._clocks: dict[str, mmap.mmap] = {}

    def environment(self, process: str) -> Mapping[str, str]:
        """What a process must be started with."""
        path = self._directory / f"{process}.clock"
        if process not in self._clocks:
            path.write_bytes(_OFFSET.pack(0))
            with path.open("r+b") as file:
                self._clocks[process] = mmap.mmap(file.fileno(), _OFFSET.size)
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(path)}

    def move(self, process: str, seconds: float) -> None:
        """Let the clock of a process be wrong by so many seconds, at once."""
        self._clocks[process][:] = _OFFSET.pack(round(seconds * 1e9))


class DatabaseClock:
    """The clock that a database's append functions read, which can be moved."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def plant(self) -> None:
        """Put our clock in place."""
        connection = await asyncpg.connect(self._dsn, timeout=10)
        try:
            await connection.execute("CREATE SCHEMA chaos; GRANT USAGE ON SCHEMA chaos TO PUBLIC")
            await self._set(connection, 0)
            signatures = await connection.fetch(
                "SELECT oid::regprocedure::text FROM pg_proc WHERE proname IN ('append_batch', 'append_plain')"
            )
            for (signature,) in signatures:
                await connection.execute(f"ALTER FUNCTION {signature} SET search_path = chaos, pg_catalog, pg_temp")
        finally:
            await connection.close()

    async def move(self, seconds: float) -> bool:
        """Let the clock be wrong by so many seconds; False: the database is away."""
        try:
            connection = await asyncpg.connect(self._dsn, timeout=3)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        try:
            await self._set(connection, seconds)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        finally:
            connection.terminate()
        return True

    async def _set(self, connection: "asyncpg.Connection", seconds: float) -> None:
        await connection.execute(
            "CREATE OR REPLACE FUNCTION chaos.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
            f"$$ SELECT pg_catalog.clock_timestamp() + interval '{seconds:.3f} seconds' $$",
            timeout=5,
        )
