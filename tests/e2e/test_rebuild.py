"""What reads are answered from is rebuilt, previewed, switched and rolled back while the shop is open, whatever dies meanwhile."""

import asyncio
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
from almagest_cli.local.postgres import EmbeddedPostgres
from harness.door import Door
from harness.running import RunningSystem, running_system

pytestmark = pytest.mark.xdist_group("rebuild")
AT = "/v1/projections/products"
PRODUCTS = 400


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningSystem, Door]]:
    """A system of our own, with two replicas that project."""
    state = tmp_path_factory.mktemp("rebuild")
    with running_system(state, replicas={"catalog-query": 2}) as system, Door.to(system) as door:
        rows = [
            {
                "sku": f"REBUILD-{number}",
                "kind": "general",
                "name": f"Part {number}",
                "category": "rebuild",
                "attributes": {"brand": "Phoenix"},
                "price": {"amount": f"{number}.00", "currency": "EUR"},
                "publish": True,
            }
            for number in range(PRODUCTS)
        ]
        assert door.await_end(door.submit_import(rows)["job_id"])["state"] == "succeeded"
        yield system, door


class Customer(threading.Thread):
    """Writes prices and reads them back, each by the token of its write."""

    def __init__(self, system: RunningSystem) -> None:
        super().__init__(daemon=True)
        self._system = system
        self.stop = threading.Event()
        self.reads = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        with Door.to(self._system) as door:
            while not self.stop.is_set():
                number = self.reads + 1
                path = f"/v1/products/sku:REBUILD-{number % 7}"
                amount = f"{1000 + number}.00"
                key = {"Idempotency-Key": str(uuid.uuid4())}
                written = door.call("PUT", f"{path}/price", json={"amount": amount, "currency": "EUR"}, headers=key)
                if not written.is_success:
                    self.wrong.append(written.text)
                    return
                fresh = {"Almagest-Consistency": written.headers["almagest-consistency"]}
                read = door.call("GET", path, headers=fresh)
                if not read.is_success or read.json()["price"]["amount"] != amount:
                    self.wrong.append(f"{amount} was written, and read was {read.status_code} {read.text}")
                    return
                self.reads = number


@contextmanager
def a_customer(system: RunningSystem) -> Iterator[Customer]:
    customer = Customer(system)
    customer.start()
    try:
        yield customer
    finally:
        customer.stop.set()
        customer.join(90)
    assert customer.wrong == []
    assert customer.reads > 0


def states(door: Door) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for one in door.get(AT)["generations"]:
        found.setdefault(one["generation"], set()).add(one["state"])
    return found


def compared(document: dict[str, Any], generation: int) -> bool:
    mine = [one for one in document["generations"] if one["generation"] == generation]
    return len(mine) == 2 and all(one["comparison"] for one in mine)


def goes_on(customer: Customer, door: Door) -> None:
    """Some reads more, whatever has just been done."""
    seen = customer.reads
    door.await_that("/v1/users/me", lambda _: customer.reads > seen + 3 or bool(customer.wrong))


def test_a_rebuild_survives_deaths_and_nobody_notices_switch_or_rollback(shop: tuple[RunningSystem, Door]) -> None:
    """Every write is read back by its token at every step, and the generations say the same at the end."""
    system, door = shop
    with a_customer(system) as customer:
        begun = door.call("POST", f"{AT}:rebuild")
        assert (begun.status_code, begun.json()) == (202, {"generation": 2, "created": True})
        system.kill("catalog-query-2")
        assert door.call("POST", f"{AT}:rebuild").json() == {"generation": 2, "created": False}
        system.start("catalog-query-2")
        door.await_that(AT, lambda document: compared(document, 2))

        page = door.get(f"{AT}/generations/2/differences")
        assert page["comparison"]["compared"] == PRODUCTS
        assert page["items"] == []

        for generation, previous in ((2, 1), (1, 2), (2, 1)):
            switched = door.call("POST", f"{AT}/generations/{generation}:switch", json={})
            assert (switched.status_code, switched.json()["previous"]) == (200, previous), switched.text
            assert states(door)[generation] == {"serving"}
            assert states(door)[previous] == {"ready"}
            goes_on(customer, door)
        refused = door.call("DELETE", f"{AT}/generations/2")
        assert (refused.status_code, refused.json()["reason"]) == (409, "GENERATION_SERVES")
        assert door.call("DELETE", f"{AT}/generations/1").status_code == 204
        assert states(door) == {2: {"serving"}}
        goes_on(customer, door)
    listed = list(door.items("/v1/products", category="rebuild"))
    assert len(listed) == PRODUCTS


def test_rows_that_were_changed_behind_our_back_are_found_and_repaired(shop: tuple[RunningSystem, Door]) -> None:
    """By the check that goes on for ever, without anybody asking."""
    system, door = shop
    serving = next(one["generation"] for one in door.get(AT)["generations"] if one["state"] == "serving")
    right = {one["product_id"]: one for one in door.items("/v1/products", category="rebuild")}

    async def change() -> None:
        connection = await asyncpg.connect(EmbeddedPostgres(system.local.places.state / "postgres").dsn("catalog_0"))
        try:
            # Many, so that a check that draws a few at a time meets one soon.
            await connection.execute(
                f"UPDATE products_{serving}.products SET document = convert_to("  # noqa: S608 - a number
                "replace(convert_from(document, 'UTF8'), 'Part', 'Port'), 'UTF8')"
            )
        finally:
            await connection.close()

    asyncio.run(change())
    [found, *_] = door.await_that(f"{AT}/drift", lambda page: bool(page["items"]), within=120)["items"]
    product_id = found["product_id"]
    assert (found["kind"], found["fields"]) == ("different", ["document"])
    assert door.get(f"/v1/products/{product_id}")["name"].startswith("Port")

    repaired = door.call("POST", f"{AT}:repair", json={"product_id": product_id})
    assert repaired.json() == {"revision": right[product_id]["revision"], "changed": 1}
    assert door.get(f"/v1/products/{product_id}") == right[product_id]
    assert product_id not in [one["product_id"] for one in door.get(f"{AT}/drift")["items"]]
