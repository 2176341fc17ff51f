"""An upgrade from an earlier commit: `python tests/upgrade --from COMMIT [--rolling]`.

The processes of the earlier commit are started on a state directory and filled through the gateway. Then those of this
tree go on with the same state, and everything that was written must be there, take further changes, and be proven by
the chain of hashes. First of all, its chart must be one that this tree's can follow. Without `--rolling` all are stopped and started anew; with it they are replaced one by one while
somebody writes and reads, so that earlier and present ones speak to each other.

The earlier code runs with the packages of today: only the code of the tree is taken from the commit.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from almagest_cli.local.layout import SERVICES
from almagest_cli.local.maintenance import Maintenance
from almagest_cli.local.ports import free_usual_ports
from almagest_cli.local.system import CERTIFICATES, System
from harness.door import Document, Door

ROOT = Path(__file__).parents[2]
PRODUCTS = 200
ORDER = ("event-store", "auth", "catalog-query", "catalog-command", "worker", "gateway")
"""What is called before who calls it."""


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201 - it is a program


class Earlier:
    """The tree as it was at a commit."""

    def __init__(self, commit: str, directory: Path) -> None:
        tar = subprocess.run(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            archive.extractall(directory, filter="data")
        roots = [path.parent for path in sorted(directory.glob("**/pyproject.toml")) if path.parent != directory]
        self._path = os.pathsep.join(str(root) for root in roots)
        self.chart = directory / "helm" / "almagest"
        if (directory / "constraints.txt").read_bytes() != (ROOT / "constraints.txt").read_bytes():
            tell("note: its pinned packages were others; it runs with those of today")

    def almagest(self, state: Path, *arguments: str) -> str:
        """Run its command line."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ALMAGEST_", "OTEL_"))}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "almagest_cli", *arguments],
            env=inherited | {"ALMAGEST_STATE": str(state), "PYTHONPATH": self._path},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"almagest {' '.join(arguments)}, as it was then, failed:\n{done.stderr}{done.stdout}")
        return done.stdout


def follow(chart: Path) -> None:
    """See that `helm upgrade` can make the release of this tree of that of an earlier chart."""
    if not chart.is_dir():
        tell("there was no chart yet")
        return
    test = ROOT / "tests" / "helm" / "test_upgrading.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--earlier-chart", chart, "-k", "released", test], cwd=ROOT, check=False
    )
    if done.returncode:
        raise SystemExit("The chart of this tree cannot follow the earlier one.")
    tell("its chart can be followed by this one")


def rows(number: int) -> list[Mapping[str, Any]]:
    """What is imported."""
    return [
        {
            "sku": f"UP-{n}",
            "kind": "general",
            "name": f"Part {n} of {number}",
            "category": "upgraded/parts",
            "attributes": {"brand": "Perennial"},
            "price": {"amount": f"{n + 1}.{number:02}", "currency": "EUR"},
            "publish": True,
        }
        for n in range(PRODUCTS)
    ]


def read(door: Door, tokens: Sequence[str]) -> dict[str, tuple[Document, list[Document]]]:
    """Every product with its history, by SKU."""
    fresh = {"Almagest-Consistency": ", ".join(tokens)}
    found = list(door.items("/v1/products", category="upgraded/parts", headers=fresh))
    assert len(found) == PRODUCTS, f"{len(found)} products, and there should be {PRODUCTS}"
    histories = {one["sku"]: door.get(f"/v1/products/{one['product_id']}/history")["items"] for one in found[::10]}
    return {one["sku"]: (one, histories.get(one["sku"], [])) for one in found}


