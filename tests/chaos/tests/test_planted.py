"""Bugs planted in what really runs, each found."""
# ruff: noqa: S608 - tables whose names the database itself told

import asyncio
import base64
import os
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from almagest_cli.local.postgres import EmbeddedPostgres
from almagest_cli.local.system import POSTGRES
from chaos import findings, history
from chaos.chain import COLUMNS, GENESIS, hash_after
from chaos.check import check
from chaos.history import Writer
from chaos.run import Plan, run
from chaos.shop import Known, Person, Shop
from harness.running import RunningSystem

APPEND_BY_SEQUENCE = """
CREATE TABLE log (position bigserial PRIMARY KEY, event_id uuid NOT NULL);
CREATE FUNCTION append_event(event_id uuid) RETURNS bigint LANGUAGE sql AS
$$ INSERT INTO log (event_id) VALUES ($1) RETURNING position $$;
"""


async def test_a_position_from_a_sequence_is_found(postgres: Any, tmp_path: Path) -> None:
    """What nearly every event store on SQL does: two transactions commit in the reverse of the order in which they took
    their positions, and a subscriber who looks in between never sees the first.
    """
    dsn = await asyncio.to_thread(postgres.create_database)
    first, second, reader = [await asyncpg.connect(dsn) for _ in range(3)]
    ids = [uuid.UUID(int=number, version=4) for number in (1, 2)]
    checkpoint = 0
    try:
        await reader.execute(APPEND_BY_SEQUENCE)
        with Writer(tmp_path / "subscription-naive.jsonl") as subscription:
            subscription.write({"shards": [0], "categories": [], "buckets": []})

            async def poll() -> None:
                nonlocal checkpoint
                rows = await reader.fetch("SELECT * FROM log WHERE position > $1 ORDER BY position", checkpoint)
                if rows:
                    checkpoint = rows[-1]["position"]
                    subscription.write(
                        {
                            "connection": 1,
                            "shard": 0,
                            "checkpoint": checkpoint,
                            "positions": history.ranges([row["position"] for row in rows]),
                            "digest": history.digest([row["event_id"].bytes for row in rows]),
                        }
                    )

            earlier, later = first.transaction(), second.transaction()
            await earlier.start()
            await later.start()
            assert await first.fetchval("SELECT append_event($1)", ids[0]) == 1
            assert await second.fetchval("SELECT append_event($1)", ids[1]) == 2
            await later.commit()
            await poll()
            await earlier.commit()
            await poll()
        _tell_log(tmp_path, ids)
    finally:
        for connection in (first, second, reader):
            await connection.close()
    found = check(tmp_path)
    assert found.wrong == {findings.SUBSCRIPTIONS: 1}, found.report()
    assert "positions [1] were skipped" in found.examples[findings.SUBSCRIPTIONS][0]


def _tell_log(directory: Path, ids: list[uuid.UUID]) -> None:
    """The final log, in every other respect as it should be."""
    last = GENESIS
    with Writer(history.log_file(directory, 0)) as log:
        for position, identifier in enumerate(ids, 1):
            row: dict[str, Any] = {
                "position": position,
                "origin": position,
                "revision": 0,
                "stream": f"other-{position}",
                "bucket": 1,
                "category": "other",
                "type": "other.v1.Event",
                "event_id": str(identifier),
                "recorded_at": position,
                "payload": "",
                "metadata": "",
                "original_shard": None,
                "original_position": None,
            }
            last = hash_after(last, row)
            row["hash"] = base64.b64encode(last).decode()
            log.write([row[name] for name in COLUMNS])


