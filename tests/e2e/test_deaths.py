"""Any process may die in the middle of an import, the databases included: every accepted row takes effect exactly once."""

from typing import Any

import pytest
from harness.door import Door
from harness.running import RunningSystem

# All on one system, which would be started once per process otherwise.
pytestmark = pytest.mark.xdist_group("mortal")
ROWS = 3_000
CREATED_PRICED_PUBLISHED = 2
"""The revision of a product after its three first events."""

PROCESSES = ("gateway", "auth", "catalog-command", "event-store", "catalog-query", "worker", "postgres", "valkey")


def row(process: str, number: int) -> dict[str, Any]:
    return {
        "sku": f"DEATH-OF-{process}-{number}",
        "kind": "general",
        "name": f"Survivor {number}",
        "category": f"deaths/{process}",
        "attributes": {"brand": "Phoenix"},
        "price": {"amount": f"{number}.00", "currency": "EUR"},
        "publish": True,
    }


@pytest.mark.parametrize("process", PROCESSES)
def test_every_accepted_row_takes_effect_exactly_once(mortal: tuple[RunningSystem, Door], process: str) -> None:
    """The process is killed while the import runs and started again; the import ends by itself, complete and without a double."""
    system, door = mortal
    job = door.submit_import([row(process, number) for number in range(ROWS)])
    running = door.await_job(job["job_id"], lambda seen: seen["progress"]["rows_done"] > 0)
    assert running["state"] == "running", "the import was over before anything could die: it needs more rows"

    system.kill(process)
    system.start(process)

    ended = door.await_end(job["job_id"])
    assert ended["state"] == "succeeded", ended
    assert ended["progress"]["rows_created"] == ROWS
    assert ended["progress"]["rows_refused"] == 0
    fresh = {"Almagest-Consistency": ", ".join(ended["consistency_tokens"])}
    products = list(door.items("/v1/products", category=f"deaths/{process}", headers=fresh))
    assert sorted(product["sku"] for product in products) == sorted(
        row(process, number)["sku"] for number in range(ROWS)
    )
    assert {product["revision"] for product in products} == {CREATED_PRICED_PUBLISHED}
    assert {product["status"] for product in products} == {"published"}


def test_the_same_import_again_changes_nothing(mortal: tuple[RunningSystem, Door]) -> None:
    """Every row is found unchanged, and no product has another revision."""
    _, door = mortal
    rows = [row("twice", number) for number in range(300)]
    first = door.await_end(door.submit_import(rows)["job_id"])
    assert first["progress"]["rows_created"] == len(rows)

    second = door.await_end(door.submit_import(rows)["job_id"])

    assert second["state"] == "succeeded"
    assert second["progress"]["rows_unchanged"] == len(rows)
    fresh = {"Almagest-Consistency": ", ".join(first["consistency_tokens"])}
    products = list(door.items("/v1/products", category="deaths/twice", headers=fresh))
    assert {product["revision"] for product in products} == {CREATED_PRICED_PUBLISHED}
