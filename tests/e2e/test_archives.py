"""Old events leave for files by the command line, and nobody who asks for them notices; a backup has them as well."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.door import Document, Door
from harness.running import RunningSystem, running_system

pytestmark = pytest.mark.xdist_group("archives")
ROWS = 300
PAST = "old/things"


def rows(name: str) -> list[Document]:
    return [
        {
            "sku": f"OLD-{number}",
            "kind": "general",
            "name": f"{name} {number}",
            "category": PAST,
            "attributes": {"brand": "Nomad"},
            "price": {"amount": f"{number}.00", "currency": "EUR"},
            "publish": True,
        }
        for number in range(1, ROWS + 1)
    ]


def almagest(system: RunningSystem, *arguments: str, code: int = 0) -> tuple[list[Any], str]:
    """What a command says of a system, and its complaints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ALMAGEST_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, "-m", "almagest_cli", *arguments, "--json"],
        env=inherited | {"ALMAGEST_STATE": str(system.local.places.state)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def log(system: RunningSystem, *arguments: str) -> list[Any]:
    """`almagest log` for a system."""
    return almagest(system, "log", *arguments)[0]


def catalog(door: Door, tokens: str = "") -> dict[str, Document]:
    """All products, and the histories of some."""
    found = list(door.items("/v1/products", category=PAST, headers={"Almagest-Consistency": tokens} if tokens else {}))
    histories = {one["sku"]: door.get(f"/v1/products/{one['product_id']}/history")["items"] for one in found[::30]}
    return {one["sku"]: {**one, "history": histories.get(one["sku"])} for one in found}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """A system of our own, whose archives hold a hundred events each."""
    told = {"ALMAGEST_ARCHIVE_EVENTS": "100"}
    with running_system(tmp_path_factory.mktemp("archived"), told=lambda _: told) as system:
        yield system


@pytest.fixture
def door(system: RunningSystem) -> Iterator[Door]:
    with Door.to(system) as door:
        yield door


def test_history_and_writes_go_on_over_archived_events(system: RunningSystem, door: Door) -> None:
    """Every product has its whole history, and takes further changes; the log is proven whole, files included."""
    job = door.await_end(door.submit_import(rows("Old"))["job_id"])
    before = catalog(door, ", ".join(job["consistency_tokens"]))
    assert len(before) == ROWS

    made = log(system, "archive", "--older-than", "0")
    assert {one["shard"] for one in made} == {0, 1}
    assert log(system, "archives") == made
    assert all(found["fault"] is None for found in log(system, "verify"))

    assert catalog(door) == before
    again = door.submit_import(rows("Anew"))
    assert door.await_end(again["job_id"])["state"] == "succeeded"
    product = before["OLD-1"]
    changed = door.get(f"/v1/products/{product['product_id']}/history")["items"]
    assert len(changed) == len(before["OLD-1"]["history"] or []) + 1


def person(door: Door) -> str:
    """A new person's id."""
    told = {"first_name": "Ada", "last_name": "L", "password": "correct horse battery", "roles": ["viewer"]}
    made = door.call("POST", "/v1/users", json={"email": f"ada-{uuid.uuid4()}@example.org", **told})
    assert made.is_success, made.text
    return str(made.json()["user_id"])


@pytest.mark.timeout(420)
def test_a_backup_is_restored_to_what_was_and_proven_to_be_it(
    system: RunningSystem, door: Door, tmp_path: Path
) -> None:
    """Products, histories, archives and people of then; what came later is gone, and who must not come back is named.
    `make rehearsal` does more of it.
    """
    forgotten = person(door)
    job = door.await_end(door.submit_import(rows("Backed up"))["job_id"])
    then = catalog(door, ", ".join(job["consistency_tokens"]))
    [made], _ = almagest(system, "backup", "make", str(tmp_path / "backup"))
    files = sorted(path.name for path in (tmp_path / "backup").rglob("*.events"))
    assert files == sorted(one["name"] for one in log(system, "archives"))
    assert door.await_end(door.submit_import(rows("Too late"))["job_id"])["state"] == "succeeded"
    assert door.call("POST", f"/v1/users/{forgotten}:forget").is_success

    restore = ("backup", "restore", str(tmp_path / "backup"), "--digest", made["digest"])
    assert "Almagest runs" in almagest(system, *restore, code=1)[1]
    system.local.down()
    system.local.start("postgres")
    assert "There is something already" in almagest(system, *restore, code=1)[1]
    [restored], _ = almagest(system, *restore, "--replace")
    assert restored["log"] == made["log"]
    assert restored["forgotten"] == [forgotten]
    system.local.up()
    with Door.to(system) as again:
        assert catalog(again) == then
        assert again.get(f"/v1/users/{forgotten}")["user_id"] == forgotten
        job = again.await_end(again.submit_import(rows("Afterwards"))["job_id"])
        assert job["progress"]["rows_changed"] == ROWS
        assert all(found["fault"] is None for found in log(system, "verify"))
