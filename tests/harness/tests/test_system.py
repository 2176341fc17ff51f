"""The whole system as `almagest up` starts it: the same code, on free ports, in a directory of its own."""

import os
import ssl
import subprocess
import sys
import urllib.request

import psutil
import pytest
from almagest_cli.local.layout import SERVICES
from almagest_cli.local.system import System
from harness.running import RunningSystem, running_system


def get(system: RunningSystem, path: str) -> int:
    context = ssl.create_default_context(cafile=system.ca)
    with urllib.request.urlopen(f"{system.url}{path}", context=context, timeout=30) as answer:  # noqa: S310 - our own URL
        return answer.status


@pytest.mark.xdist_group("system")
def test_everything_is_ready_and_says_so(system):
    """The gateway answers over TLS under the local authority, every process runs, and `almagest status` agrees."""
    assert get(system, "/readyz") == 200
    assert all(daemon.process() for daemon in system.local.daemons().values())
    status = subprocess.run(
        [sys.executable, "-m", "almagest_cli", "status"],
        env={"PATH": os.defpath, "ALMAGEST_STATE": str(system.local.places.state)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert status.returncode == 0, status.stderr
    assert status.stdout.count("ready") == len(system.local.daemons())
    assert system.admin_password
    assert not system.local.places.first_admin.exists()


@pytest.mark.xdist_group("system")
def test_starting_again_keeps_what_runs(system):
    """`up` is idempotent: the same processes, no second password."""
    pids = {name: daemon.pid for name, daemon in system.local.daemons().items()}
    again = System(system.local.places.state).up()
    assert again.already_running
    assert (again.url, again.admin.password) == (system.url, None)
    assert {name: daemon.pid for name, daemon in system.local.daemons().items()} == pids


@pytest.mark.xdist_group("system")
@pytest.mark.parametrize("process", ["catalog-query", "gateway", "valkey", "postgres"])
def test_a_process_that_was_killed_comes_back_with_up(system, process):
    """After SIGKILL of one process `up` starts that one, and everything is ready again."""
    others = {name: daemon.pid for name, daemon in system.local.daemons().items() if name != process}
    system.kill(process)
    assert system.local.daemons()[process].process() is None
    again = System(system.local.places.state).up()
    assert not again.already_running
    assert get(system, "/readyz") == 200
    assert {name: daemon.pid for name, daemon in system.local.daemons().items() if name != process} == others


def test_data_outlives_down_and_ends_with_reset(tmp_path):
    """Stopped, nothing runs; started again, the same admin is there; reset, nothing is left on disk."""
    with running_system(tmp_path / "state", shards=3) as system:
        local = system.local
        assert len(local.down()) == len(SERVICES) + 3
        for process in psutil.process_iter():
            try:
                assert str(tmp_path) not in " ".join(process.cmdline())
            except psutil.Error:
                continue
        assert local.down() == []
        again = System(tmp_path / "state").up()
        assert again.url == system.url
        assert again.admin.password is None
        server = local.daemons()["postgres"].process()
        assert server is not None
        data = server.cwd()
    assert not (tmp_path / "state").exists()
    assert not os.path.exists(data)  # noqa: PTH110 - a path as the system gives it
