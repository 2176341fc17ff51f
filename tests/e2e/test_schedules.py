"""What is planned comes when it is due, once; what was wrong is corrected; what was is brought back."""

import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from harness.door import Door
from harness.running import Reached, RunningSystem

pytestmark = pytest.mark.xdist_group("system")


@pytest.fixture
def path(door: Door) -> str:
    """A published product with a price."""
    product = {
        "sku": f"planned-{uuid.uuid4().hex}",
        "kind": "general",
        "name": "Planned",
        "price": {"amount": "10.00", "currency": "EUR"},
        "publish": True,
    }
    answer = door.http.post("/v1/products", json=product)
    assert answer.status_code == 201, answer.text
    location = answer.headers["location"]
    door.get(location, headers={"Almagest-Consistency": answer.headers["almagest-consistency"]})
    return location


def ahead(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def plan(door: Door, path: str, effective_at: str, **change: Any) -> dict[str, Any]:
    answer = door.http.post(f"{path}/schedules", json={**change, "effective_at": effective_at, "reason": "a test"})
    assert answer.status_code == 201, answer.text
    return answer.json()


def listed(door: Door, path: str, token: str, **query: Any) -> list[dict[str, Any]]:
    headers = {"Almagest-Consistency": token}
    return door.get(f"{path}/schedules", params=query, headers=headers)["items"]


def euros(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "EUR"}


def all_three_are_due(page: dict[str, Any]) -> bool:
    now = datetime.now(UTC)
    return sum(datetime.fromisoformat(one["effective_at"]) < now for one in page["items"]) == 3


def test_a_price_takes_effect_when_it_is_due_and_once(door: Door, path: str) -> None:
    """Listed before, in force after, on behalf of who planned it; and what was cancelled never comes."""
    due = ahead(2)
    planned = plan(door, path, due, price=euros("7.00"))
    other = plan(door, path, ahead(2.5), published=False)
    open_ones = listed(door, path, other["consistency_token"])
    assert [one["schedule_id"] for one in open_ones] == [planned["schedule_id"], other["schedule_id"]]
    assert (open_ones[0]["price"], open_ones[1]["published"]) == (euros("7.00"), False)
    everywhere = door.items("/v1/schedules")
    assert planned["schedule_id"] in {one["schedule_id"] for one in everywhere}
    assert door.get(path)["price"] == euros("10.00")
    cancelled = door.http.delete(f"{path}/schedules/{other['schedule_id']}")
    assert (cancelled.status_code, cancelled.json()["changed"]) == (200, True)
    assert door.http.delete(f"{path}/schedules/{other['schedule_id']}").json()["changed"] is False

    door.await_that(path, lambda product: product["price"] == euros("7.00"), within=30)
    door.await_that(f"{path}/schedules?state=activated", lambda page: bool(page["items"]), within=10)
    late = plan(door, path, ahead(1), price=euros("6.00"))
    door.await_that(path, lambda product: product["price"] == euros("6.00"), within=30)
    history = door.get(f"{path}/history")["items"]
    types = [change["type"] for change in reversed(history)]
    assert types == [
        "ProductCreated",
        "PriceSet",
        "ProductPublished",
        "PriceScheduled",
        "PublicationScheduled",
        "ScheduleCancelled",
        "PriceSet",
        "PriceScheduled",
        "PriceSet",
    ]
    assert len({change["actor"] for change in history}) == 1
    recorded = datetime.fromisoformat(history[2]["recorded_at"])
    delay = (recorded - datetime.fromisoformat(due)).total_seconds()
    assert 0 <= delay < 20, delay
    ended = {one["schedule_id"]: one["state"] for one in listed(door, path, "", state=["activated", "cancelled"])}
    assert ended == {
        planned["schedule_id"]: "activated",
        other["schedule_id"]: "cancelled",
        late["schedule_id"]: "activated",
    }
    assert door.http.delete(f"{path}/schedules/{planned['schedule_id']}").json()["reason"] == "SCHEDULE_ENDED"


def test_a_worker_that_was_away_catches_up_in_the_order_of_time(door: Door, system: RunningSystem, path: str) -> None:
    """Each plan comes, the later over the earlier; one that somebody overtook meanwhile fails and says so."""
    system.kill("worker")
    try:
        plan(door, path, ahead(1.2), price=euros("3.00"))
        plan(door, path, ahead(0.6), price=euros("2.00"))
        plan(door, path, ahead(0.9), published=False)
        due = door.await_that(f"{path}/schedules", all_three_are_due)
        assert [one["price"] for one in due["items"]] == [euros("2.00"), None, euros("3.00")]
        first = door.get(f"{path}/schedules", params={"due_before": due["items"][1]["effective_at"]})
        assert first["items"] == due["items"][:1]
        # Asked for at once, after the plan to hide it was due: who comes late does not overrule that.
        for verb in ("unpublish", "publish"):
            assert door.http.post(f"{path}:{verb}", json={}).status_code == 200
    finally:
        system.start("worker")
    door.await_that(f"{path}/schedules", lambda page: not page["items"], within=60)
    product = door.await_that(path, lambda product: product["price"] == euros("3.00"), within=10)
    assert product["status"] == "published"
    failed = door.get(f"{path}/schedules", params={"state": "failed"})["items"]
    assert [(one["published"], one["failure"]) for one in failed] == [(False, "SUPERSEDED")]
    types = [change["type"] for change in reversed(door.get(f"{path}/history")["items"])]
    assert types[-3:] == ["PriceSet", "ScheduleFailed", "PriceSet"]


def test_the_past_is_corrected_and_brought_back(door: Door, path: str) -> None:
    """A correction that reaches the present changes it, one that does not leaves it; a restoration makes ordinary changes."""
    created_at = door.get(path)["created_at"]
    past = door.http.post(
        f"{path}/price:correct",
        json={**euros("9.00"), "effective_from": created_at, "effective_until": ahead(0), "reason": "a typo"},
    )
    assert past.status_code == 200, past.text
    assert door.get(path)["price"] == euros("10.00")
    present = door.http.post(f"{path}/price:correct", json={**euros("8.00"), "effective_from": created_at})
    assert present.json()["changed"] is True
    headers = {"Almagest-Consistency": present.headers["almagest-consistency"]}
    assert door.get(path, headers=headers)["price"] == euros("8.00")
    early = door.http.post(f"{path}/price:correct", json={**euros("8.00"), "effective_from": "2020-01-01T00:00:00Z"})
    assert (early.status_code, early.json()["errors"][0]["field"]) == (422, "effective_from")

    body = {"kind": "general", "name": "Renamed", "text": "new"}
    assert door.http.put(f"{path}/description", json=body).status_code == 200
    restored = door.http.post(f"{path}:restore", json={"revision": 2, "reason": "it was better"})
    assert restored.json()["changed"] is True, restored.text
    product = door.get(path, headers={"Almagest-Consistency": restored.headers["almagest-consistency"]})
    assert (product["name"], product["price"], product["status"]) == ("Planned", euros("10.00"), "published")
    again = door.http.post(f"{path}:restore", json={"revision": 2})
    assert again.json()["changed"] is False
    assert door.http.post(f"{path}:restore", json={"revision": 99}).json()["reason"] == "REVISION_NOT_FOUND"
    types = [change["type"] for change in door.get(f"{path}/history")["items"]]
    assert types[:4] == ["PriceSet", "ProductDescribed", "ProductDescribed", "PriceCorrected"]


def test_the_command_line_plans_lists_cancels_corrects_and_restores(door: Door, reached: Reached, path: str) -> None:
    """Each with --json, as programs use it."""
    environment = {
        **os.environ,
        "ALMAGEST_URL": reached.url,
        "ALMAGEST_CA": str(reached.ca),
        "ALMAGEST_TOKEN": door.http.headers["authorization"].removeprefix("Bearer "),
    }

    def almagest(*words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "almagest_cli", *words, "--json"],
            env=environment,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr.decode()
        return orjson.loads(done.stdout)

    product = path.rpartition("/")[2]
    planned = almagest("schedule", "price", product, "5.00", "eur", "--at", ahead(3600), "--reason", "a sale")
    almagest("schedule", "unpublish", product, "--at", ahead(3600))
    token = almagest("schedule", "publish", product, "--at", ahead(7200))["consistency_token"]
    assert len(listed(door, path, token)) == 3
    items = almagest("schedules", product, "--limit", "5")["items"]
    assert [one["published"] for one in items if one["price"] is None] == [False, True]
    assert almagest("unschedule", product, planned["schedule_id"])["changed"] is True
    created_at = door.get(path)["created_at"]
    assert almagest("correct", product, "4.00", "EUR", "--from", created_at)["changed"] is True
    assert almagest("restore", product, "2", "--reason", "back")["changed"] is True
