"""`almagest projections` against a system of its own: what an operator sees and does, with real events that are spoiled."""

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import asyncpg
import pytest
from almagest_cli.local.postgres import EmbeddedPostgres
from harness.door import Door
from harness.running import RunningSystem, running_system

pytestmark = pytest.mark.xdist_group("projections_command")
SHARDS = 2


def told(process: str) -> Mapping[str, str]:
    """The check for drift meets each of a few products within moments."""
    return {"ALMAGEST_DRIFT_PRODUCTS_A_SECOND": "200"} if process.startswith("catalog-query") else {}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running_system(tmp_path_factory.mktemp("projections"), told=told) as system:
        yield system


@pytest.fixture
def door(system: RunningSystem) -> Iterator[Door]:
    with Door.to(system) as door:
        yield door


@pytest.fixture
def projections(almagest: Callable[..., Any], system: RunningSystem) -> Callable[..., Any]:
    """The command, as the admin."""
    where = {"ALMAGEST_URL": system.url, "ALMAGEST_CA": str(system.ca)}
    done = almagest(
        "login", "--email", system.admin_email, "--password-stdin", stdin=f"{system.admin_password}\n", **where
    )
    assert done.code == 0, done.err

    def run(*arguments: str) -> Any:
        """As the exit code 3 tells, once more where the system was busy."""
        tried = almagest("projections", *arguments, timeout=120, **where)
        return almagest("projections", *arguments, timeout=120, **where) if tried.code == 3 else tried

    return run


@pytest.fixture
def product(door: Door) -> str:
    """A product with two events, which everybody can read."""
    sku = f"CLI-{uuid.uuid4().hex[:8]}"
    body = {"sku": sku, "kind": "general", "name": f"Lamp {sku}", "category": "cli", "attributes": {}}
    made = door.call("POST", "/v1/products", json=body).json()
    price = {"amount": "1.00", "currency": "EUR"}
    written = door.call("PUT", f"/v1/products/{made['product_id']}/price", json=price)
    fresh = {"Almagest-Consistency": written.headers["almagest-consistency"]}
    assert door.call("GET", f"/v1/products/{made['product_id']}", headers=fresh).json()["revision"] == 1
    return made["product_id"]


def execute(system: RunningSystem, database: str, statement: str, *values: Any) -> None:
    """Write where nobody should, in every shard."""
    postgres = EmbeddedPostgres(system.local.places.state / "postgres")

    async def everywhere() -> None:
        for shard in range(SHARDS):
            connection = await asyncpg.connect(postgres.dsn(f"{database}_{shard}"))
            try:
                await connection.execute(statement, *values)
            finally:
                await connection.close()

    asyncio.run(everywhere())


def rename(system: RunningSystem, product_id: str, *, to: str) -> None:
    """Let the second event of a product be of another type, as one of a newer version would be."""
    statement = "UPDATE events SET type = $2 WHERE stream = $1 AND revision = 1"
    execute(system, "events", statement, f"product-{product_id}", f"almagest.catalog.events.v1.{to}")
    # It remembers what it has read last.
    system.kill("event-store")
    system.start("event-store")


def test_a_generation_is_filled_previewed_switched_to_left_and_dropped(projections, product):
    """With what to do next, refusals in their exit codes, and JSON for programs."""
    refused = projections("rollback")
    assert (refused.code, "no generation to go back to" in refused.err) == (1, True)
    begun = projections("rebuild", "--json")
    assert begun.code == 0, begun.err
    number = begun.json["generation"]
    assert [one["comparison"]["different"] for one in begun.json["generations"]] == [0] * SHARDS
    again = projections("rebuild")
    assert f"Generation {number} is ready." in again.out
    assert "all the same" in again.out
    shown = projections("status")
    assert (shown.code, shown.out.count("serving"), shown.out.count("ready")) == (0, SHARDS, SHARDS)
    states = {
        (one["read_shard"], one["generation"]): one["state"]
        for one in projections("status", "--json").json["generations"]
    }
    assert states == {
        (shard, one): "serving" if one == 1 else "ready" for shard in range(SHARDS) for one in (1, number)
    }
    assert projections("preview", str(number), "--json").json["items"] == []
    assert "all the same" in projections("preview", str(number), "--anew").out
    assert projections("switch", str(number)).out == f"Reads go to generation {number}; before, they went to 1.\n"
    refused = projections("drop", str(number))
    assert refused.code == 5, refused.err
    assert projections("rollback").out == f"Reads go to generation 1; before, they went to {number}.\n"
    assert projections("drop", str(number), "--json").json == {"dropped": number}
    assert projections("drop", str(number)).code == 1
    assert projections("status", "-p", "nothing").code == 1


