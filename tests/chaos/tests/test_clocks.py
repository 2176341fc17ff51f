"""The library that stands before a process's clock."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from chaos.clocks import NoCompiler, ProcessClocks

_TELL = (
    "import sys, time, datetime\n"
    "for _ in sys.stdin:\n"
    "    print(time.time(), datetime.datetime.now().timestamp(), time.monotonic(), flush=True)\n"
)


def test_the_wall_clock_of_one_process_is_moved_while_it_runs_and_its_monotonic_clock_is_not(tmp_path: Path) -> None:
    """Forwards, backwards over a second's border, and back; our own clock stays."""
    clocks = ProcessClocks(tmp_path / "clocks")
    environment = dict(clocks.environment("somebody"))
    with subprocess.Popen(
        [sys.executable, "-c", _TELL], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for seconds in (0.0, 3600.25, -600.999, 0.0):
            clocks.move("somebody", seconds)
            before = time.time(), time.monotonic()
            process.stdin.write("\n")
            process.stdin.flush()
            wall, date, monotonic = map(float, process.stdout.readline().split())
            after = time.time(), time.monotonic()
            for told in (wall, date):
                assert before[0] + seconds - 1e-3 <= told <= after[0] + seconds + 1e-3
            assert before[1] <= monotonic <= after[1]
        process.stdin.close()


def test_each_process_has_a_clock_of_its_own(tmp_path: Path) -> None:
    """One is moved, the other not."""
    clocks = ProcessClocks(tmp_path)
    ours, theirs = dict(clocks.environment("one")), dict(clocks.environment("other"))
    clocks.move("one", 86_400)
    told = [
        float(subprocess.check_output([sys.executable, "-c", "import time; print(time.time())"], env=environment))
        for environment in (ours, theirs)
    ]
    assert told[0] - told[1] == pytest.approx(86_400, abs=60)


def test_without_a_compiler_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on without these faults."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompiler):
        ProcessClocks(tmp_path)
