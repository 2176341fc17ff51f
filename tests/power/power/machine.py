"""A machine whose power can be cut: a Postgres with the log in it, its data on the forgetful file system."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

import orjson
from almagest_cli.local import accounts
from almagest_cli.local.errors import LocalError
from almagest_cli.local.postgres import EmbeddedPostgres
from chassis.database.migrations import upgrade

from power.kernel import DEVICE

DATABASE: Final = "events_0"
ROLE: Final = "event_store"


def reason_against() -> str | None:
    """Why this machine cannot mount a file system of ours; None: it can."""
    if os.geteuid() != 0:
        return "Mounting a file system needs root."
    if not DEVICE.exists():
        return "This machine has no /dev/fuse."
    return None


class Machine:
    """Below a directory. `fsync` False: its Postgres believes that it need not sync."""

    def __init__(self, directory: Path, *, fsync: bool = True) -> None:
        self.postgres = EmbeddedPostgres(directory, fsync=fsync)
        self._server: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        postgres = self.postgres
        await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(postgres.ensure, {DATABASE: (ROLE,)})
        await upgrade("event_store.migrations", [postgres.dsn(DATABASE)], ROLE)
        await asyncio.to_thread(postgres.stop)
        made = postgres.data.with_name("made")
        postgres.data.rename(made)
        accounts.make_directory(postgres.data, account=accounts.server_account())
        await asyncio.to_thread(self._mount, made)
        await asyncio.to_thread(shutil.rmtree, made)
        return self

    def _mount(self, made: Path) -> None:
        """Have what was made served in its place."""
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "power.serve", str(made), str(self.postgres.data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._answer()

    async def __aexit__(self, *_: object) -> None:
        self.postgres.kill()
        if self._server is not None and self._server.stdin is not None:
            self._server.stdin.close()
            await asyncio.to_thread(self._server.wait, 30)
            if self._server.stdout is not None:
                self._server.stdout.close()
        self.postgres.remove()

    async def on(self) -> None:
        """Switch on: Postgres recovers and takes connections."""
        await asyncio.to_thread(self.postgres.start)

    async def cut(self, *, seed: int, survives: float) -> dict[str, Any]:
        """Cut the power: everything dies, and what was not synced is gone, but for each page's luck. Answers what has been
        lost so far.
        """
        await asyncio.to_thread(self.postgres.kill)
        return await asyncio.to_thread(self._tell, {"seed": seed, "survives": survives})

    async def on_for(self, seconds: float) -> None:
        """Switch on, and have everything die again after so long, whatever Postgres is doing then."""
        starting = asyncio.create_task(self.on())
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.postgres.kill)
        with contextlib.suppress(LocalError):
            await starting
        await asyncio.to_thread(self.postgres.kill)

    def _tell(self, word: dict[str, Any]) -> dict[str, Any]:
        if self._server is None or self._server.stdin is None:
            raise RuntimeError("The machine is not built.")
        self._server.stdin.write(orjson.dumps(word, option=orjson.OPT_APPEND_NEWLINE))
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        if self._server is None or self._server.stdout is None:
            raise RuntimeError("The machine is not built.")
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError(f"The file system has died (exit code {self._server.wait()}).")
        return orjson.loads(line)