def test_a_difference_is_shown_and_must_be_accepted_by_name(projections, system, product):
    """By field, with what it is and what it would be."""
    execute(
        system,
        "catalog",
        "UPDATE products_1.products SET name_key = 'spoilt' WHERE product_id = $1",
        uuid.UUID(product),
    )
    number = str(projections("rebuild", "--json").json["generation"])
    shown = projections("preview", number)
    assert f'{product} revision 1 name_key: "spoilt" -> ' in shown.out
    assert "1  name_key" in shown.out
    assert projections("switch", number).code == 5
    assert projections("switch", number, "--accept", "sku").code == 5
    assert projections("switch", number, "--accept", "name_key").code == 0
    assert projections("rollback").code == 0
    assert projections("drop", number).code == 0
    assert projections("repair", product).code == 0


def test_what_is_parked_is_listed_retried_and_skipped(projections, system, door, product):
    """An event that nobody understands stands in the list with what is wrong; exit code 5 as long as it does."""
    assert projections("parked").out == "Nothing is parked.\n"
    rename(system, product, to="PriceBurnt")
    number = str(projections("rebuild", "--no-watch", "--json").json["generation"])
    at = "/v1/projections/products"
    [event] = door.await_that(f"{at}/parked", lambda page: len(page["items"]) == 1)["items"]
    listed = projections("parked")
    assert f"{event['parked_id']} PriceBurnt, revision 1 of {product}" in listed.out
    assert "tried once" in listed.out
    assert [one["parked_id"] for one in projections("parked", "--json").json["items"]] == [event["parked_id"]]
    still = projections("retry", event["parked_id"])
    assert (still.code, "0 products go on, 1 still cannot." in still.out) == (5, True)
    assert "tried 2 times" in still.out
    rename(system, product, to="PriceSet")
    assert projections("retry").out.startswith("1 products go on, 0 still cannot.")
    assert projections("parked", "--json").json["items"] == []
    door.await_that(at, lambda shown: all(one["state"] != "filling" for one in shown["generations"]))
    assert projections("drop", number).code == 0

    rename(system, product, to="PriceBurnt")
    number = str(projections("rebuild", "--no-watch", "--json").json["generation"])
    [event] = door.await_that(f"{at}/parked", lambda page: len(page["items"]) == 1)["items"]
    assert projections("skip", event["parked_id"]).code == 2
    skipped = projections("skip", event["parked_id"], "--reason", "written by mistake")
    assert (skipped.code, skipped.out) == (0, "It is left out; the product goes on.\n")
    assert projections("skip", event["parked_id"], "--reason", "again").code == 1
    rename(system, product, to="PriceSet")
    repaired = projections("repair", product, "--forget-skipped", "--json")
    assert (repaired.code, repaired.json["revision"]) == (0, 1), repaired.err
    door.await_that(at, lambda shown: all(one["state"] != "filling" for one in shown["generations"]))
    assert projections("drop", number).code == 0


@pytest.mark.parametrize(
    ("projection", "spoil", "field"),
    [
        ("products", "UPDATE products_1.products SET document = document || ' ' WHERE product_id = $1", "document"),
        (
            "versions",
            "UPDATE versions_1.product_versions SET category = 'spoilt' WHERE product_id = $1",
            "category",
        ),
    ],
)
def test_drift_is_listed_until_it_is_repaired(projections, system, door, product, projection, spoil, field):
    """With what differs, and exit code 1 for scripts that watch."""
    assert projections("drift", "-p", projection).code == 0
    execute(system, "catalog", spoil, uuid.UUID(product))
    door.await_that(f"/v1/projections/{projection}/drift", lambda page: bool(page["items"]), within=60)
    found = projections("drift", "--projection", projection)
    assert found.code == 1
    assert f"{product} different in {field}" in found.out
    assert "1 have drifted." in found.out
    assert [one["product_id"] for one in projections("drift", "-p", projection, "--json").json["items"]] == [product]
    repaired = projections("repair", product)
    assert repaired.out == "The product is at revision 1; 1 generations had something else.\n"
    assert projections("drift", "-p", projection).out == "None has been found.\n"
    assert projections("repair", product, "--json").json == {"revision": 1, "changed": 0}


def test_only_admins_get_anything(almagest, system, door):
    """Exit code 4, and no list."""
    email = f"{uuid.uuid4().hex}@example.com"
    person = {
        "email": email,
        "first_name": "V",
        "last_name": "W",
        "password": "correct horse battery",
        "roles": ["viewer"],
    }
    assert door.call("POST", "/v1/users", json=person).is_success
    where = {"ALMAGEST_URL": system.url, "ALMAGEST_CA": str(system.ca)}
    assert almagest("login", "--email", email, "--password-stdin", stdin="correct horse battery\n", **where).code == 0
    for command in (("status",), ("parked",), ("drift",), ("rebuild",), ("repair", str(uuid.uuid4()))):
        refused = almagest("projections", *command, **where)
        assert (refused.code, refused.out) == (4, ""), refused.err
