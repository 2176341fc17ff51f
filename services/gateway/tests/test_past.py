import pytest

WHEN = "2026-11-27T00:00:00Z"


@pytest.fixture
async def path(client, car):
    """A product that is there."""
    await client.post("/v1/products", json=car)
    return "/v1/products/sku:volvo-v60"


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(WHEN, 1795737600), ("2026-11-27T01:00:00+01:00", 1795737600), ("2026-11-27t00:00:00.5z", 1795737600)],
)
async def test_a_time_is_looked_back_to_on_every_read_of_products(client, fakes, path, asked, seconds):
    """One product, lists, the search and vehicles take the same words, and say what they understood."""
    for where in (path, "/v1/products", "/v1/products:search?text=volvo", "/v1/vehicles", f"/v1/vehicles/{path[13:]}"):
        extra = {"text": "volvo"} if "search" in where else {}
        answer = await client.get(where.partition("?")[0], params={"as_of": asked, **extra})
        assert answer.status_code == 200, answer.text
        assert fakes.catalog.moments[-1].time.seconds == seconds
        assert answer.headers["almagest-as-of"].startswith("2026-11-27T00:00:00")
        assert answer.headers["almagest-known-at"] == "2026-11-22T16:30:00Z"
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["vary"] == "Authorization"


async def test_a_plus_that_was_not_escaped_is_meant(client, fakes, path):
    """What people type into curl."""
    answer = await client.get(f"{path}?as_of=2026-11-27T01:00:00+01:00")
    assert answer.status_code == 200, answer.text
    assert fakes.catalog.moments[-1].time.seconds == 1795737600


async def test_a_position_and_a_known_time_are_passed_on_and_may_be_kept(client, fakes, path):
    """What can never be answered otherwise again is cached, for the person alone."""
    by_position = await client.get(path, params={"as_of": "1:42"})
    position = fakes.catalog.moments[-1].position
    assert (position.shard, position.position) == (1, 42)
    assert by_position.headers["cache-control"] == "private, max-age=3600, immutable"
    known = await client.get("/v1/products", params={"as_of": WHEN, "known_at": "2026-11-28T00:00:00Z"})
    assert fakes.catalog.moments[-1].known_at.seconds == 1795824000
    assert "immutable" in known.headers["cache-control"]


async def test_a_document_of_the_past_has_a_tag_that_no_change_can_be_conditional_upon(client, path):
    """It spares sending it again, and is refused in If-Match."""
    then = await client.get(path, params={"as_of": WHEN})
    tag = then.headers["etag"]
    again = await client.get(path, params={"as_of": WHEN}, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert (await client.get(path, headers={"If-None-Match": tag})).status_code == 200
    price = {"amount": "1.00", "currency": "EUR"}
    assert (await client.put(f"{path}/price", json=price, headers={"If-Match": tag})).status_code == 400


async def test_without_a_moment_the_present_is_answered(client, fakes, path):
    """Also when the question goes through the routes, for its empty or unknown query."""
    answer = await client.get(f"{path}?")
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    unknown = await client.get(path, params={"at": WHEN})
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (400, "at")
    assert not fakes.catalog.moments


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"as_of": "now"}, "as_of"),
        ({"as_of": "2026-11-27"}, "as_of"),
        ({"as_of": "2026-11-27T00:00:00"}, "as_of"),
        ({"as_of": "2026-13-27T00:00:00Z"}, "as_of"),
        ({"as_of": "0001-01-01T00:00:00+23:00"}, "as_of"),
        ({"as_of": "0:0"}, "as_of"),
        ({"as_of": "0:9999999999999999999"}, "as_of"),
        ({"known_at": WHEN}, "known_at"),
        ({"as_of": WHEN, "known_at": "then, as it was known"}, "known_at"),
    ],
)
async def test_what_is_no_moment_is_refused_by_name(client, fakes, path, parameters, field):
    """Before any service is asked."""
    for where in (path, "/v1/products", f"{path}/explain"):
        extra = {"field": "price.amount"} if "explain" in where else {}
        answer = await client.get(where, params=parameters | extra)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
    assert not fakes.catalog.moments


async def test_versions_are_named_by_revision_time_or_position(client, fakes, path):
    """Two of them, or one and the present."""
    answer = await client.get(f"{path}/diff", params={"from": "1", "to": WHEN})
    assert answer.json()["fields"] == [{"field": "price.amount", "before": "1.00", "after": None}]
    assert (answer.json()["from_revision"], answer.json()["to_revision"]) == (1, 3)
    await client.get(f"{path}/diff", params={"from": "0:7"})
    first, second = fakes.catalog.diffs
    assert (getattr(first, "from").revision, first.to.moment.time.seconds) == (1, 1795737600)
    assert (getattr(second, "from").moment.position.position, second.HasField("to")) == (7, False)
    for parameters in ({}, {"from": "first"}, {"from": "-1"}, {"from": "1", "to": "last"}):
        assert (await client.get(f"{path}/diff", params=parameters)).status_code == 400


async def test_a_value_is_explained(client, path):
    """By the event, with the way to its job; a field that there is not is named."""
    told = (await client.get(f"{path}/explain", params={"field": "price.amount"})).json()
    assert (told["value"], told["before"], told["scheduled_by"]) == ("12.00", None, None)
    assert (told["set_by"]["import_line"], told["set_by"]["reason"]) == (7, None)
    assert told["links"]["job"] == f"/v1/jobs/{told['set_by']['job_id']}"
    wrong = await client.get(f"{path}/explain", params={"field": "prize"})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (400, "field")


async def test_a_history_is_asked_for_between_two_times(client, fakes, path):
    """Both ends may be left open; the cursor's link keeps them."""
    answer = await client.get(f"{path}/history", params={"from": "2026-11-01T00:00:00Z", "to": WHEN})
    asked = fakes.catalog.history_requests[-1]
    assert (asked.recorded_from.seconds, asked.recorded_to.seconds) == (1793491200, 1795737600)
    [change] = answer.json()["items"]
    assert (change["position"], change["effective_at"], change["facts"]) == ("0:0", None, [])
    refused = await client.get(f"{path}/history", params={"from": "2026-11-01T00:00:00+99:00"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "from")
