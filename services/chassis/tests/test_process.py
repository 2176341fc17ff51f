"""A process as it is started and stopped in earnest."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from chassis.redis import connect

Issue = Callable[..., Path]

PROGRAM = """
import asyncio, sys
from contextlib import asynccontextmanager
from chassis.errors import ErrorTable
from chassis.process import Assembly, CannotStart, main
from chassis.settings import ServiceSettings

async def dies():
    await asyncio.sleep(0.3)
    raise RuntimeError("the tail reader broke")

@asynccontextmanager
async def bootstrap(settings, chassis):
    yield Assembly(servicers=[], policy={}, errors=ErrorTable({}), tasks=[dies] if "dies" in settings.log_level else [])

class Settings(ServiceSettings):
    pass

async def greet(settings, arguments):
    print("hello", *arguments)
    return 3

class TooDark(CannotStart):
    pass

async def look(settings, arguments):
    raise TooDark("it is dark here")

main("gateway", Settings, bootstrap, commands={"greet": greet, "look": look})
"""


async def _start(program: Path, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, str(program), *arguments,
        env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


async def _line(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while raw := await process.stderr.readline():
            line = orjson.loads(raw)
            if line["event"] == event:
                return line
    raise AssertionError(f"the process ended without {event!r}")


async def test_a_process_serves_until_it_is_told_to_stop(program: Path, issue: Issue) -> None:
    """It says where it listens, is ready, and ends with status 0 on SIGTERM, having printed nothing but JSON logs."""
    process = await _start(program, ALMAGEST_IDENTITY_DIRECTORY=str(issue("gateway")))
    line = await _line(process, "serving")
    async with httpx.AsyncClient() as client:
        ready = await client.get(f"http://127.0.0.1:{line['http_port']}/readyz")
    assert ready.json()["ready"] is True
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(15):
        out, err = await process.communicate()
    assert process.returncode == 0
    assert out == b""
    assert [orjson.loads(line)["event"] for line in err.splitlines()][-1] == "stopped"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "identity_directory"),
        ({"ALMAGEST_IDENTITY_DIRECTORY": "/nowhere"}, "/nowhere/tls.crt"),
        ({"ALMAGEST_IDENTITY_DIRECTORY": "ISSUED", "ALMAGEST_LISTEN": "192.0.2.1:1"}, "192.0.2.1:1"),
        ({"ALMAGEST_IDENTITY_DIRECTORY": "ISSUED", "ALMAGEST_HTTP_LISTEN": "192.0.2.1:1"}, "192.0.2.1:1"),
        ({"ALMAGEST_IDENTITY_DIRECTORY": "ISSUED", "ALMAGEST_DRAIN_SECONDS": "soon"}, "drain_seconds"),
    ],
)
async def test_a_process_that_cannot_start_says_why(
    program: Path, issue: Issue, environment: dict[str, str], words: str
) -> None:
    """A missing or wrong setting, a missing identity and a port that is not ours are named, in one line of JSON, and the status is not 0."""
    given = {name: str(issue("gateway")) if value == "ISSUED" else value for name, value in environment.items()}
    process = await _start(program, **given)
    async with asyncio.timeout(20):
        _, err = await process.communicate()
    assert process.returncode != 0
    assert words in err.decode()
    assert all(orjson.loads(line) for line in err.splitlines())
    assert b"Traceback" not in err


async def test_what_a_service_itself_finds_wrong_with_its_place_is_one_line(program: Path, issue: Issue) -> None:
    """Its own kind of `CannotStart` is told as a sentence, not as a traceback."""
    process = await _start(program, "look", ALMAGEST_IDENTITY_DIRECTORY=str(issue("gateway")))
    async with asyncio.timeout(20):
        _, err = await process.communicate()
    assert process.returncode == 1
    (line,) = [orjson.loads(line) for line in err.splitlines()]
    assert (line["event"], line["level"], line["problem"]) == ("cannot start", "error", "it is dark here")
    assert "exception" not in line


async def test_a_process_whose_background_task_dies_ends_loudly(program: Path, issue: Issue) -> None:
    """Status 1, with the cause in the log."""
    await asyncio.to_thread(program.write_text, PROGRAM.replace('"dies" in settings.log_level', "True"))
    process = await _start(program, ALMAGEST_IDENTITY_DIRECTORY=str(issue("gateway")))
    async with asyncio.timeout(20):
        _, err = await process.communicate()
    assert process.returncode == 1
    assert b"the tail reader broke" in err


async def test_a_service_has_commands_of_its_own(program: Path, issue: Issue) -> None:
    """They get the settings and their arguments, and their answer is the status; an unknown one is a usage error."""
    identity = str(issue("gateway"))
    process = await _start(program, "greet", "world", ALMAGEST_IDENTITY_DIRECTORY=identity)
    out, _ = await process.communicate()
    assert (process.returncode, out) == (3, b"hello world\n")
    process = await _start(program, "dance", ALMAGEST_IDENTITY_DIRECTORY=identity)
    _, err = await process.communicate()
    assert process.returncode == 2
    assert b"greet|look|serve" in err


async def test_redis_answers_and_does_not_keep_us_waiting(valkey: Any) -> None:
    """The client works over the private socket, and gives up in time when nobody is there."""
    client = connect(valkey.url, timeout=1.0)
    await client.set("chassis:test", b"1", ex=10)
    assert await client.get("chassis:test") == b"1"
    await client.aclose()
    nobody = connect("redis://127.0.0.1:1", timeout=0.2)
    async with asyncio.timeout(10):
        with pytest.raises(OSError, match=r"."):
            try:
                await nobody.ping()
            except Exception as error:
                raise OSError(str(error)) from error
    await nobody.aclose()
