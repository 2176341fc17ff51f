"""Buckets move to another shard, by the command line, while an import runs: nobody notices but by the map."""

import json
import os
import subprocess
import sys
from typing import Any

import httpx
import pytest
from harness.door import Door
from harness.running import RunningSystem

# All on one system, which would be started once per process otherwise.
pytestmark = pytest.mark.xdist_group("mortal")
ROWS = 3_000
REVISION = 2
"""Of a product after it was created, priced and published."""


def row(name: str, number: int) -> dict[str, Any]:
    return {
        "sku": f"MOVED-{name}-{number}",
        "kind": "general",
        "name": f"Traveller {number}",
        "category": f"moves/{name}",
        "attributes": {"brand": "Nomad"},
        "price": {"amount": f"{number}.00", "currency": "EUR"},
        "publish": True,
    }


class Log:
    """`almagest log` for a system."""

    def __init__(self, system: RunningSystem) -> None:
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("ALMAGEST_", "OTEL_"))
        } | {"ALMAGEST_STATE": str(system.local.places.state), "COLUMNS": "200"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "almagest_cli", "log", *arguments, "--json"],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str) -> list[Any]:
        with self.start(*arguments) as process:
            out, problem = process.communicate(timeout=120)
        assert process.returncode == 0, f"{arguments}: {out}\n{problem}"
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def moving(mortal: tuple[RunningSystem, Door]) -> tuple[RunningSystem, Door, Log]:
    """A system whose buckets may be anywhere."""
    system, door = mortal
    return system, door, Log(system)


def assert_all_there(door: Door, name: str, tokens: list[str]) -> None:
    """Every product is listed once, is read by its SKU, and has its whole history."""
    fresh = {"Almagest-Consistency": ", ".join(tokens)}
    products = list(door.items("/v1/products", category=f"moves/{name}", headers=fresh))
    assert sorted(product["sku"] for product in products) == sorted(row(name, number)["sku"] for number in range(ROWS))
    assert {product["revision"] for product in products} == {REVISION}
    for product in products[:: ROWS // 40]:
        changes = door.get(f"/v1/products/{product['product_id']}/history")["items"]
        assert [change["revision"] for change in changes] == [2, 1, 0]


def buckets_of(log: Log, shard: int) -> list[list[int]]:
    [shown] = log("map")
    return shown["shards"][shard]["buckets"]


def test_an_import_goes_on_while_buckets_move_and_come_back(moving: tuple[RunningSystem, Door, Log]) -> None:
    """Each row takes effect once, each product is found where it is now, and the chains of both shards hold."""
    _, door, log = moving
    log("move", "--buckets", "0-511", "--to", "0")
    log("move", "--buckets", "512-1023", "--to", "1")
    [before] = log("map")
    job = door.submit_import([row("import", number) for number in range(ROWS)])
    running = door.await_job(job["job_id"], lambda seen: seen["progress"]["rows_done"] > 0)
    assert running["state"] == "running", "the import was over before anything moved: it needs more rows"
    there = log("move", "--buckets", "0-255", "--to", "1")
    back = log("move", "--buckets", "0-127", "--to", "0")
    # A version of the map for each slice of 32 buckets.
    epochs = [before["epoch"] + 8, before["epoch"] + 12]
    assert [(move[-1]["phase"], move[-1]["epoch"]) for move in (there, back)] == [("done", epoch) for epoch in epochs]
    assert all(0 < move[-1]["pause_seconds"] < 5 for move in (there, back))
    assert [piece["buckets"] for piece in back[-1]["slices"]] == [[n, n + 31] for n in range(0, 128, 32)]
    assert all(
        0 < piece["pause_seconds"] <= move[-1]["pause_seconds"]
        for move in (there, back)
        for piece in move[-1]["slices"]
    )

    ended = door.await_end(job["job_id"])

    assert ended["state"] == "succeeded", ended
    assert ended["progress"]["rows_created"] == ROWS
    assert_all_there(door, "import", ended["consistency_tokens"])
    assert buckets_of(log, 0) == [[0, 127], [256, 511]]
    assert [answer["fault"] for answer in log("verify")] == [None, None]
    assert [move["epoch"] for move in log("moves")][:2] == epochs[::-1]


def test_a_write_after_a_move_is_read_at_once_and_a_token_of_before_still_holds(
    moving: tuple[RunningSystem, Door, Log],
) -> None:
    """A client that goes by tokens notices nothing: neither the one it kept nor the one it gets is refused."""
    _, door, log = moving
    body = {"sku": "MOVED-ALONE", "kind": "general", "name": "Alone", "attributes": {}}
    created = door.call("POST", "/v1/products", json=body, headers={"Idempotency-Key": "moves-alone"})
    assert created.status_code == httpx.codes.CREATED, created.text
    path = created.headers["Location"]
    for to, amount in (("1", "10.00"), ("0", "20.00")):
        log("move", "--buckets", "0-1023", "--to", to)
        token = created.headers["Almagest-Consistency"]
        again = door.call("POST", "/v1/products", json=body, headers={"Idempotency-Key": "moves-alone"})
        assert again.json()["product_id"] == created.json()["product_id"]
        assert door.get(path, headers={"Almagest-Consistency": token})["name"] == "Alone"
        price = {"amount": amount, "currency": "EUR"}
        priced = door.call("PUT", f"{path}/price", json=price, headers={"Idempotency-Key": f"moves-price-{to}"})
        assert priced.is_success, priced.text
        fresh = {"Almagest-Consistency": priced.headers["Almagest-Consistency"]}
        assert door.get(path, headers=fresh)["price"] == price
    history = door.get(f"{path}/history")["items"]
    assert [change["revision"] for change in history] == [2, 1, 0]


def test_a_move_outlives_the_processes_that_work_on_it(moving: tuple[RunningSystem, Door, Log]) -> None:
    """The event store is killed right after it began, and started again: the same command follows the move to its end."""
    system, door, log = moving
    log("move", "--buckets", "0-1023", "--to", "0")
    with log.start("move", "--buckets", "0-700", "--to", "1") as first:
        assert first.stdout is not None
        assert json.loads(first.stdout.readline())["phase"] == "copying"
        system.kill("event-store")
        system.start("event-store")
        first.communicate(timeout=60)
    log("move", "--buckets", "0-700", "--to", "1")
    assert buckets_of(log, 1) == [[0, 700]]
    assert [answer["fault"] for answer in log("verify")] == [None, None]
    assert len(list(door.items("/v1/products", category="moves/import"))) == ROWS
