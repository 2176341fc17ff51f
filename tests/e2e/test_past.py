"""The past and the planned future over the whole system, as people ask about them."""

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from harness.door import Door
from harness.running import Reached

pytestmark = pytest.mark.xdist_group("system")
PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def viewer(door: Door, reached: Reached) -> Iterator[Door]:
    """Somebody who may read only."""
    email = f"viewer-{uuid.uuid4().hex[:8]}@example.com"
    person = {"email": email, "password": PASSWORD, "first_name": "Vi", "last_name": "Ewer", "roles": ["viewer"]}
    assert door.http.post("/v1/users", json=person).status_code == 201
    with Door(reached.url, reached.ca, email=email, password=PASSWORD) as viewer:
        yield viewer


class Product:
    """A product of a test, and what was answered to its changes."""

    def __init__(self, door: Door, name: str) -> None:
        self.http = door.http
        self.word = uuid.uuid4().hex[:12]
        self.sku = f"past-{self.word}"
        self.token = ""
        created = self._done(
            self.http.post(
                "/v1/products",
                json={
                    "sku": self.sku,
                    "kind": "general",
                    "name": f"{name} {self.word}",
                    "category": f"past/{self.word}",
                    "attributes": {},
                    "price": {"amount": "100.00", "currency": "EUR"},
                    "publish": True,
                },
            ),
            201,
        )
        self.id: str = created["product_id"]
        self.path = f"/v1/products/{self.id}"

    def _done(self, answer: httpx.Response, status: int = 200) -> Any:
        assert answer.status_code == status, answer.text
        self.token = answer.headers["almagest-consistency"]
        return answer.json()

    def price(self, amount: str, **more: Any) -> Any:
        return self._done(self.http.put(f"{self.path}/price", json={"amount": amount, "currency": "EUR", **more}))

    def post(self, verb: str, body: Any, status: int = 200) -> Any:
        return self._done(self.http.post(f"{self.path}{verb}", json=body), status)

    def changes(self) -> list[dict[str, Any]]:
        return ok(self.http.get(f"{self.path}/history"))["items"]

    def recorded(self) -> str:
        """When the last change was recorded."""
        return self.changes()[0]["recorded_at"]

    def at(self, as_of: str, **more: str) -> Any:
        return ok(self.http.get(self.path, params={"as_of": as_of, **more}))


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response, status: int) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


def earlier(text: str, **delta: float) -> str:
    return (datetime.fromisoformat(text) - timedelta(**delta)).isoformat()


