"""Rows that are not what the log says are found, and written anew: over the real event store."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import schedules_pb2
from chassis.errors import RemoteProblem

from .operated import Operated, reason, rebuilt


async def test_drift_is_found_and_one_product_repaired(operated, build, eventually):
    """A changed document, a changed column, a missing and an extra row: each is found, and is right after the repair."""
    kinds = {"document": build.fresh(), "column": build.fresh(), "missing": build.fresh(), "extra": build.fresh()}
    for kind, sku in kinds.items():
        if kind != "extra":
            await operated.get(sku, await operated.write(sku, build.created(sku), build.price("1.00")))
    right = {kind: (await operated.get(sku)).document for kind, sku in kinds.items() if kind != "extra"}
    corrupt = {
        "document": "UPDATE products_1.products SET document = document || ' ' WHERE product_id = $1",
        "column": "UPDATE products_1.products SET price_amount = 7 WHERE product_id = $1",
        "missing": "DELETE FROM products_1.products WHERE product_id = $1",
        "extra": "INSERT INTO products_1.products (product_id, kind, revision, sku, name_key, category, status,"
        " updated_at, document, search) VALUES ($1, 'general', 4, 's', 'n', 'c', 'draft', now(), '{}', '')",
    }
    for kind, sku in kinds.items():
        async with operated.database(sku) as connection:
            await connection.execute(corrupt[kind], uuid.UUID(build.id_of(sku)))
    async with operated.checking() as check:
        for kind, sku in kinds.items():
            finding = await check(sku)
            assert finding is not None, kind
            assert finding.kind == {"document": "different", "column": "different"}.get(kind, kind)
    drift = {one.product_id: one for one in (await operated.ask("ListDrift", projection="products")).drift}
    assert set(drift) == {build.id_of(sku) for sku in kinds.values()}
    assert list(drift[build.id_of(kinds["document"])].fields) == ["document"]
    assert list(drift[build.id_of(kinds["column"])].fields) == ["price_amount"]
    for kind, sku in kinds.items():
        repaired = await operated.ask("RepairProduct", product_id=build.id_of(sku))
        assert repaired.changed == 1
        assert repaired.HasField("revision") is (kind != "extra")
    assert not (await operated.ask("ListDrift", projection="products")).drift
    for kind, document in right.items():
        assert (await operated.get(kinds[kind])).document == document
        # The projector goes on upon what is there now, not upon what it remembers.
        token = await operated.write(kinds[kind], build.price("2.00"))
        assert json.loads((await operated.get(kinds[kind], token)).document)["revision"] == 2
    with pytest.raises(RemoteProblem) as refused:
        await operated.get(kinds["extra"])
    assert reason(refused) == "PRODUCT_NOT_FOUND"

    async def whole() -> bool:
        # Its versions may still be on their way.
        return not (await operated.ask("RepairProduct", product_id=build.id_of(kinds["column"]))).changed

    await eventually(whole)


def _plan(amount: str, *, days: int) -> events.PriceScheduled:
    plan = events.PriceScheduled(schedule_id=str(uuid.uuid4()), price=events.Money(amount=amount, currency="EUR"))
    plan.effective_at.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    return plan


async def test_drift_of_versions_is_found_and_repaired(operated, build, eventually):
    """In what a version says, when it holds, which there are; and the projector goes on upon what is there then."""
    corrupt = {
        "document": "UPDATE versions_1.product_versions SET document = document || ' ' WHERE product_id = $1 AND made_by = 2",
        "words": "UPDATE versions_1.product_versions SET search = 'other' WHERE product_id = $1",
        "valid": "UPDATE versions_1.product_versions SET valid_from = valid_from - interval '1 hour' WHERE product_id = $1",
        "superseded": "UPDATE versions_1.product_versions SET superseded_at = 'infinity' WHERE product_id = $1",
        "gone": "DELETE FROM versions_1.product_versions WHERE product_id = $1",
        "behind": "DELETE FROM versions_1.product_versions WHERE product_id = $1 AND made_by = 2",
        "extra": "INSERT INTO versions_1.product_versions SELECT gen_random_uuid(), kind, revision, sku, name_key, category,"
        " status, price_amount, price_currency, updated_at, document, search, make_key, model_key, model_year, doors,"
        " seats, payload_kg, gross_weight_kg, 0, valid_from, valid_to, recorded_from, recorded_to, superseded_at, planned"
        " FROM versions_1.product_versions WHERE product_id = $1 LIMIT 1 RETURNING product_id",
    }
    kinds = {kind: build.fresh() for kind in corrupt}
    for sku in kinds.values():
        await operated.write(sku, build.created(sku, build.general(f"Lamp {sku}")))
        await operated.write(sku, build.price("1.00"))
        await operated.write(sku, _plan("2.00", days=3))
    await eventually(lambda: _caught_up(operated, "versions"))
    async with operated.checking() as check:
        for kind, sku in kinds.items():
            assert await check(sku, "versions") is None, kind
        for kind, sku in kinds.items():
            async with operated.database(sku) as connection:
                await connection.execute(corrupt[kind], uuid.UUID(build.id_of(sku)))
        found = {kind: await check(sku, "versions") for kind, sku in kinds.items()}
        assert {kind: one and one.kind for kind, one in found.items()} == {
            "document": "different",
            "words": "different",
            "valid": "different",
            "superseded": "different",
            "gone": "missing",
            "behind": "behind",
            "extra": None,
        }
        assert (found["document"].fields, found["words"].fields) == (["document"], ["search"])
        assert found["valid"].fields == ["versions"]
        drift = (await operated.ask("ListDrift", projection="versions")).drift
        assert {one.product_id for one in drift} == {build.id_of(sku) for kind, sku in kinds.items() if found[kind]}
        for kind, sku in kinds.items():
            assert (await operated.ask("RepairProduct", product_id=build.id_of(sku))).changed == (kind != "extra"), kind
            await operated.write(sku, build.price("3.00"))
        await eventually(lambda: _caught_up(operated, "versions"))
        assert [await check(sku, "versions") for sku in kinds.values()] == [None] * len(kinds)
    assert not (await operated.ask("ListDrift", projection="versions")).drift


async def _caught_up(operated: Operated, projection: str) -> bool:
    heads = (await operated.log.shard_map()).heads
    generations = (await operated.generations(projection)).values()
    return all(
        one.checkpoint == heads[one.event_shard]
        for generation in generations
        if generation.state == "serving"
        for one in generation.progress
    )


async def test_schedules_that_are_not_what_the_log_says_are_found_repaired_and_made_anew_by_a_rebuild(
    operated, build, eventually
):
    """One that is missing, one that says something else, one that ended only here, one that nobody made."""
    corrupt = {
        "missing": "DELETE FROM products_1.schedules WHERE product_id = $1",
        "price": "UPDATE products_1.schedules SET price_amount = '9.00' WHERE product_id = $1",
        "ended": "UPDATE products_1.schedules SET state = 'cancelled', ended_at = now() WHERE product_id = $1",
        "extra": "INSERT INTO products_1.schedules SELECT gen_random_uuid(), product_id, price_amount, price_currency,"
        " published, effective_at, scheduled_by, scheduled_at, reason, state FROM products_1.schedules WHERE product_id = $1",
    }
    kinds = {kind: build.fresh() for kind in corrupt}
    for sku in kinds.values():
        token = await operated.write(sku, build.created(sku), build.price(), _plan("2.00", days=3))
        await operated.get(sku, token)

    async def spoil() -> None:
        for kind, sku in kinds.items():
            async with operated.database(sku) as connection:
                await connection.execute(corrupt[kind], uuid.UUID(build.id_of(sku)))

    right = await _listed(operated)
    assert len(right) == len(kinds)
    await spoil()
    assert await _listed(operated) != right
    async with operated.checking() as check:
        for kind, sku in kinds.items():
            finding = await check(sku)
            assert finding is not None, kind
            assert (finding.kind, finding.fields) == ("different", ["schedules"]), kind
            assert (await operated.ask("RepairProduct", product_id=build.id_of(sku))).changed == 1, kind
            assert await check(sku) is None, kind
    assert await _listed(operated) == right
    await spoil()
    generation = await rebuilt(operated, eventually)
    await operated.ask("SwitchGeneration", projection="products", generation=generation)
    await eventually(lambda: _lists(operated, right))
    await operated.ask("DropGeneration", projection="products", generation=1)
    assert await _listed(operated) == right


async def _listed(operated: Operated) -> list[tuple[str, str, str, int]]:
    request = schedules_pb2.ListSchedulesRequest(states=[1, 2, 3, 4], page_size=100)
    metadata = (("txn-token", operated.tokens(roles=("editor",))),)
    page = await operated.schedules.ListSchedules(request, metadata=metadata, timeout=15)
    return sorted((one.schedule_id, one.product_id, one.price.amount, one.state) for one in page.schedules)


async def _lists(operated: Operated, wanted: list[tuple[str, str, str, int]]) -> bool:
    return await _listed(operated) == wanted