def missing(before: Any, after: Any, at: str = "") -> list[str]:
    """What was there before and is not any more, or is another thing; what came with the upgrade does not count."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [line for key in before for line in missing(before[key], after.get(key), f"{at}.{key}")]
    if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)) and len(before) == len(after):
        return [line for n, one in enumerate(before) for line in missing(one, after[n], f"{at}[{n}]")]
    return [] if before == after else [f"{at}: {before!r} became {after!r}"]


class Customer(threading.Thread):
    """Sets prices and reads each back by its token, asking again while a process is being replaced."""

    def __init__(self, door: Door) -> None:
        super().__init__(daemon=True)
        self._door = door
        self.stopping = threading.Event()
        self.changes = 0
        self.wrong: list[str] = []
        self.longest = 0.0

    def run(self) -> None:
        while not self.stopping.is_set():
            amount = f"{self.changes + 1}.50"
            path = f"/v1/products/sku:UP-{self.changes % PRODUCTS}"
            body, key = {"amount": amount, "currency": "EUR"}, {"Idempotency-Key": str(uuid.uuid4())}
            began = time.monotonic()
            try:
                written = self._door.call("PUT", f"{path}/price", json=body, headers=key)
                token = {"Almagest-Consistency": written.headers.get("almagest-consistency", "")}
                found = self._door.call("GET", path, headers=token)
                if not (written.is_success and found.is_success and found.json()["price"]["amount"] == amount):
                    self.wrong.append(
                        f"{amount} was set: {written.status_code}; read: {found.status_code} {found.text}"
                    )
            except Exception as error:  # noqa: BLE001 - told at the end, with all others
                self.wrong.append(repr(error))
            self.longest = max(self.longest, time.monotonic() - began)
            self.changes += 1


def roll(state: Path, door: Door) -> None:
    """Replace each process by its successor, while a customer goes on."""
    system = System(state, report=lambda name, said: tell(f"  {name} {said}"))
    maintenance = Maintenance(system)
    system.furnish()
    system.databases().ensure({name: (row.module,) for name, row in maintenance.sources().items()})
    customer = Customer(door)
    customer.start()
    try:
        for name in ORDER:
            row = next(row for row in SERVICES if row.name == name)
            if row.databases:
                maintenance.run(name, "migrate")
                tell(f"  {name} migrated, while its predecessor serves")
                after = customer.changes + 20
                until = time.monotonic() + 60
                while customer.changes < after and time.monotonic() < until:
                    time.sleep(0.05)
            system.stop(name)
            system.start(name)
        system.stop(CERTIFICATES)
        system.start(CERTIFICATES)
    finally:
        customer.stopping.set()
        customer.join(90)
    tell(
        f"  {customer.changes} changes meanwhile, the longest took {customer.longest:.1f} s, {len(customer.wrong)} wrong"
    )
    for line in customer.wrong[:20]:
        tell(f"    {line}")
    if customer.wrong:
        raise SystemExit("Changes were lost or refused while the processes were replaced.")


def main() -> None:
    """Fill, upgrade, compare."""
    parser = argparse.ArgumentParser(prog="python tests/upgrade", description=__doc__)
    parser.add_argument("--from", dest="commit", required=True, help="the earlier commit")
    parser.add_argument("--rolling", action="store_true", help="replace the processes one by one, under load")
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="almagest-upgrade-"))
    directory.chmod(0o711)
    state = directory / "state"
    try:
        tell(f"starting what was at {given.commit}")
        earlier = Earlier(given.commit, directory / "tree")
        follow(earlier.chart)
        ports = free_usual_ports()
        up = ("up", "--port", str(ports.gateway), "--base-port", str(min(ports.grpc.values())), "--json")
        started = orjson.loads(earlier.almagest(state, *up).splitlines()[-1])
        who = {"email": started["admin"]["email"], "password": started["admin"]["password"]}
        with Door(started["url"], Path(started["ca"]), **who) as door:
            for number in (1, 2):
                job = door.await_end(door.submit_import(rows(number))["job_id"])
                assert job["state"] == "succeeded", job
            before = read(door, job["consistency_tokens"])
            tell(f"{len(before)} products, imported and changed")
            if given.rolling:
                roll(state, door)
        if not given.rolling:
            earlier.almagest(state, "down")
            tell("stopped; starting what is here now")
            System(state).up()
        with Door(started["url"], Path(started["ca"]), **who) as door:
            after = read(door, [])
            lost = [] if given.rolling else missing(before, after)
            tell(f"{len(after)} products are there, {sum(len(history) for _, history in after.values())} changes read")
            for line in lost[:20]:
                tell(f"  {line}")
            job = door.await_end(door.submit_import(rows(3))["job_id"])
            assert (job["state"], job["progress"]["rows_changed"]) == ("succeeded", PRODUCTS), job
            tell("and can be changed")
        said = subprocess.run(
            [sys.executable, "-P", "-m", "almagest_cli", "log", "verify"],
            env=os.environ | {"ALMAGEST_STATE": str(state)},
            capture_output=True,
            text=True,
            check=False,
        )
        tell(f"log verify: {said.stdout.strip()}{said.stderr.strip()}")
        if lost or said.returncode:
            raise SystemExit("The upgrade has lost something.")
    finally:
        System(state).reset()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
