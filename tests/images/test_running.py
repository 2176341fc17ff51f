"""The six containers as a system: what it does, what it may not do, and how it ends."""

import time
from collections.abc import Iterator

import pytest
from almagest_cli.local.layout import SERVICES
from harness.door import Door

from .contained import Contained, within
from .engine import EngineFailed

NAMES = tuple(row.name for row in SERVICES)
GRACE_SECONDS = 15.0
"""What the chart gives at least, without the seconds before SIGTERM."""


@pytest.fixture(scope="module")
def door(system: Contained) -> Iterator[Door]:
    with Door.to(system.reached) as door:
        yield door


def test_a_product_is_created_read_changed_and_remembered(door: Door) -> None:
    """Through the door: who logged in creates, reads what they wrote, changes it, and sees both in its history."""
    product = {
        "sku": "CONTAINED-1",
        "kind": "general",
        "name": "Astrolabe in a box",
        "category": "instruments",
        "attributes": {"brand": "Hipparchus"},
        "price": {"amount": "12.50", "currency": "EUR"},
        "publish": True,
    }
    created = door.call("POST", "/v1/products", json=product, headers={"Idempotency-Key": "contained-1"})
    assert created.status_code == 201, created.text
    path = f"/v1/products/{created.json()['product_id']}"
    fresh = {"Almagest-Consistency": created.headers["Almagest-Consistency"]}
    read = door.get(path, headers=fresh)
    assert (read["sku"], read["name"]) == ("CONTAINED-1", "Astrolabe in a box")
    assert next(iter(door.items(f"{path}/history")))["type"]


def test_an_import_runs(door: Door) -> None:
    """A job goes through the worker, Redis and Postgres to its end."""
    rows = [
        {"sku": f"CONTAINED-ROW-{number}", "kind": "general", "name": f"Row {number}", "category": "instruments"}
        for number in range(20)
    ]
    job = door.await_end(door.submit_import(rows)["job_id"])
    assert job["state"] == "succeeded", job
    assert job["progress"]["rows_created"] == len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_its_health_command_says_that_it_is_well(system: Contained, name: str) -> None:
    """As HEALTHCHECK and exec probes run it."""
    system.containers[name].execute("python", "-m", "chassis.health")


@pytest.mark.parametrize("name", NAMES)
def test_the_service_is_the_first_process_and_may_do_nothing_more(system: Contained, name: str) -> None:
    """It is nobody's root, has no capability, gains none, and writes nowhere but to /tmp."""
    container = system.containers[name]
    command = container.execute("python", "-c", "print(open('/proc/1/cmdline').read().split(chr(0))[1:4])")
    assert command == str(["-m", name.replace("-", "_"), "serve"])
    status = dict(line.split(":\t", 1) for line in container.execute("cat", "/proc/1/status").splitlines())
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65532"}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    container.execute("python", "-c", "open('/tmp/seen', 'w').close()")
    for place in ("/app", "/venv", "/etc", "/var", "/run"):
        with pytest.raises(EngineFailed, match=r"Read-only file system|Permission denied"):
            container.execute("python", "-c", f"open('{place}/planted', 'w').close()")


def test_changed_sources_are_taken_up_by_an_image_for_development(system: Contained, developing: str) -> None:
    """The process begins again, serves, and still ends with 0 when it is told to."""
    name = "catalog-command"
    delivered = system.containers[name]
    delivered.signal("TERM")
    assert delivered.wait() == 0
    changing = system.containers[name] = system.run(name, image=developing, read_only=False)
    system.await_ready(name)
    changing.execute("sh", "-c", "echo '# changed' >> /app/services/catalog-command/catalog_command/__init__.py")
    for _ in within(20, what="a beginning"):
        if "sources have changed" in changing.log:
            break
    system.await_ready(name)
    changing.signal("TERM")
    assert changing.wait() == 0
    changing.remove()
    system.containers[name] = system.run(name)
    system.await_ready(name)
    delivered.remove()


def test_each_ends_with_0_when_it_is_told_to(system: Contained) -> None:
    """SIGTERM reaches the service, which has finished long before anybody would end it."""
    for name in reversed(NAMES):
        container = system.containers[name]
        begun = time.monotonic()
        container.signal("TERM")
        assert container.wait() == 0, container.log
        took = time.monotonic() - begun
        assert took < GRACE_SECONDS, (name, took)
