"""Whatever a service keeps, wherever in it a needle lies: it is found, counted once, and never told."""

import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from chassis.database.pool import Database
from chassis.redis import connect
from chassis.searching import database as database_search
from chassis.searching import files as file_search
from chassis.searching.database import search_database
from chassis.searching.files import search_files
from chassis.searching.needles import Found, Needles
from chassis.searching.redis import search_redis

NEEDLES = Needles(findings=("ada@example.org", "Ada Løvelace"), mentions=("Ada", "Løvelace"))


async def last(search: AsyncIterator[Found]) -> Found:
    """The end of a search, which has searched everything, and never gone back."""
    searched, found = 0, None
    async for found in search:
        assert searched <= found.searched <= found.total
        searched = found.searched
    assert found is not None
    assert found.searched == found.total
    return found


@pytest.fixture
async def database(postgres: Any) -> AsyncIterator[Database]:
    owner = postgres.create_database("worker")
    connection = await asyncpg.connect(owner)
    await connection.execute(
        "CREATE SCHEMA other; CREATE TABLE other.empty (); CREATE TABLE ours (id int, t text, b bytea, j jsonb, a text[]);"
        "CREATE TABLE parts (id int, t text) PARTITION BY RANGE (id);"
        "CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE hidden (t text); CREATE TABLE half (t text, secret text);"
        "GRANT USAGE ON SCHEMA other TO worker; GRANT SELECT ON ours, parts, part, other.empty TO worker;"
        "GRANT SELECT (t) ON half TO worker"
    )
    await connection.close()
    pool = await Database.open(postgres.service_dsn(owner, "worker"), name="things", size=1)
    pool.owner = owner
    yield pool
    await pool.close()
    postgres.drop_database(owner)


@pytest.mark.parametrize(
    ("statement", "findings", "mentions"),
    [
        ("INSERT INTO ours (t) VALUES ('nothing of interest')", 0, 0),
        ("INSERT INTO ours (t) VALUES ('mail ADA@example.ORG now')", 1, 0),
        ("INSERT INTO ours (t, b) VALUES ('ada@example.org', 'ada@example.org')", 1, 0),
        (r"INSERT INTO ours (b) VALUES ('\x00ff'::bytea || 'ada@example.org'::bytea || '\x00'::bytea)", 1, 0),
        ("INSERT INTO ours (b) VALUES (convert_to('x Ada Løvelace x', 'UTF8'))", 1, 0),
        ("INSERT INTO ours (j) VALUES ('{\"who\": \"Ada L\\u00f8velace\"}')", 1, 0),
        ("INSERT INTO ours (a) VALUES (ARRAY['x', 'ada@example.org'])", 1, 0),
        ("INSERT INTO ours (t) VALUES ('The Ada lamp')", 0, 1),
        ("INSERT INTO ours (t) VALUES ('Adapter')", 0, 0),
        ("INSERT INTO ours (t) VALUES ('by løvelace.')", 0, 1),
        ("INSERT INTO parts VALUES (1, 'ada@example.org')", 1, 0),
        ("INSERT INTO half VALUES ('ada@example.org', 'x')", 1, 0),
        ("INSERT INTO ours (t) SELECT repeat('x', 1000) FROM generate_series(1, 9999); INSERT INTO ours (t) VALUES ('Ada Løvelace')", 1, 0),
        ("INSERT INTO ours (t) SELECT 'ada@example.org' || repeat('x', 5000) FROM generate_series(1, 77)", 77, 0),
    ],
)  # fmt: skip
async def test_a_database_is_searched_in_every_column_of_every_table(
    database: Any, monkeypatch: pytest.MonkeyPatch, statement: str, findings: int, mentions: int
):
    """Text in any case, bytes, JSON, arrays, partitions, and beyond the first piece of a table."""
    monkeypatch.setattr(database_search, "_BLOCKS", 7)
    owner = await asyncpg.connect(database.owner)
    await owner.execute(statement)
    await owner.close()
    found = await last(search_database(database, NEEDLES))
    assert (found.store, found.findings, found.mentions) == ("database things", findings, mentions)


@pytest.mark.parametrize(
    ("content", "findings", "mentions"),
    [
        (b"", 0, 0),
        (b"x" * 30 + b"ada@example.org", 1, 0),
        (b"x" * 3 + "Ada Løvelace".encode() * 50, 1, 0),
        (rb'"Ada L\u00f8velace"', 1, 0),
        (b"by Ada!", 0, 1),
        (b"Adapter Canada", 0, 0),
    ],
)
async def test_files_are_searched_to_the_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, findings: int, mentions: int
):
    """Also across the border of two pieces, below directories, and once each."""
    for piece in range(3, 40):
        monkeypatch.setattr(file_search, "_PIECE", piece)
        (tmp_path / "below").mkdir(exist_ok=True)
        (tmp_path / "below" / "log").write_bytes(content)
        (tmp_path / "other").write_bytes(gzip.compress(b"nothing"))
        found = await last(search_files("logs", [tmp_path, tmp_path / "missing"], NEEDLES))
        assert (found.findings, found.mentions) == (findings, mentions), piece


async def test_files_that_are_rotated_away_meanwhile_end_no_search(churned: Path):
    """What stays is searched whatever vanishes beside it."""
    (churned / "log").write_bytes(b"ada@example.org")
    for _ in range(50):
        assert (await last(search_files("logs", [churned], NEEDLES))).findings == 1


async def test_redis_is_searched_in_every_kind_of_key(valkey: Any):
    """Names of keys and all that they hold."""
    client = connect(valkey.url)
    await client.flushdb()
    assert (await last(search_redis(client, NEEDLES))).findings == 0
    await client.set("x", "ada@example.org")
    await client.set("seen:ada@example.org", "1")
    await client.hset("hash", mapping={"ada@example.org": "1"})
    await client.rpush("list", "a", "Ada Løvelace")
    await client.sadd("set", "ada@example.org")
    await client.zadd("zset", {"ADA@EXAMPLE.ORG": 1})
    await client.xadd("stream", {"who": "ada@example.org"})
    await client.set("lamp", "the Ada lamp")
    await client.set("nothing", "Canada")
    found = await last(search_redis(client, NEEDLES))
    assert (found.total, found.findings, found.mentions) == (9, 7, 1)
    await client.flushdb()
    await client.aclose()


def test_needles_are_not_shown():
    """They are what is personal."""
    assert "ada" not in repr(NEEDLES).lower()
    assert Needles(findings=("",), mentions=("",)).patterns()[0].search(b"x") is None