class Saboteur:
    """Changes rows of a running system behind its back, and remembers what."""

    def __init__(self) -> None:
        self.lost = self.doubled = self.broken = self.corrupted = self.stale = ""

    async def __call__(self, system: RunningSystem, shop: Shop) -> None:
        """Do it all."""
        postgres = EmbeddedPostgres(system.local.places.state / POSTGRES)
        shards = [await asyncpg.connect(postgres.superuser_dsn(f"events_{shard}")) for shard in range(2)]
        catalogs = [await asyncpg.connect(postgres.superuser_dsn(f"catalog_{shard}")) for shard in range(2)]
        try:
            await self._answer_stale(catalogs, shop)
            await self._corrupt(catalogs)
            await self._lose(shards[0])
            await self._double(shards[1])
            await self._break(shards[0])
        finally:
            for connection in (*shards, *catalogs):
                await connection.close()

    async def _lose(self, shard: Any) -> None:
        """An acknowledged event is gone, as if it had never been."""
        self.lost = await shard.fetchval(
            """DELETE FROM events WHERE position = (SELECT max(position) FROM appends
                                                    WHERE stream LIKE 'chaos-%' AND also IS NULL)
               RETURNING stream"""
        )

    async def _double(self, shard: Any) -> None:
        """An acknowledged event is written once more, and everything about it is right."""
        self.doubled = await shard.fetchval(
            """WITH one AS (SELECT e.*, s.revision AS latest FROM events AS e JOIN streams AS s USING (stream)
                            WHERE e.category = 'chaos' AND e.original_shard IS NULL ORDER BY e.position LIMIT 1),
               next AS (SELECT one.*, h.position + 1 AS place, h.recorded_at AS now, h.hash AS before FROM one, head AS h)
               INSERT INTO events (position, origin, revision, stream, bucket, category, type, event_id, recorded_at, payload,
                                   metadata, hash)
               SELECT place, origin, latest + 1, stream, bucket, category, type, event_id, now, payload, metadata,
                      event_hash(before, place, origin, latest + 1, stream, bucket, category, type, event_id, now, payload,
                                 metadata, NULL, NULL)
               FROM next RETURNING stream"""
        )
        await shard.execute(
            "UPDATE head SET (position, hash) = (SELECT position, hash FROM events ORDER BY position DESC LIMIT 1)"
        )

    async def _break(self, shard: Any) -> None:
        """One bit of the metadata of an event is another one."""
        self.broken = str(
            await shard.fetchval(
                """UPDATE events SET metadata = set_bit(metadata, 9, 1 - get_bit(metadata, 9))
                   WHERE position = (SELECT max(position) / 2 FROM events) RETURNING position"""
            )
        )

    async def _corrupt(self, catalogs: list[Any]) -> None:
        """A document says another name than the log."""
        for catalog in catalogs:
            table = await _documents_of(catalog)
            self.corrupted = await catalog.fetchval(
                f"""UPDATE {table} SET document = convert_to(replace(convert_from(document, 'UTF8'), '"Made under fire."',
                    '"Made up."'), 'UTF8')
                    WHERE product_id = (SELECT product_id FROM {table} ORDER BY product_id LIMIT 1) RETURNING product_id::text"""
            )
            if self.corrupted:
                return

    async def _answer_stale(self, catalogs: list[Any], shop: Shop) -> None:
        """A row goes back to what it was before a write, and is read with the token of the write."""
        known = list(shop.shelf.values())[-1]
        self.stale = known.product
        async with shop.client() as http:
            await shop.log_in(http)
            person = Person(shop, "victim", http)
            before = [(catalog, await _row(catalog, known.product)) for catalog in catalogs]
            catalog, row = next((catalog, row) for catalog, row in before if row is not None)
            await person.write(person._price(Known(known.product, row["revision"], known.token)))
            written = shop.shelf[known.product]
            await person._get(written)
            await catalog.execute(
                f"UPDATE {await _documents_of(catalog)} SET document = $1, revision = $2 WHERE product_id = $3",
                row["document"],
                row["revision"],
                uuid.UUID(known.product),
            )
            for _ in range(10):
                await person._get(written)


async def _documents_of(catalog: Any) -> str:
    """The table of the documents that are served."""
    tables = await catalog.fetch(
        """SELECT DISTINCT c.table_schema, c.table_name FROM information_schema.columns AS c
           JOIN information_schema.tables AS t USING (table_schema, table_name)
           WHERE c.column_name = 'document' AND t.table_type = 'BASE TABLE' AND c.table_name LIKE 'products%'"""
    )
    filled = [f'"{row["table_schema"]}"."{row["table_name"]}"' for row in tables]
    counts = {table: await catalog.fetchval(f"SELECT count(*) FROM {table}") for table in filled}
    return max(counts, key=counts.__getitem__)


async def _row(catalog: Any, product: str) -> Any:
    return await catalog.fetchrow(
        f"SELECT document, revision FROM {await _documents_of(catalog)} WHERE product_id = $1", uuid.UUID(product)
    )


@pytest.mark.xdist_group("chaos")
@pytest.mark.timeout(300)
async def test_what_is_changed_behind_the_back_of_a_running_system_is_found(tmp_path: Path) -> None:
    """A lost append, a doubled one, a broken chain, a corrupted row of the read model and a stale read: each by its check."""
    saboteur = Saboteur()
    plan = Plan(
        seconds=5,
        seed=5,
        directory=tmp_path / f"history-{os.getpid()}",
        rate=150,
        people_rate=20,
        faults=0,
        own_network=False,
        moves=False,
    )
    counts, found = await run(plan, plant=saboteur)
    report = found.report()
    assert counts.quiet, report
    assert any(saboteur.lost in text for text in found.examples[findings.ONCE]), report
    assert any(saboteur.doubled in text and "2 times" in text for text in found.examples[findings.ONCE]), report
    assert any(f"position {saboteur.broken} does not hold" in text for text in found.examples[findings.CHAIN]), report
    assert any("the system says" in text for text in found.examples[findings.CHAIN]), report
    assert any(saboteur.corrupted in text and "Made up." in text for text in found.examples[findings.PROJECTION]), (
        report
    )
    assert any(saboteur.stale in text for text in found.examples[findings.FRESH]), report
    assert found.wrong.keys() <= {
        findings.ONCE,
        findings.CHAIN,
        findings.PROJECTION,
        findings.FRESH,
        findings.POSITIONS,
        findings.SUBSCRIPTIONS,
        findings.READS,
        findings.DENSE,
    }, report
