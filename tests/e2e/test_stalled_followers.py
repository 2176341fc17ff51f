"""Followers of the change feed that take nothing: the gateway does not keep for them what they do not take."""

import ssl
import time

import httpx
import psutil
import pytest
from harness.door import Door
from harness.running import RunningSystem

from .feed import car, recorded, revisions

pytestmark = pytest.mark.xdist_group("mortal")
STALLED = 8


def test_clients_that_take_nothing_cost_the_gateway_nothing(mortal: tuple[RunningSystem, Door]) -> None:
    """Eight of them stand still before twenty megabytes each."""
    system, door = mortal
    rows = [car(f"heavy-{number}", text="x" * 9_500) for number in range(2_000)]
    for start in range(0, len(rows), 800):
        job = door.await_end(door.submit_import(rows[start : start + 800])["job_id"])
        assert job["state"] == "succeeded"
    process = system.local.daemons()["gateway"].process()
    assert process is not None
    before = settled(process)
    tls = ssl.create_default_context(cafile=str(system.ca))
    clients = [
        httpx.Client(base_url=system.url, verify=tls, headers=door.http.headers, timeout=30) for _ in range(STALLED)
    ]
    streams = [client.stream("GET", "/v1/changes", params={"after": "start"}) for client in clients]
    try:
        for stream in streams:
            assert stream.__enter__().status_code == 200
        refused = door.call("GET", "/v1/changes")
        assert (refused.status_code, refused.json()["reason"]) == (429, "TOO_MANY_FEEDS")
        grown = settled(process) - before
        assert grown < 60e6, grown
    finally:
        for client in clients:
            client.close()
    # Nothing is lost to one who does take it, beginning anew.
    found = revisions(recorded(door, category="feed/cars"))
    assert all(found[f"heavy-{number}"] == [0] for number in range(2_000))


def settled(process: psutil.Process) -> int:
    """The memory of a process, once it has not grown for a second."""
    size, since = process.memory_info().rss, time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.05)
        if (now := process.memory_info().rss) > size + 1_000_000:
            size, since = now, time.monotonic()
    return size
