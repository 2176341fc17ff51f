"""`almagest logs`: the logs of all processes as one story."""

import json
import os
import subprocess
import sys
import threading

import pytest


@pytest.fixture
def logs(state):
    where = state / "logs"
    where.mkdir(parents=True)
    (where / "postgres.log").write_text(
        "2026-11-22 10:00:01.500 UTC [7] LOG:  ready\n\tDETAIL:  of it\n2026-11-22 10:00:04.000 UTC [7] LOG:  bye\n"
    )
    lines = [
        {
            "timestamp": "2026-11-22T10:00:01.000000Z",
            "level": "info",
            "event": "serving [all]",
            "service": "auth",
            "port": 1,
        },
        {"timestamp": "2026-11-22T10:00:02.000000Z", "level": "error", "event": "broke", "exception": "Boom: it"},
    ]
    (where / "auth.log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return where


@pytest.mark.usefixtures("logs")
def test_lines_of_all_processes_come_in_the_order_of_time(almagest):
    """Lines without a time stay behind the one they belong to; ours are put into words, exceptions in full."""
    lines = almagest("logs").out.splitlines()
    assert [line.split()[0] for line in lines if line.strip() and line.split()[0] in {"auth", "postgres"}] == [
        "auth", "postgres", "postgres", "auth", "postgres"]  # fmt: skip
    assert "serving [all] port=1" in lines[0]
    assert "DETAIL" in lines[2]
    assert "Boom: it" in lines[4]


@pytest.mark.usefixtures("logs")
def test_one_process_its_last_lines_and_json(almagest):
    """--lines counts for each process; with --json each line is an object that names its process."""
    assert almagest("logs", "postgres", "-n", "1").out == "2026-11-22 10:00:04.000 UTC [7] LOG:  bye\n"
    last = almagest("logs", "-n", "1", "--json").out.splitlines()
    assert [json.loads(line)["process"] for line in last] == ["auth", "postgres"]
    assert json.loads(last[0])["exception"] == "Boom: it"
    assert almagest("logs", "-n", "0").out == ""


def test_following_goes_on_over_a_restart(logs, state):
    """New lines are shown as they are written, also those of a log that began anew."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "almagest_cli", "logs", "auth", "-f", "-n", "1"],
        env={"PATH": os.defpath, "ALMAGEST_STATE": str(state)},
        stdout=subprocess.PIPE,
        text=True,
    )
    killer = threading.Timer(60, process.kill)
    killer.start()
    assert process.stdout is not None
    try:
        assert "broke" in process.stdout.readline()
        assert "Boom" in process.stdout.readline()
        with (logs / "auth.log").open("a") as log:
            log.write('{"event": "appended"}\n')
        assert "appended" in process.stdout.readline()
        (logs / "auth.log").rename(logs / "auth.log.1")
        (logs / "auth.log").write_text('{"event": "restarted"}\n')
        assert "restarted" in process.stdout.readline()
    finally:
        killer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
