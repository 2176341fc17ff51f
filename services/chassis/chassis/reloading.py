"""`python -m chassis.reloading -m <module> serve`: a service that begins again when its sources have changed.

For development on a cluster, where Tilt carries changed files into the running container: there the command of the
chart runs, in an image whose `python` is this. Anything but `serve` runs as it would without.

A process is asked to end before its successor starts, since both want the same port. One that has ended by itself, of a
mistake that was just carried over, is not the end: the next change may mend it, and until then probes say how it is.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

_LOOK_SECONDS = 0.5
_END_SECONDS = 30.0

State = dict[Path, tuple[int, int]]


def sources() -> list[Path]:
    """The directories that modules of ours are imported from: editable ones, not the libraries beside them."""
    return [
        Path(entry)
        for entry in sys.path
        if entry and Path(entry).is_dir() and not Path(entry).is_relative_to(sys.prefix) and _ours(Path(entry))
    ]


def _ours(directory: Path) -> bool:
    return (directory / "pyproject.toml").is_file()


def state(directories: Sequence[Path]) -> State:
    """What each source file is like now."""
    return dict(_files(directories))


def _files(directories: Sequence[Path]) -> Iterator[tuple[Path, tuple[int, int]]]:
    """What vanishes while we look is not there. `Path.rglob` would fail of a directory that does, `os.walk` goes on."""
    for directory in directories:
        for parent, _, names in os.walk(directory):
            for path in (Path(parent, name) for name in names if name.endswith(".py")):
                try:
                    found = path.stat()
                except FileNotFoundError:
                    continue
                yield path, (found.st_mtime_ns, found.st_size)


class Reloading:
    """Runs a command, anew whenever a file below the directories has changed, until told to stop."""

    def __init__(self, command: Sequence[str], directories: Sequence[Path], *, every: float = _LOOK_SECONDS) -> None:
        self._command = list(command)
        self._directories = directories
        self._every = every
        # Not an Event: `set` would wait for ever if the signal came while `wait` holds what both lock.
        self._stopped = False

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """End the command, and `run` with its exit code."""
        self._stopped = True

    def run(self) -> int:
        """Run until `stop`; answers the command's exit code."""
        while True:
            before = state(self._directories)
            process = subprocess.Popen(self._command)  # noqa: S603 - what we were started to run
            try:
                while state(self._directories) == before and not self._stopped:
                    time.sleep(self._every)
                    process.poll()
            finally:
                code = self._end(process)
            if self._stopped:
                return code
            sys.stderr.write("sources have changed: beginning again\n")

    @staticmethod
    def _end(process: "subprocess.Popen[bytes]") -> int:
        process.terminate()
        try:
            return process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def main(arguments: Sequence[str]) -> int:
    """What `python` with these arguments is in an image for development."""
    command = [sys.executable, *arguments]
    if arguments[-1:] != ["serve"]:
        os.execv(sys.executable, command)  # noqa: S606 - in our place
    reloading = Reloading(command, sources())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, reloading.stop)
    return reloading.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
