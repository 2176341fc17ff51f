"""Programs that run to their end: a service's migrations, the making of the first admin."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

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
) -> str:
    """Run a module to its end, and answer what it prints. When `given_up` says so, it is not waited for.

    Raises:
        ProcessDiedError: it failed, or was given up; with what it said last.
        NotReadyError: it does not end.
    """
    command = f"python -m {module} {arguments[0]}"
    with subprocess.Popen(
        python(module, *arguments),
        env=dict(environment),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until = time.monotonic() + limit_seconds
        while True:
            try:
                said, complained = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > until:
                    process.kill()
                    raise NotReadyError(f"`{command}` did not end within {limit_seconds:g} seconds.") from None
                if given_up():
                    process.terminate()
    if process.returncode != 0:
        last = "\n".join((complained.strip() or said.strip()).splitlines()[-_LAST_LINES:])
        raise ProcessDiedError(f"`{command}` failed (exit code {process.returncode}). What it said last:\n{last}")
    return said
