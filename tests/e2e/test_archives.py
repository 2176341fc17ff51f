"""Old events leave for files by the command line, and nobody who asks for them notices."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from harness.door import Door
from harness.running import RunningSystem, running_system

ROWS = 300


def log(system: RunningSystem, *arguments: str) -> list[Any]:
    """`almagest log` for a system."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ALMAGEST_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, "-m", "almagest_cli", "log", *arguments, "--json"],
        env=inherited | {"ALMAGEST_STATE": str(system.local.places.state)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_history_and_writes_go_on_over_archived_events(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every product has its whole history, and takes further changes; the log is proven whole, files included."""
    monkeypatch.setenv("ALMAGEST_ARCHIVE_EVENTS", "100")
    rows = [
        {
            "sku": f"OLD-{number}",
            "kind": "general",
            "name": f"Old {number}",
            "category": "old/things",
            "attributes": {"brand": "Nomad"},
            "price": {"amount": f"{number}.00", "currency": "EUR"},
            "publish": True,
        }
        for number in range(1, ROWS + 1)
    ]
    with running_system(tmp_path_factory.mktemp("archived")) as system, Door.to(system) as door:
        job = door.await_end(door.submit_import(rows)["job_id"])
        fresh = {"Almagest-Consistency": ", ".join(job["consistency_tokens"])}
        products = list(door.items("/v1/products", category="old/things", headers=fresh))
        assert len(products) == ROWS
        before = {p["sku"]: door.get(f"/v1/products/{p['product_id']}/history")["items"] for p in products[::30]}

        made = log(system, "archive", "--older-than", "0")
        assert {one["shard"] for one in made} == {0, 1}
        assert log(system, "archives") == made
        assert all(found["fault"] is None for found in log(system, "verify"))

        for product in products[::30]:
            assert door.get(f"/v1/products/{product['product_id']}/history")["items"] == before[product["sku"]]
        again = door.submit_import([row | {"name": f"{row['name']} anew"} for row in rows])
        assert door.await_end(again["job_id"])["state"] == "succeeded"
        changed = door.get(f"/v1/products/{products[0]['product_id']}/history")["items"]
        assert len(changed) == len(before[products[0]["sku"]]) + 1