def soon(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


def test_what_it_was_on_black_friday(door: Door) -> None:
    """A product by time and by position, its lists and its search, each as it was between two changes."""
    product = Product(door, "Kettle")
    created = product.recorded()
    product.price("80.00", reason="Black Friday")
    sale = product.changes()[0]
    described = {"kind": "general", "name": f"Samovar {product.word}", "category": "past/tea", "attributes": {}}
    product._done(product.http.put(f"{product.path}/description", json=described))
    product.price("120.00")
    token = {"Almagest-Consistency": product.token}

    assert product.at(created)["price"]["amount"] == "100.00"
    on_the_day = product.http.get(product.path, params={"as_of": sale["recorded_at"]})
    assert ok(on_the_day)["price"]["amount"] == "80.00"
    assert ok(on_the_day)["revision"] == sale["revision"]
    assert on_the_day.headers["cache-control"] == "private, no-cache"
    known = {"If-None-Match": on_the_day.headers["etag"]}
    again = product.http.get(product.path, params={"as_of": sale["recorded_at"]}, headers=known)
    assert again.status_code == 304
    by_position = product.http.get(f"/v1/products/sku:{product.sku}", params={"as_of": sale["position"]})
    assert ok(by_position)["price"]["amount"] == "80.00"
    assert "immutable" in by_position.headers["cache-control"]
    assert product.at(soon(seconds=-0.001)) == ok(product.http.get(product.path, headers=token))

    def names(path: str, **parameters: str) -> list[str]:
        page = ok(door.http.get(path, params=parameters, headers=token))
        return [f"{item['name'].split()[0]} {item['price']['amount']}" for item in page["items"]]

    then, words = sale["recorded_at"], {"text": product.word}
    assert names("/v1/products", category="past/tea", sku=product.sku) == ["Samovar 120.00"]
    assert names("/v1/products", category=f"past/{product.word}") == []
    assert names("/v1/products", category=f"past/{product.word}", as_of=then) == ["Kettle 80.00"]
    assert names("/v1/products", category=f"past/{product.word}", as_of=sale["position"]) == ["Kettle 80.00"]
    assert names("/v1/products", sku=product.sku, as_of=then, price_to="90.00", currency="EUR") == ["Kettle 80.00"]
    assert names("/v1/products:search", as_of=then, **words) == ["Kettle 80.00"]
    assert names("/v1/products:search", as_of=then, text=f"samovar {product.word}") == []
    assert names("/v1/products:search", as_of=earlier(created, seconds=1), **words) == []


def test_pages_of_the_past_stay_at_their_moment(door: Door) -> None:
    """What changes between two pages changes nothing on the second one."""
    products = [Product(door, f"Page{number}") for number in range(3)]
    category = f"past/{uuid.uuid4().hex[:8]}"
    for number, product in enumerate(products):
        described = {"kind": "general", "name": f"Page{number}", "category": category, "attributes": {}}
        product._done(product.http.put(f"{product.path}/description", json=described))
    token = {"Almagest-Consistency": ", ".join(product.token for product in products)}
    asked = {"category": category, "page_size": 2, "as_of": products[-1].recorded()}
    first = door.http.get("/v1/products", params=asked, headers=token)
    assert [item["name"] for item in ok(first)["items"]] == ["Page0", "Page1"]
    products[2].price("5.00")
    products[2].post(":discontinue", {"reason": "gone"})
    link = first.headers["link"].split(">")[0].lstrip("<")
    second = door.http.get(link, headers={"Almagest-Consistency": products[2].token})
    assert [(item["name"], item["status"]) for item in ok(second)["items"]] == [("Page2", "published")]
    assert second.headers["almagest-known-at"] == first.headers["almagest-known-at"]
    problem = refused(door.http.get(link.replace("page_size=2", "page_size=2&kind=car")), 400)
    assert problem["reason"] == "BAD_PAGE_TOKEN"


def test_a_correction_keeps_what_was_known_when(door: Door) -> None:
    """The price that really held, and the one that was believed to."""
    product = Product(door, "Lamp")
    created = product.recorded()
    product.price("80.00")
    before = product.recorded()
    product.post(
        "/price:correct",
        {"amount": "95.00", "currency": "EUR", "effective_from": created, "effective_until": before, "reason": "typo"},
    )
    token = {"Almagest-Consistency": product.token}
    assert product.at(created)["price"]["amount"] == "95.00"
    assert product.at(created, known_at=before)["price"]["amount"] == "100.00"
    assert ok(product.http.get(product.path, headers=token))["price"]["amount"] == "80.00"
    believed = {"sku": product.sku, "as_of": created, "known_at": before}
    assert ok(door.http.get("/v1/products", params=believed))["items"][0]["price"]["amount"] == "100.00"
    told = {"sku": product.sku, "as_of": created}
    assert ok(door.http.get("/v1/products", params=told))["items"][0]["price"]["amount"] == "95.00"
    change = product.changes()[0]
    assert (change["type"], change["fields"]) == ("PriceCorrected", [])
    assert change["facts"][0] == {"field": "price.amount", "value": "95.00"}
    assert datetime.fromisoformat(change["effective_until"]) == datetime.fromisoformat(before)
    explained = ok(product.http.get(f"{product.path}/explain", params={"field": "price.amount", "as_of": created}))
    assert (explained["value"], explained["before"]) == ("95.00", "100.00")
    assert (explained["set_by"]["type"], explained["set_by"]["reason"]) == ("PriceCorrected", "typo")


def test_what_is_planned_is_previewed_by_those_who_may_plan(door: Door, viewer: Door) -> None:
    """Ahead of time for editors, not for viewers; then it comes, and says who had planned it."""
    product = Product(door, "Tent")
    due = soon(days=30)
    planned = product.post(
        "/schedules", {"price": {"amount": "60.00", "currency": "EUR"}, "effective_at": due, "reason": "summer"}, 201
    )
    assert product.at(due)["price"]["amount"] == "60.00"
    assert product.at(earlier(due, seconds=1))["price"]["amount"] == "100.00"
    listed = ok(door.http.get("/v1/products", params={"sku": product.sku, "as_of": due}))
    assert listed["items"][0]["price"]["amount"] == "60.00"
    explained = ok(product.http.get(f"{product.path}/explain", params={"field": "price", "as_of": due}))
    assert explained["set_by"]["type"] == "PriceScheduled"
    assert explained["set_by"]["schedule_id"] == planned["schedule_id"]

    for path in (product.path, "/v1/products", "/v1/products:search?text=tent", f"{product.path}/explain?field=name"):
        problem = refused(
            viewer.http.get(path, params={"as_of": due} | dict(httpx.QueryParams(path.partition("?")[2]))), 403
        )
        assert problem["reason"] == "PREVIEW_NOT_ALLOWED"
        assert problem["metadata"]["scopes"] == "catalog:write"
    refused(viewer.http.get(f"{product.path}/diff", params={"from": "0", "to": due}), 403)
    [change, *_] = ok(viewer.http.get(f"{product.path}/history"))["items"]
    assert (change["type"], change["facts"], change["facts_withheld"]) == ("PriceScheduled", [], True)
    assert product.changes()[0]["facts"][0]["value"] == "60.00"

    near = soon(seconds=2)
    product.post(
        "/schedules", {"price": {"amount": "70.00", "currency": "EUR"}, "effective_at": near, "reason": "now"}, 201
    )
    came = await_that(product.changes, lambda changes: changes[0]["type"] == "PriceSet")[0]
    assert product.at(near)["price"]["amount"] == "70.00"
    explained = ok(product.http.get(f"{product.path}/explain", params={"field": "price.amount"}))
    assert explained["set_by"]["position"] == came["position"]
    assert (explained["scheduled_by"]["type"], explained["scheduled_by"]["reason"]) == ("PriceScheduled", "now")


def await_that(ask: Callable[[], Any], holds: Callable[[Any], bool], *, within: float = 60) -> Any:
    deadline = time.monotonic() + within
    while not holds(answer := ask()):
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    return answer


def test_two_versions_are_compared_by_field(door: Door) -> None:
    """By revision, by time and by position, in either direction; the history between two times."""
    product = Product(door, "Chair")
    last = product.changes()[0]
    product.price("80.00")
    changed = product.changes()[0]
    price = {"field": "price.amount", "before": "100.00", "after": "80.00"}
    for versions in (
        {"from": str(last["revision"])},
        {"from": last["recorded_at"], "to": str(changed["revision"])},
        {"from": last["position"], "to": changed["position"]},
    ):
        told = ok(product.http.get(f"{product.path}/diff", params=versions))
        assert (told["from_revision"], told["to_revision"]) == (last["revision"], changed["revision"])
        assert told["fields"] == [price]
    back = ok(product.http.get(f"{product.path}/diff", params={"from": str(changed["revision"]), "to": "0"}))
    assert [field["field"] for field in back["fields"]] == ["status", "price.amount", "price.currency"]
    between = ok(product.http.get(f"{product.path}/history", params={"from": changed["recorded_at"]}))
    assert [change["revision"] for change in between["items"]] == [changed["revision"]]
    until = ok(product.http.get(f"{product.path}/history", params={"to": last["recorded_at"], "page_size": 2}))
    assert [change["revision"] for change in until["items"]] == [2, 1]
    problem = refused(product.http.get(f"{product.path}/diff", params={"from": "99"}), 404)
    assert (problem["reason"], problem["metadata"]["last_revision"]) == ("REVISION_NOT_FOUND", "3")


def test_a_value_is_explained_by_the_row_of_the_import_that_set_it(door: Door) -> None:
    """Who, when, why, which job, which line of its file, which trace."""
    word = uuid.uuid4().hex[:10]
    lines = ["sku,kind,name,category,price_amount,price_currency"]
    lines += [f"{word}-{row},general,Row {row},things,{row}.50,EUR" for row in range(5)]
    submitted = door.http.post(
        "/v1/imports", params={"reason": "Spring"}, content="\n".join(lines), headers={"Content-Type": "text/csv"}
    )
    assert submitted.status_code == 202, submitted.text
    job = door.await_end(submitted.json()["job_id"])
    explained = ok(door.http.get(f"/v1/products/sku:{word}-3/explain", params={"field": "price.amount"}))
    assert explained["value"] == "3.50"
    set_by = explained["set_by"]
    assert (set_by["type"], set_by["job_id"], set_by["import_line"]) == ("PriceSet", job["job_id"], 5)
    assert (set_by["reason"], set_by["actor"]) == ("Spring", door.get("/v1/users/me")["user_id"])
    assert set_by["trace_id"]
    assert explained["links"]["job"] == f"/v1/jobs/{job['job_id']}"
    problem = refused(door.http.get(f"/v1/products/sku:{word}-3/explain", params={"field": "prize"}), 400)
    assert problem["reason"] == "FIELD_NOT_FOUND"
    assert "price.amount" in problem["errors"][0]["message"]


def test_before_there_was_a_product_it_says_since_when_there_is(door: Door) -> None:
    """404 tells when it came into being."""
    product = Product(door, "Vase")
    created = product.changes()[-1]
    problem = refused(product.http.get(product.path, params={"as_of": earlier(created["recorded_at"], days=1)}), 404)
    assert problem["reason"] == "PRODUCT_NOT_THERE"
    assert datetime.fromisoformat(problem["metadata"]["created_at"]) == datetime.fromisoformat(created["recorded_at"])
    shard, _, position = created["position"].partition(":")
    assert (problem["metadata"]["shard"], problem["metadata"]["position"]) == (shard, position)
    unknown = refused(door.http.get("/v1/products/sku:never-was", params={"as_of": created["recorded_at"]}), 404)
    assert unknown["reason"] == "PRODUCT_NOT_FOUND"


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"as_of": "yesterday"}, "as_of"),
        ({"as_of": "2026-02-30T00:00:00Z"}, "as_of"),
        ({"as_of": "2026-11-27"}, "as_of"),
        ({"as_of": "0:0"}, "as_of"),
        ({"as_of": "0:99999999999"}, "as_of"),
        ({"as_of": "77:1"}, "as_of"),
        ({"known_at": "2026-01-01T00:00:00Z"}, "known_at"),
        ({"as_of": "2026-01-01T00:00:00Z", "known_at": "2999-01-01T00:00:00Z"}, "known_at"),
        ({"as_of": "0:1", "known_at": "2026-01-01T00:00:00Z"}, "known_at"),
        ({"asof": "2026-01-01T00:00:00Z"}, "asof"),
    ],
)
def test_a_moment_that_is_none_is_refused_by_name(door: Door, parameters: dict[str, str], field: str) -> None:
    """On one product and on lists alike."""
    product = Product(door, "Mug")
    for path in (product.path, "/v1/products", "/v1/vehicles"):
        problem = refused(door.http.get(path, params=parameters), 400)
        assert problem["errors"][0]["field"] == field, (path, problem)
