"""Programs that run to their end: a service's migrations, the making of the first admin."""

import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from almagest_cli.local.errors import NotReadyError, ProcessDiedError

_LIMIT_SECONDS = 300.0
_LAST_LINES = 20


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours."""
    # -P: a directory of the caller's that happens to be named like a module is not what we run.
    return [sys.executable, "-P", "-m", module, *arguments]


def run_to_end(
    module: str,
    *arguments: str,
    environment: Mapping[str, str],
    directory: Path,
    given_up: Callable[[], bool],
    limit_seconds: float = _LIMIT_SECONDS,
    heard: Callable[[str], None] = lambda _line: None,
) -> str:
    """Run a module to its end, and answer what it prints. When `given_up` says so, it is not waited for.

    Args:
        module: Which; then what it is told.
        arguments: What it is told.
        environment: All of its environment.
        directory: Where it runs.
        given_up: Asked all the time.
        limit_seconds: How long it may say nothing.
        heard: Called, in a thread of its own, with each line of its log as it comes.

    Raises:
        ProcessDiedError: it failed, or was given up; with what it said last.
        NotReadyError: it does not end, and says nothing.
    """
    command = f"python -m {module} {arguments[0]}"
    with (
        ThreadPoolExecutor(max_workers=2) as readers,
        subprocess.Popen(
            python(module, *arguments),
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        log = _Log(heard)
        printing, logging = readers.submit(_all, process.stdout), readers.submit(log.read, process.stderr)
        while True:
            try:
                process.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > log.last_heard + limit_seconds:
                    process.kill()
                    raise NotReadyError(
                        f"`{command}` did not end, and said nothing for {limit_seconds:g} seconds."
                    ) from None
                if given_up():
                    process.terminate()
        said = printing.result()
        logging.result()
    if process.returncode != 0:
        last = "\n".join(log.lines or said.strip().splitlines()[-_LAST_LINES:])
        raise ProcessDiedError(f"`{command}` failed (exit code {process.returncode}). What it said last:\n{last}")
    return said


class _Log:
    """The last lines of a log that is still being written."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard
        self.lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.last_heard = time.monotonic()

    def read(self, stream: IO[str] | None) -> None:
        """Until its end."""
        for line in stream or ():
            self.last_heard = time.monotonic()
            self.lines.append(line.rstrip())
            self._heard(line)


def _all(stream: IO[str] | None) -> str:
    return "" if stream is None else stream.read()
