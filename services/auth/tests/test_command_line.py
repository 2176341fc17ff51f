"""`python -m auth`, as a process."""

import asyncio
import base64
import json
import os
import signal
import sys
from typing import Any, NamedTuple

import asyncpg
import pytest
from almagest.auth.v1 import auth_pb2 as wire


class Finished(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def environment(identity, fresh_databases, key_file) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("ALMAGEST_")},
        "ALMAGEST_IDENTITY_DIRECTORY": str(identity("auth")),
        "ALMAGEST_DATABASE_URLS": json.dumps(fresh_databases.service),
        "ALMAGEST_MIGRATION_DATABASE_URLS": json.dumps(fresh_databases.owner),
        "ALMAGEST_KEY_ENCRYPTION_KEY_FILE": str(key_file),
    }


async def run(environment: dict[str, str], *arguments: str) -> Finished:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "auth", *arguments,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


async def people(databases: Any) -> list[Any]:
    found: list[Any] = []
    for dsn in databases.owner:
        connection = await asyncpg.connect(dsn)
        found += await connection.fetch("SELECT * FROM users")
        await connection.close()
    return found


async def test_the_first_admin_is_created_once_and_its_password_shown_once(environment, fresh_databases):
    """The second time says that there is one, and shows no password. The hash is in no output."""
    first = await run(environment, "create-admin", "--email", "Admin@localhost")
    assert first.code == 0, first.err
    answer = json.loads(first.out)
    assert answer.keys() == {"email", "password", "created"}
    assert (answer["email"], answer["created"]) == ("admin@localhost", True)
    assert len(answer["password"]) >= 20
    second = await run(environment, "create-admin", "--email", "admin@localhost")
    assert second.code == 0
    assert json.loads(second.out) == {"email": "admin@localhost", "password": None, "created": False}
    (row,) = await people(fresh_databases)
    assert row["roles"] == ["admin"]
    for finished in (first, second):
        assert "argon2" not in finished.out + finished.err
        assert answer["password"] not in finished.err


async def test_admins_created_at_once_are_one(environment, fresh_databases):
    """Whoever comes second finds the first."""
    results = await asyncio.gather(*(run(environment, "create-admin", "--email", "a@localhost") for _ in range(3)))
    assert [result.code for result in results] == [0, 0, 0], [result.err for result in results]
    assert sorted(json.loads(result.out)["created"] for result in results) == [False, False, True]
    assert len(await people(fresh_databases)) == 1


async def test_a_password_from_a_file_is_used_and_not_shown(environment, tmp_path, calling):
    """And the service that then starts lets the admin in, and stops when asked."""
    path = tmp_path / "password"
    path.write_text("a password of my own\n")
    made = await run(environment, "create-admin", "--email", "a@localhost", "--password-file", str(path))
    assert json.loads(made.out) == {"email": "a@localhost", "password": None, "created": True}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "auth", env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while True:
                line = json.loads(await process.stderr.readline())
                if line["event"] == "serving":
                    break
        async with calling("gateway", line["grpc_port"]) as gateway:
            answer = await gateway.LogIn(wire.LogInRequest(email="a@localhost", password="a password of my own"))
            assert list(answer.user.roles) == [wire.ROLE_ADMIN]
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert b"password of my own" not in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--email", "nonsense"], "email"),
        (["--email", "a@localhost", "--password-file", "/nowhere/at/all"], "No such file"),
        (["--email", "a@localhost", "--password-file", "{short}"], "12 to 128"),
    ],
)
async def test_bad_input_creates_nobody(environment, fresh_databases, tmp_path, arguments: list[str], problem: str):
    """It says what is wrong, on stderr, and exits with 1."""
    short = tmp_path / "short"
    short.write_text("short")
    result = await run(environment, "create-admin", *[each.format(short=short) for each in arguments])
    assert (result.code, result.out) == (1, "")
    assert problem in result.err
    assert await people(fresh_databases) == []


async def test_someone_who_is_no_admin_is_not_taken_for_one(environment, fresh_databases):
    """The address of another person is refused, and their roles stay."""
    await run(environment, "create-admin", "--email", "a@localhost")
    for dsn in fresh_databases.owner:
        connection = await asyncpg.connect(dsn)
        await connection.execute("UPDATE users SET roles = ARRAY['viewer']")
        await connection.close()
    result = await run(environment, "create-admin", "--email", "a@localhost")
    assert (result.code, result.out) == (1, "")
    assert "no admin" in result.err


async def test_keys_are_rotated_by_command(environment):
    """Too early it is refused, unless it must be."""
    await run(environment, "create-admin", "--email", "a@localhost")
    made = json.loads((await run(environment, "rotate-keys", "--now")).out)["keys"]
    assert sorted(made.values()) == ["active", "next"]
    refused = await run(environment, "rotate-keys")
    assert (refused.code, refused.out) == (1, "")
    assert "too recently" in refused.err
    rotated = json.loads((await run(environment, "rotate-keys", "--now")).out)["keys"]
    assert sorted(rotated.values()) == ["active", "next", "retired"]
    assert made.keys() < rotated.keys()


async def test_migrations_run_again_change_nothing(environment):
    """Alembic finds everything done; no key-encryption key is needed for it."""
    del environment["ALMAGEST_KEY_ENCRYPTION_KEY_FILE"]
    result = await run(environment, "migrate")
    assert result.code == 0, result.err


async def test_a_missing_or_wrong_key_encryption_key_is_named(environment, tmp_path):
    """In one line that says which file is asked for, for the service and for its commands; another key opens nothing."""
    served = await run(environment, "rotate-keys", "--now")
    assert served.code == 0, served.err
    file = tmp_path / "key"
    setting = "ALMAGEST_KEY_ENCRYPTION_KEY_FILE"
    for content, words in (
        (None, f"{setting} is not set"),
        ("", f"cannot read the key-encryption key {file}: No such file"),
        ("no key", f"{file} is not base64"),
        (base64.b64encode(bytes(31)).decode(), f"{file}: the key-encryption key must be 32 bytes, not 31"),
        (base64.b64encode(bytes(32)).decode(), f"give it the file it was first started with ({setting})"),
    ):
        given = {name: value for name, value in environment.items() if name != setting}
        if content is not None:
            given[setting] = str(file)
        if content:
            file.write_text(content)
        result = await run(given, "serve")
        (line,) = [json.loads(line) for line in result.err.splitlines()]
        assert (result.code, line["event"], line["level"]) == (1, "cannot start", "error")
        assert words in line["problem"]
        assert "exception" not in line
    del environment[setting]
    created = await run(environment, "create-admin", "--email", "a@localhost")
    assert (created.code, created.out) == (1, "")
    assert json.loads(created.err)["problem"].startswith(f"{setting} is not set")
