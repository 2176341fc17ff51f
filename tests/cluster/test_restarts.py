"""Pods come and go, and nobody notices, or nothing is lost."""

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from harness.door import Door
from storm.load import Load

from .release import SERVICES, Release, database_servers, is_ready, until

pytestmark = pytest.mark.timeout(1800)
_BACK_SECONDS = 180


async def test_a_rolling_restart_of_everything_is_noticed_by_nobody(
    release: Release, two_of_each: None, load: Load
) -> None:
    """Every pod of every service is replaced under load: no request fails, no feed stands still, no import is lost."""
    before = set(release.lives())
    await load.run_while(asyncio.to_thread(release.restart, SERVICES))
    assert not before & set(release.lives())
    assert not load.failures, load.failures[:20]
    assert load.requests["create"] > 100
    assert load.feed_events > 100


class Writer:
    """Creates products one after the other, each with a key of its own, and asks again until it has an answer."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.created: list[str] = []
        self.slowest = 0.0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Write beside what is done within."""
        ended, failures = threading.Event(), list[BaseException]()

        def write() -> None:
            try:
                while not ended.is_set():
                    self._create()
            except BaseException as failure:  # noqa: BLE001 - told where the thread is waited for
                failures.append(failure)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        assert not failures, failures[0]

    def _create(self) -> None:
        sku, began = f"cluster-{uuid.uuid4()}", time.monotonic()
        answer = self._door.call(
            "POST",
            "/v1/products",
            json={"sku": sku, "kind": "general", "name": "Written while pods died"},
            headers={"Idempotency-Key": f'"{sku}"'},
            within=_BACK_SECONDS,
        )
        assert answer.status_code == 201, answer.text
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.created.append(sku)

    def assert_that_all_is_there(self) -> None:
        """Each product that was answered for exists, and was created once."""
        assert len(self.created) > 20
        for sku in self.created:
            history = self._door.get(f"/v1/products/sku:{sku}/history")["items"]
            assert [change["type"] for change in history] == ["ProductCreated"], sku


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_loses_a_pod_loses_nothing(
    release: Release, two_of_each: None, door: Door, service: str
) -> None:
    """One of two is killed without warning: whatever was answered is there, once, and the other goes on at once."""
    writer = Writer(door)
    with writer.at_work():
        lost = release.pods(service)[0]["metadata"]["name"]
        release.kill(lost)
        release.await_rollout(service)
    writer.assert_that_all_is_there()
    # A caller finds out by itself, at the latest when its deadline has passed and it asks the other.
    assert writer.slowest < 45


@pytest.mark.parametrize("server", [*database_servers()["event-store"], *database_servers()["auth"], "redis"])
def test_a_server_that_dies_comes_back_with_everything(release: Release, door: Door, server: str) -> None:
    """A database keeps what it acknowledged; without Redis nothing is lost. Until it is back, people are told to ask again."""
    pod = f"{release.full(server)}-0"
    writer = Writer(door)
    with writer.at_work():
        before = release.get("pod", pod)["metadata"]["uid"]
        release.kill(pod)
        until(
            lambda: release.get("statefulset", release.full(server))["status"].get("readyReplicas", 0),
            lambda ready: ready == 1,
            within=_BACK_SECONDS,
        )
        until(
            lambda: release.get("pod", pod),
            lambda found: found["metadata"]["uid"] != before and is_ready(found),
            within=_BACK_SECONDS,
        )
        # Some writes after it came back.
        count = len(writer.created)
        until(lambda: len(writer.created), lambda now: now > count + 20, within=_BACK_SECONDS)
    writer.assert_that_all_is_there()
