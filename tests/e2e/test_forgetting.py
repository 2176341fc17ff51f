"""A person does everything that a person can do here, is forgotten, and no file, row or key holds them any more.

The certificate is what the system says of itself; here the test searches by itself, and everywhere: all files of the
state directory (the databases' own files, their write-ahead log, Redis' files, logs, traces, secrets), all rows of all
databases, all keys of Redis.
"""

import base64
import json
import os
import re
import ssl
import subprocess
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import asyncpg
import httpx
import pytest
from almagest_cli.local.postgres import EmbeddedPostgres
from harness.door import Door
from harness.running import RunningSystem
from redis import Redis

pytestmark = pytest.mark.xdist_group("system")
FIRST, LAST = "Xiuhcoatl", "Quetzalcoatlsson"
EMAIL = "xiuhcoatl.quetzalcoatlsson@forgotten.example"
PASSWORD = "correct horse battery staple"
NEEDLE = re.compile(b"xiuhcoatl|quetzalcoatlsson|forgotten\\.example", re.IGNORECASE)


def row(number: int) -> dict[str, object]:
    return {"sku": f"FORGET-{number}", "kind": "general", "name": f"Lamp {number}"}


def live(system: RunningSystem, admin: Door) -> str:
    """What a person does: is created, found, logs in, fails to, refreshes, imports, changes, reads, logs out."""
    new = {"email": EMAIL, "password": PASSWORD, "first_name": FIRST, "last_name": LAST, "roles": ["editor"]}
    created = admin.call("POST", "/v1/users", json=new, headers={"Idempotency-Key": "forget-1"})
    assert created.status_code == httpx.codes.CREATED, created.text
    again = admin.call("POST", "/v1/users", json=new, headers={"Idempotency-Key": "forget-1"})
    assert again.json() == created.json()
    assert admin.call("POST", "/v1/users", json=new).status_code == httpx.codes.CONFLICT
    assert admin.get("/v1/users", params={"email": EMAIL})["full_name"] == f"{FIRST} {LAST}"
    with httpx.Client(base_url=system.url, verify=ssl.create_default_context(cafile=str(system.ca))) as stranger:
        for _ in range(2):
            wrong = stranger.post("/v1/sessions", json={"email": EMAIL, "password": "not the right one at all"})
            assert wrong.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.TOO_MANY_REQUESTS}
        odd = stranger.post("/v1/sessions", json={"email": EMAIL, "password": 7, "first_name": FIRST})
        assert odd.is_client_error
        assert stranger.get("/v1/users", params={"email": EMAIL}).status_code == httpx.codes.UNAUTHORIZED
    with Door(system.url, system.ca, email=EMAIL, password=PASSWORD) as person:
        assert person.get("/v1/users/me")["last_name"] == LAST
        job = person.submit_import([row(number) for number in range(20)])
        person.await_job(job["job_id"], lambda document: document["state"] == "succeeded")
        tokens = person.http.post("/v1/sessions", json={"email": EMAIL, "password": PASSWORD}).json()
        refreshed = person.http.post("/v1/sessions:refresh", json={"refresh_token": tokens["refresh_token"]})
        assert refreshed.is_success, refreshed.text
    return created.json()["user_id"]


def in_files(directory: Path) -> list[str]:
    """The files that hold the person. Sockets and pipes hold nothing."""
    found: list[str] = []
    for path in sorted(Path(parent, name) for parent, _, names in os.walk(directory) for name in names):
        # What a server has removed since is not there.
        with suppress(FileNotFoundError):
            if path.is_file() and not path.is_symlink() and NEEDLE.search(path.read_bytes()):
                found.append(str(path.relative_to(directory)))
    return found


async def in_rows(server: EmbeddedPostgres) -> list[str]:
    """The tables that hold the person, whoever may read them; what is in memory is in the files after this."""
    found: list[str] = []
    connection = await asyncpg.connect(server.superuser_dsn())
    databases = await connection.fetch("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate")
    await connection.execute("CHECKPOINT")
    await connection.close()
    assert len(databases) > 6
    for (database,) in databases:
        connection = await asyncpg.connect(server.superuser_dsn(database))
        try:
            tables = await connection.fetch(
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname <> 'information_schema'"
            )
            for schema, table in tables:
                content = BytesIO()
                # Bytes as they are; of the catalog, which has statistics of values, what it would show.
                form = "text" if schema == "pg_catalog" else "binary"
                await connection.copy_from_table(table, schema_name=schema, output=content, format=form)
                if NEEDLE.search(content.getvalue()):
                    found.append(f"{database}.{schema}.{table}")
        finally:
            await connection.close()
    return found


def in_redis(url: str) -> list[str]:
    """The keys that hold the person, by name or by what Redis would write of them."""
    client = Redis.from_url(url)
    keys = list(client.scan_iter(count=1000))
    return [key.decode(errors="replace") for key in keys if NEEDLE.search(key + (client.dump(key) or b""))]


