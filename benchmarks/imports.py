"""Rows per second of an import, from upload to visible in reads, beside COPY of the same rows into a plain table."""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

import asyncpg
import orjson
from almagest_cli.local.databases import OWNER
from almagest_cli.local.postgres import EmbeddedPostgres
from almagest_cli.local.system import System
from harness.door import Door

ROWS = 20_000


def _row(number: int) -> dict[str, object]:
    return {
        "sku": f"BENCH-{number}",
        "kind": "car",
        "name": f"Volvo V60 {number}",
        "text": "A car that carries what a family carries, in every weather. " * 4,
        "category": "vehicles/estate",
        "attributes": {
            "make": "Volvo",
            "model": "V60",
            "model_year": 1990 + number % 36,
            "body_styles": ["Estate"],
            "doors": 5,
        },
        "price": {"amount": f"{10_000 + number}.00", "currency": "EUR"},
        "publish": True,
    }


def main() -> None:
    """Import into a fresh system, import again, then COPY."""
    rows = [_row(number) for number in range(ROWS)]
    state = Path(tempfile.mkdtemp(prefix="almagest-imports-"))
    system = System(state)
    try:
        started = system.up()
        with Door(started.url, started.ca, email=started.admin.email, password=started.admin.password or "") as door:
            first = _import(door, rows)
            again = _import(door, rows)
        postgres = EmbeddedPostgres(state / "postgres", log=state / "logs" / "postgres.log")
        postgres.ensure({"reference": ()})
        copied = asyncio.run(_copy(postgres.dsn("reference", OWNER), rows))
    finally:
        system.reset()
        shutil.rmtree(state, ignore_errors=True)
    print(f"import of {ROWS} new rows (three events each), durable and visible:  {first:8.0f} rows/s")
    print(f"  of COPY: {first / copied:.3f}")
    print(f"the same import again (nothing changes):                           {again:8.0f} rows/s")
    print(f"COPY of the same rows into one table, no events, no checks:        {copied:8.0f} rows/s")


def _import(door: Door, rows: list[dict[str, object]]) -> float:
    began = time.monotonic()
    job = door.submit_import(rows)
    ended = door.await_end(job["job_id"], within=600)
    if ended["state"] != "succeeded":
        raise RuntimeError(f"the import failed: {ended}")
    fresh = {"Almagest-Consistency": ", ".join(ended["consistency_tokens"])}
    page = door.get("/v1/products", params={"page_size": 1, "category": "vehicles/estate"}, headers=fresh)
    if not page["items"]:
        raise RuntimeError("the import is not visible")
    return len(rows) / (time.monotonic() - began)


async def _copy(dsn: str, rows: list[dict[str, object]]) -> float:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("create table reference (sku text primary key, document bytea not null)")
        began = time.monotonic()
        records = [(row["sku"], orjson.dumps(row)) for row in rows]
        await connection.copy_records_to_table("reference", records=records)
        return len(rows) / (time.monotonic() - began)
    finally:
        await connection.close()
