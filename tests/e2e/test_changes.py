"""The change feed of the whole system: whatever dies or is cut off, everybody hears of everything once, in order."""

import os
import random
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from harness.door import Door
from harness.running import RunningSystem

from .feed import Follower, car, recorded, revisions

pytestmark = pytest.mark.xdist_group("mortal")
DEATHS = ("catalog-query", "event-store", "gateway", "catalog-query", "event-store", "gateway")
PRODUCTS = 12


def test_every_follower_hears_of_every_event_once_and_in_order(mortal: tuple[RunningSystem, Door]) -> None:
    """Followers are cut off at random, and event-store, catalog-query and gateway are killed while somebody writes."""
    system, door = mortal
    chance = random.Random(7)  # noqa: S311
    followers = [
        Follower(system, seed=1),
        Follower(system, seed=2, after="start", category="feed"),
        Follower(system, seed=None),
        Follower(system, seed=3, type="PriceSet", category="feed"),
    ]
    for follower in followers:
        follower.start()
        assert follower.ready.wait(30)
    skus = [f"feed-{number}" for number in range(PRODUCTS)]
    done = threading.Event()
    trouble: list[BaseException] = []

    def write() -> None:
        try:
            with Door.to(system) as writer:
                for sku in skus:
                    writer.call("POST", "/v1/products", json=car(sku), headers={"Idempotency-Key": sku})
                number = 0
                while not done.is_set():
                    number += 1
                    sku = chance.choice(skus)
                    price = {"amount": f"{number}.00", "currency": "EUR"}
                    key = {"Idempotency-Key": f"price-{number}"}
                    writer.call("PUT", f"/v1/products/sku:{sku}/price", json=price, headers=key)
        except BaseException as failure:  # noqa: BLE001 - looked at below
            trouble.append(failure)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    for process in DEATHS:
        before = len(followers[2].changes)
        deadline = time.monotonic() + 60
        while len(followers[2].changes) < before + 20:
            assert time.monotonic() < deadline, (process, trouble, [one.failure for one in followers])
            time.sleep(0.02)
        system.kill(process)
        system.start(process)
    done.set()
    writer.join(60)
    assert not trouble, trouble

    truth = {sku: sorted(item["revision"] for item in door.items(f"/v1/products/sku:{sku}/history")) for sku in skus}
    assert all(found == list(range(len(found))) for found in truth.values())
    assert sum(map(len, truth.values())) > 20 * len(DEATHS)
    deadline = time.monotonic() + 60
    wanted = (truth, truth, truth, {sku: found[1:] for sku, found in truth.items() if found[1:]})
    for follower, all_of_it in zip(followers, wanted, strict=True):
        while revisions(follower.changes) != all_of_it and time.monotonic() < deadline:
            time.sleep(0.05)
        follower.end()
    for follower, all_of_it in zip(followers, wanted, strict=True):
        follower.stop()
        # In order, as they were heard: nothing is sorted here.
        assert revisions(follower.changes) == all_of_it
    # The gateway died twice; a follower who was only ever cut off by that noticed nothing else.
    assert followers[2].connections == 1 + DEATHS.count("gateway")
    assert all(follower.connections > 3 for follower in (followers[0], followers[1], followers[3]))
    assert revisions(recorded(door, category="feed")) == truth


def test_buckets_that_move_are_followed(mortal: tuple[RunningSystem, Door]) -> None:
    """To another shard and back, while somebody writes: copies are not told again, and a cursor of before leads on."""
    system, door = mortal
    skus = [f"moved-{number}" for number in range(PRODUCTS)]
    door.call("POST", "/v1/products", json=car("moved-before"))
    before = recorded(door)[-1]["cursor"]
    followers = [Follower(system, seed=None), Follower(system, seed=4), Follower(system, seed=5, after=before)]
    for follower in followers:
        follower.start()
        assert follower.ready.wait(30)
    done = threading.Event()
    trouble: list[BaseException] = []

    def write() -> None:
        try:
            with Door.to(system) as writer:
                for sku in skus:
                    writer.call("POST", "/v1/products", json=car(sku), headers={"Idempotency-Key": sku})
                number = 0
                while not done.is_set():
                    number += 1
                    price = {"amount": f"{number}.00", "currency": "EUR"}
                    sku = skus[number % len(skus)]
                    answer = writer.call("PUT", f"/v1/products/sku:{sku}/price", json=price)
                    assert answer.is_success, answer.text
        except BaseException as failure:  # noqa: BLE001 - looked at below
            trouble.append(failure)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    for buckets, shard in (("0-1023", 1), ("0-700", 0), ("300-1023", 1)):
        heard = len(followers[0].changes)
        deadline = time.monotonic() + 60
        while len(followers[0].changes) < heard + 20:
            assert time.monotonic() < deadline, (trouble, [one.failure for one in followers])
            time.sleep(0.02)
        move(system, buckets, shard)
    done.set()
    writer.join(60)
    assert not trouble, trouble

    truth = {sku: sorted(item["revision"] for item in door.items(f"/v1/products/sku:{sku}/history")) for sku in skus}
    deadline = time.monotonic() + 60
    for follower in followers:
        while revisions(follower.changes) != truth and time.monotonic() < deadline:
            time.sleep(0.05)
        follower.end()
    for follower in followers:
        follower.stop()
        assert revisions(follower.changes) == truth
    assert revisions(recorded(door, after=before)) == truth
    everything = revisions(recorded(door))
    assert {sku: everything[sku] for sku in skus} == truth


