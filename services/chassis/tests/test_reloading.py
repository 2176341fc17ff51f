"""A service under development: it begins again when its sources have changed, and ends as it would alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chassis.reloading import state

PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("generation 1", sys.argv[1:], flush=True)
if sys.argv[1] == "serve":
    time.sleep(60)
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    return tmp_path


@pytest.fixture
def served(sources: Path) -> Iterator["subprocess.Popen[str]"]:
    process = begun(sources, "serve")
    yield process
    # Killed it would leave what it has begun, which holds the pipe.
    process.terminate()
    process.communicate(timeout=60)


def begun(sources: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "chassis.reloading", "-m", "program", *arguments],
        env={**os.environ, "PYTHONPATH": str(sources)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd="/",
    )


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def change(sources: Path, before: str, after: str) -> None:
    file = sources / "program.py"
    file.write_text(file.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")


def test_it_begins_again_when_a_source_has_changed_and_ends_with_its_code(
    sources: Path, served: "subprocess.Popen[str]"
) -> None:
    """What was changed runs; SIGTERM ends it as it ends the process itself."""
    assert said(served) == "generation 1 ['serve']\n"
    change(sources, "generation 1", "generation 2")
    assert said(served) == "generation 2 ['serve']\n"
    served.send_signal(signal.SIGTERM)
    assert served.wait(60) == 7


def test_one_that_a_mistake_has_ended_begins_again_when_it_is_mended(
    sources: Path, served: "subprocess.Popen[str]"
) -> None:
    """A mistake that was carried over ends the process, not what begins it."""
    assert said(served) == "generation 1 ['serve']\n"
    change(sources, "import signal", "import nothing, signal")
    until = time.monotonic() + 60
    while children(served):
        assert time.monotonic() < until
    assert served.poll() is None
    change(sources, "import nothing, signal", "import signal")
    assert said(served) == "generation 1 ['serve']\n"


def test_what_vanishes_while_it_looks_is_no_mistake(churned: Path) -> None:
    """Directories that others make and remove meanwhile, as caches do."""
    (churned / "stays.py").touch()
    assert all(churned / "stays.py" in state([churned]) for _ in range(100))


def test_anything_but_serving_runs_as_it_is(sources: Path) -> None:
    """In the place of what would have watched over it."""
    process = begun(sources, "migrate")
    said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("generation 1 ['migrate']\n", 0)


def children(process: "subprocess.Popen[str]") -> list[str]:
    """Whom it has begun and who has not ended."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [pid for pid in found if lives(pid)]


def lives(pid: str) -> bool:
    """Whether a process is there that has not ended."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