@pytest.mark.timeout(300)
async def test_a_forgotten_person_is_nowhere(system: RunningSystem, door: Door) -> None:
    """The door, a certificate with every store in it, and the test's own search agree."""
    user_id = live(system, door)
    forgotten = door.call("POST", f"/v1/users/{user_id}:forget")
    assert forgotten.status_code == httpx.codes.ACCEPTED, forgotten.text
    erasure = door.await_that(f"/v1/users/{user_id}/erasure", lambda document: document["state"] != "searching")
    assert erasure["state"] == "certified", erasure
    places = {(store["service"], store["store"]) for store in erasure["stores"]}
    assert {service for service, _ in places} == {"auth", "event-store", "catalog-query", "worker"}
    assert {
        ("worker", "redis"),
        ("worker", "uploaded files"),
        ("event-store", "archives"),
        ("auth", "logs and traces"),
    } <= places
    assert all(store["searched"] == store["total"] for store in erasure["stores"])
    claims = json.loads(base64.urlsafe_b64decode(erasure["certificate"].split(".")[1] + "=="))
    assert claims["findings"] == "none"
    assert not [text for text in claims["not_covered"] if "not told" in text]
    assert door.call("GET", f"/v1/users/{user_id}").status_code == httpx.codes.NOT_FOUND
    server = EmbeddedPostgres(system.local.places.state / "postgres")
    assert await in_rows(server) == []
    assert in_redis(system.redis_url) == []
    for directory in (system.local.places.state, server.data):
        assert in_files(directory) == []


async def test_this_search_finds_what_is_there(system: RunningSystem, tmp_path: Path) -> None:
    """A file, a row and a key that hold the person are found: the test above could fail."""
    (tmp_path / "log").write_text(f"by {FIRST}")
    assert in_files(tmp_path) == ["log"]
    server = EmbeddedPostgres(system.local.places.state / "postgres")
    connection = await asyncpg.connect(server.superuser_dsn())
    redis = Redis.from_url(system.redis_url)
    try:
        await connection.execute("CREATE TABLE planted (what bytea)")
        # It stays in the write-ahead log for a while, so this comes after the test above.
        await connection.execute("INSERT INTO planted VALUES ($1)", f"\0{LAST}".encode())
        redis.hset("planted", "who", EMAIL)
        assert await in_rows(server) == ["postgres.public.planted"]
        assert in_redis(system.redis_url) == ["planted"]
    finally:
        await connection.execute("DROP TABLE IF EXISTS planted")
        await connection.close()
        redis.delete("planted")


async def test_the_certificate_counts_what_is_left_in_every_store(system: RunningSystem, door: Door) -> None:
    """An address that stands in an uploaded file, in events, in the read model, in Redis, in a log and in a table that
    nobody knew of: each is told by the store where it is, and the system does not say that it is clean.
    """
    email, lamp = "left.behind@planted.example", {**row(900), "name": "Lamp quetzal900 of left.behind@planted.example"}
    new = {"email": email, "password": PASSWORD, "first_name": "Left", "last_name": "Behind", "roles": ["viewer"]}
    user_id = door.call("POST", "/v1/users", json=new).json()["user_id"]
    job = door.submit_import([lamp])
    door.await_job(job["job_id"], lambda document: document["state"] == "succeeded")
    door.await_that("/v1/products:search?text=quetzal900", lambda document: bool(document["items"]))
    log = system.local.places.logs / "planted.log"
    redis = Redis.from_url(system.redis_url)
    server = EmbeddedPostgres(system.local.places.state / "postgres")
    connection = await asyncpg.connect(server.superuser_dsn("users_0"))
    try:
        log.write_text(f"by {email}")
        redis.set("planted", email)
        await connection.execute("CREATE TABLE planted (what text); GRANT SELECT ON planted TO auth")
        await connection.execute("INSERT INTO planted VALUES ($1)", email)
        assert door.call("POST", f"/v1/users/{user_id}:forget").status_code == httpx.codes.ACCEPTED
        erasure = door.await_that(f"/v1/users/{user_id}/erasure", lambda document: document["state"] != "searching")
    finally:
        log.unlink(missing_ok=True)
        redis.delete("planted")
        await connection.execute("DROP TABLE IF EXISTS planted")
        await connection.close()
    left = {(store["service"], store["store"]): store["findings"] for store in erasure["stores"] if store["findings"]}
    assert {service for service, store in left if store.startswith("database")} >= {
        "auth",
        "event-store",
        "catalog-query",
    }
    assert {("worker", "redis"), ("worker", "uploaded files"), ("auth", "logs and traces")} <= set(left)
    claims = json.loads(base64.urlsafe_b64decode(erasure["certificate"].split(".")[1] + "=="))
    assert claims["findings"] == sum(left.values())


async def test_an_operator_forgets_and_rotates_from_the_command_line(system: RunningSystem, door: Door) -> None:
    """`almagest privacy`: forget, erasure, rotate, in the hands of whoever has the operator's certificate."""
    new = {
        "email": "gone@cli.example",
        "password": PASSWORD,
        "first_name": "G",
        "last_name": "One",
        "roles": ["viewer"],
    }
    user_id = door.call("POST", "/v1/users", json=new).json()["user_id"]
    environment = {**os.environ, "ALMAGEST_STATE": str(system.local.places.state)}

    def command(*arguments: str) -> str:
        told = dict(environment, ALMAGEST_TOKEN=door.http.headers["Authorization"].removeprefix("Bearer "))
        line = [sys.executable, "-m", "almagest_cli", "privacy", *arguments, "--json"]
        done = subprocess.run(line, env=told, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(command("forget", user_id, "--yes", "--block-email"))["user_id"] == user_id
    door.await_that(f"/v1/users/{user_id}/erasure", lambda document: document["state"] != "searching")
    assert json.loads(command("erasure", user_id))["certificate"]
    assert door.call("POST", "/v1/users", json=new).status_code == httpx.codes.CONFLICT
    steps = [json.loads(line) for line in command("rotate", "wrapping").splitlines()]
    assert steps[-1]["step"] == "wrapping keys anew"
