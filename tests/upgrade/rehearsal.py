"""A backup and everything that may befall its restore, rehearsed: `python tests/upgrade/rehearsal.py`, `make rehearsal`.

A system is filled and backed up, then changed. Into the same databases go: a backup with a changed file, one whose
manifest lies about the log, one whose restore is killed at a random moment, the whole one, and an earlier position of
it. After each it is looked whether something is served, and what.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from almagest_cli.backups.manifest import Manifest
from almagest_cli.local.errors import LocalError
from almagest_cli.local.ports import free_ports
from almagest_cli.local.system import System
from harness.door import Document, Door

PRODUCTS = 500


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201 - it is a program


class Shop:
    """A system below a directory, and who asks it."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.system = System(self.state, ports=free_ports())
        started = self.system.up()
        self._who = {"email": started.admin.email, "password": started.admin.password or ""}

    def door(self) -> Door:
        return Door(self.system.url, self.system.places.ca, **self._who)

    def write(self, name: str) -> Document:
        """Import, and answer what is there then, by SKU."""
        rows = [
            {
                "sku": f"RE-{n}",
                "kind": "general",
                "name": f"{name} {n}",
                "category": "rehearsal",
                "attributes": {"brand": "Encore"},
                "price": {"amount": f"{n + 1}.00", "currency": "EUR"},
                "publish": True,
            }
            for n in range(PRODUCTS)
        ]
        with self.door() as door:
            job = door.await_end(door.submit_import(rows)["job_id"])
            assert job["state"] == "succeeded", job
            return self.read(", ".join(job["consistency_tokens"]))

    def read(self, tokens: str = "") -> Document:
        """All products with the histories of some; once the read side has caught up."""
        with self.door() as door:
            until = time.monotonic() + 60
            while True:
                headers = {"Almagest-Consistency": tokens} if tokens else {}
                found = list(door.items("/v1/products", category="rehearsal", headers=headers))
                if len(found) == PRODUCTS or time.monotonic() > until:
                    break
                time.sleep(0.1)
            of = {one["sku"]: door.get(f"/v1/products/{one['product_id']}/history")["items"] for one in found[::50]}
            return {one["sku"]: {**one, "history": of.get(one["sku"])} for one in found}

    def command(self, *arguments: str, kill_after: float | None = None) -> tuple[int, Any, str]:
        """How `almagest backup ...` ended, what it said, and its complaints."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ALMAGEST_", "OTEL_"))}
        with subprocess.Popen(
            [sys.executable, "-m", "almagest_cli", "backup", *arguments, "--json"],
            env=inherited | {"ALMAGEST_STATE": str(self.state)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                said, complained = process.communicate(timeout=kill_after)
            except subprocess.TimeoutExpired:
                process.kill()
                said, complained = process.communicate()
        lines = said.splitlines()
        return process.returncode, json.loads(lines[-1]) if lines else None, complained.strip()

    def is_refused(self) -> bool:
        """Whether what is there now is not served."""
        try:
            self.system.up()
        except LocalError as error:
            return "a restore is under way" in str(error)
        return False


def rehearse(shop: Shop, directory: Path) -> None:
    """All of it."""
    shop.write("First")
    first_at = datetime.now(UTC)
    earlier = shop.read()
    later = shop.write("Second")
    backup = directory / "backup"
    began = time.monotonic()
    code, made, said = shop.command("make", str(backup))
    assert code == 0, said
    seconds = time.monotonic() - began
    tell(f"backup made in {seconds:.1f} s, {made['bytes']} bytes, log {made['log']}")
    shop.write("After the backup")
    shop.system.down()

    spoil(shop, directory, backup, made)
    interrupt(shop, backup)
    began = time.monotonic()
    code, restored, said = shop.command("restore", str(backup), "--replace", "--digest", made["digest"])
    assert code == 0, said
    assert restored["log"] == made["log"]
    tell(f"restored in {time.monotonic() - began:.1f} s, log {restored['log']}")
    shop.system.up()
    assert shop.read() == later
    tell(f"{PRODUCTS} products with their histories are what they were when it was made")
    shop.write("After the restore")
    shop.system.down()

    code, restored, said = shop.command("restore", str(backup), "--replace", "--time", first_at.isoformat())
    assert code == 0, said
    tell(f"restored to {first_at.isoformat()}: log {restored['log']}")
    shop.system.up()
    assert shop.read() == earlier
    tell(f"{PRODUCTS} products with their histories are what they were then")
    shop.write("Another future")
    tell("and can be changed")


def spoil(shop: Shop, directory: Path, backup: Path, made: Document) -> None:
    """Backups that are not what was made."""
    changed = Path(shutil.copytree(backup, directory / "changed"))
    with (changed / "events_1.dump").open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    code, _, said = shop.command("restore", str(changed), "--replace")
    assert (code, "events_1.dump was changed" in said) == (1, True), said
    tell(f"one bit of a file: {json.loads(said)['error']}")

    lying = Path(shutil.copytree(backup, directory / "lying"))
    manifest = Manifest.read(lying)
    one, other = manifest.log
    told = tuple(replace(each, hash=other.hash) if each == one else each for each in manifest.databases)
    replace(manifest, databases=told).write(lying)
    code, _, said = shop.command("restore", str(lying), "--digest", made["digest"])
    assert (code, "another backup" in said) == (1, True), said
    tell(f"a manifest of somebody else's: {json.loads(said)['error']}")
    code, _, said = shop.command("restore", str(lying), "--replace")
    assert (code, "was changed on the way" in said) == (1, True), said
    tell(f"the same, without the digest: {json.loads(said)['error']}")
    assert shop.is_refused()
    tell("and it is not served")


def interrupt(shop: Shop, backup: Path) -> None:
    """Restores that are killed."""
    for _ in range(3):
        after = random.uniform(1, 8)  # noqa: S311
        code, _, _ = shop.command("restore", str(backup), "--replace", kill_after=after)
        if code == 0:
            tell(f"not killed: it had ended within {after:.1f} s")
            continue
        shop.system.down()
        assert shop.is_refused()
        tell(f"killed after {after:.1f} s: not served")


def main() -> None:
    """Rehearse in a directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix="almagest-rehearsal-"))
    directory.chmod(0o711)
    shop = Shop(directory)
    try:
        rehearse(shop, directory)
    finally:
        shop.system.reset()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
