"""Starting a system whose databases take long to migrate: it is waited for, and what it does is told."""

import json
import os
import threading
from pathlib import Path

import psutil
import pytest
from almagest_cli.local import migrating
from almagest_cli.local import system as local
from almagest_cli.local.errors import NotReadyError, ProcessDiedError
from almagest_cli.local.layout import SERVICES
from almagest_cli.local.migrating import Steps
from almagest_cli.local.programs import run_to_end
from almagest_cli.local.system import System

_TALKS = """
import sys, time
for number in range(int(sys.argv[1])):
    print(number, file=sys.stderr, flush=True)
    time.sleep(0.3)
print("done")
"""


@pytest.fixture
def run(tmp_path: Path):
    def run(text: str, *arguments: str, **more) -> str:
        (tmp_path / "talks.py").write_text(text, encoding="utf-8")
        where = {"PYTHONPATH": str(tmp_path), "PATH": os.defpath}
        return run_to_end("talks", *arguments, environment=where, directory=tmp_path, given_up=lambda: False, **more)

    return run


def test_a_program_may_take_as_long_as_it_says_something(run) -> None:
    """Its limit is one of silence."""
    heard: list[str] = []
    assert run(_TALKS, "8", limit_seconds=1.5, heard=heard.append) == "done\n"
    assert [line.strip() for line in heard] == [str(number) for number in range(8)]


def test_a_program_that_says_nothing_any_more_is_ended(run, tmp_path: Path) -> None:
    """Also while it holds its log open."""
    silent = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    with pytest.raises(NotReadyError, match=r"`python -m talks 1` did not end, and said nothing for 2 seconds"):
        run(silent, "1", limit_seconds=2)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text(encoding="ascii")))


def test_what_a_program_that_failed_said_last_is_told(run) -> None:
    """The end of its log, however long that was."""
    fails = "import sys\nfor n in range(500): print(f'line {n}', file=sys.stderr)\nsys.exit(4)\n"
    with pytest.raises(ProcessDiedError, match=r"exit code 4[^$]*line 480\n[^$]*line 499$") as died:
        run(fails, "1")
    assert "line 479" not in str(died.value)


def test_the_steps_of_a_long_migration_are_told(monkeypatch) -> None:
    """Not those of a short one, nor what else its log says."""
    told: list[str] = []
    upgrade = json.dumps({"event": "Running upgrade 0001 -> 0002, Files, and more.", "level": "info"})
    monkeypatch.setattr(migrating, "_LONG_SECONDS", 60.0)
    Steps(told.append).heard(upgrade)
    assert told == []
    monkeypatch.setattr(migrating, "_LONG_SECONDS", 0.0)
    steps = Steps(told.append)
    for line in (
        upgrade,
        json.dumps({"event": "Running upgrade  -> 0001, First."}),
        json.dumps({"event": "gave way to those who use the tables"}),
        json.dumps({"event": "migrated", "shard": 0}),
        "Traceback (most recent call last):",
        "[1]",
    ):
        steps.heard(line)
    assert told == ["to 0002", "to 0001", "waits for a lock"]


def test_a_service_is_not_late_as_long_as_databases_are_migrated(tmp_path: Path, monkeypatch) -> None:
    """What it needs may be what is being migrated."""
    system = System(tmp_path)
    auth, gateway = (next(row for row in SERVICES if row.name == name) for name in ("auth", "gateway"))
    migrated: list[set[str]] = []
    monkeypatch.setattr(local, "run_to_end", lambda *_words, **_more: migrated.append(set(system._migrating)))
    system._migrate(auth, {})
    assert migrated == [{"auth"}]
    assert not system._migrating
    monkeypatch.setattr(type(system._all["gateway"]), "process", lambda _daemon: object())
    system._migrating.add("auth")
    late: list[BaseException] = []

    def wait() -> None:
        try:
            system._await_ready(gateway, timeout=0.2)
        except NotReadyError as error:
            late.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(1.0)
    assert waiting.is_alive()
    system._migrating.discard("auth")
    waiting.join(30)
    assert "gateway was not ready after 0.2 seconds" in str(late[0])
