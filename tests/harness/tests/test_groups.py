"""What shares a whole system runs in one process."""

import os
import re
import subprocess
import sys
from pathlib import Path

_TESTS = """
import pytest

@pytest.mark.xdist_group("{group}")
@pytest.mark.parametrize("number", range(10))
def test_something(number): ...
"""


def test_tests_of_one_group_run_in_one_process(tmp_path: Path) -> None:
    """Two files of one group never part, however idle the other process is; another group may go elsewhere."""
    for name, group in (("one", "shared"), ("two", "shared"), ("three", "alone")):
        (tmp_path / f"test_{name}.py").write_text(_TESTS.format(group=group), encoding="utf-8")
    # Only the plugins that this is about: all that are installed take ten seconds to load, three times.
    plugins = ("-p", "xdist", "-p", "harness.plugin", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-n", "2", "--dist", "loadgroup", *plugins, "."],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.findall(r"\[(gw\d)\].*PASSED test_(\w+)\.py::", done.stdout)
    assert len(ran) == 30, done.stdout
    assert len({process for process, file in ran if file in {"one", "two"}}) == 1, done.stdout
    assert len({process for process, _ in ran}) == 2, done.stdout
