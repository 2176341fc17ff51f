"""Processes that outlive the command that starts them.

A process is known by its pid and its time of birth in a pid file: the pid alone may long belong to someone else, and
a stale pid file must never get a stranger killed.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
import psutil

from almagest_cli.local.accounts import Account, run_as
from almagest_cli.local.errors import LocalError

_KEPT_LOG_BYTES = 16 * 1024 * 1024

_children: dict[int, subprocess.Popen[bytes]] = {}
"""What this process started, by pid. Only a parent learns how a child ended, and must, or its pid stays taken."""


class Daemon:
    """One detached process: started, found again by its pid file, stopped by its pid."""

    def __init__(self, name: str, *, pid_file: Path, log_file: Path) -> None:
        self.name = name
        self.pid_file = pid_file
        self.log_file = log_file
        self._ended: int | None = None

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        account: Account | None = None,
        directory: Path | None = None,
    ) -> None:
        """Start the process, its output going to the log file, which is rotated first.

        Raises:
            LocalError: it cannot be executed.
        """
        self.log_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.pid_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _rotate(self.log_file)
        with os.fdopen(os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            try:
                child = subprocess.Popen(
                    command,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=directory,
                    start_new_session=True,
                    umask=0o077,
                    **run_as(account),
                )
            except OSError as error:
                raise LocalError(f"{self.name} cannot be started: {error}") from error
        pid = child.pid
        _children[pid] = child
        self._ended = None
        write_private(self.pid_file, orjson.dumps({"pid": pid, "birth": _birth(pid)}))

    def process(self) -> psutil.Process | None:
        """The running process, or None."""
        try:
            record = orjson.loads(self.pid_file.read_bytes())
            pid, birth = int(record["pid"]), str(record["birth"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        child = _children.get(pid)
        if child is not None and (code := child.poll()) is not None:
            self._ended = code
            _children.pop(pid, None)
            return None
        try:
            process = psutil.Process(pid)
            if _birth(pid) != birth:
                return None
            # One whose first thread has ended looks dead, yet its other threads hold its ports until they end as well.
            if child is None and process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1:
                return None
        except psutil.NoSuchProcess:
            return None
        return process

    @property
    def pid(self) -> int | None:
        """The pid of the running process, or None."""
        process = self.process()
        return None if process is None else process.pid

    @property
    def exit_code(self) -> int | None:
        """How the process ended, if it was seen to end by this object; below zero: by that signal."""
        return self._ended

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal, if it runs."""
        process = self.process()
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the process to be gone; True when it is."""
        until = time.monotonic() + timeout
        while self.process() is not None:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def stop(self, *, timeout: float = 15, first: signal.Signals = signal.SIGTERM) -> None:
        """Ask the process to end, and after `timeout` seconds end it. Nothing to do when it does not run."""
        self.send(first)
        if not self.wait(timeout):
            self.kill()
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the process and its children without asking (SIGKILL), and wait until they are gone."""
        process = self.process()
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [*process.children(recursive=True), process]
            for member in reversed(family):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs([member for member in family if member.pid != process.pid], timeout=10)
        if not self.wait(10):
            raise LocalError(f"{self.name} (pid {process.pid}) does not end, even when killed.")

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        return tail(self.log_file, lines)


def tail(path: Path, lines: int, *, end: int | None = None) -> str:
    """The last lines of a file, of as much of it as there was at size `end`; empty if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) if end is None else end
            begin = max(0, size - lines * 4096)
            file.seek(begin)
            return "\n".join(file.read(size - begin).decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def write_private(path: Path, content: bytes) -> None:
    """Replace a file in one step by one that only we can read."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)


def _rotate(log: Path) -> None:
    """Keep the previous log beside the new one, cut to what can still be looked at."""
    if not log.exists() or log.stat().st_size == 0:
        return
    previous = log.with_name(f"{log.name}.1")
    log.replace(previous)
    if previous.stat().st_size > _KEPT_LOG_BYTES:
        with previous.open("rb") as file:
            file.seek(-_KEPT_LOG_BYTES, os.SEEK_END)
            write_private(previous, file.read())


def _birth(pid: int) -> str:
    """When the process was born, in a form that does not move when the clock is set."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return str(psutil.Process(pid).create_time())