def move(system: RunningSystem, buckets: str, shard: int) -> None:
    """Move buckets to a shard, by the command line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ALMAGEST_", "OTEL_"))}
    command = [sys.executable, "-m", "almagest_cli", "log", "move", "--buckets", buckets, "--to", str(shard), "--json"]
    moved = subprocess.run(
        command,
        env=environment | {"ALMAGEST_STATE": str(system.local.places.state)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert moved.returncode == 0, moved.stdout + moved.stderr


def test_a_change_is_heard_of_at_once(mortal: tuple[RunningSystem, Door]) -> None:
    """From the answer to the write until the follower has it, and its token makes a read fresh."""
    system, door = mortal
    sku = "prompt"
    door.call("POST", "/v1/products", json=car(sku))
    follower = Follower(system, seed=None)
    follower.start()
    assert follower.ready.wait(30)
    took: list[float] = []
    for number in range(1, 61):
        price = {"amount": f"{number}.00", "currency": "EUR"}
        began = time.monotonic()
        revision = door.call("PUT", f"/v1/products/sku:{sku}/price", json=price).json()["revision"]
        deadline = time.monotonic() + 10
        while (sku, revision) not in follower.heard_at:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        took.append(follower.heard_at[sku, revision] - began)
    follower.stop()
    median = statistics.median(took)
    # Only that it is not a matter of polling: `make bench TOPIC=visibility` measures it.
    assert median < 0.1, took
    fresh = {"Almagest-Consistency": follower.changes[-1]["consistency_token"]}
    assert door.get(f"/v1/products/sku:{sku}", headers=fresh)["price"]["amount"] == "60.00"


def test_filters_of_the_door(mortal: tuple[RunningSystem, Door]) -> None:
    """By kind, category and type, also of what was before."""
    _, door = mortal
    part = {"sku": "part", "kind": "general", "name": "Wiper", "category": "feed/parts", "attributes": {}}
    door.call("POST", "/v1/products", json=part | {"price": {"amount": "9.00", "currency": "EUR"}})
    door.call("POST", "/v1/products", json=car("estate", price={"amount": "9.00", "currency": "EUR"}))

    def told(**parameters: Any) -> set[tuple[str, str]]:
        found = {(change["sku"], change["type"]) for change in recorded(door, **parameters)}
        return {one for one in found if one[0] in ("part", "estate")}

    assert told(kind="general") == {("part", "ProductCreated"), ("part", "PriceSet")}
    assert told(kind="vehicle", type="PriceSet") == {("estate", "PriceSet")}
    assert told(category="feed/parts", type="ProductCreated") == {("part", "ProductCreated")}
    assert told(category="feed", type="PriceSet") == {("part", "PriceSet"), ("estate", "PriceSet")}
    assert told(category="other") == set()


@pytest.mark.parametrize("where", ["query", "header"])
def test_what_is_no_cursor_is_refused(mortal: tuple[RunningSystem, Door], where: str) -> None:
    """As a problem that says what to do."""
    _, door = mortal
    sent: dict[str, Any] = {"params": {"after": "x"}} if where == "query" else {"headers": {"Last-Event-ID": "x"}}
    answer = door.call("GET", "/v1/changes", **sent)
    assert (answer.status_code, answer.json()["reason"]) == (400, "BAD_CURSOR")
    assert "start" in answer.json()["detail"]
