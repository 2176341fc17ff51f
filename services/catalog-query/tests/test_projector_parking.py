"""Events that cannot be applied: parked, with what follows them in their streams, and nothing else."""

import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from catalog_query.domain import folding
from catalog_query.domain.product import evolve
from prometheus_client import REGISTRY

from .projecting import PAIR, TARGET, Told, caught_up, fill, projecting, projector, stored


@pytest.mark.parametrize("poison", ["unknown type", "unreadable", "gap", "refused by the database", "breaks the fold"])
async def test_a_poisonous_event_stops_its_stream_only(read_model, log_fake, build, eventually, monkeypatch, poison):
    """It is parked with what is wrong, what follows in its stream is held behind it, and all else goes on."""
    log = log_fake(1)
    fill(log, build, events_=20)
    sku = str(uuid.uuid4())
    product_id = build.id_of(sku)
    log.append(product_id, build.created(sku))
    kind, revision, payload, what = {
        "unknown type": ("almagest.catalog.events.v1.PriceBurnt", 1, b"", "unknown event type"),
        "unreadable": ("almagest.catalog.events.v1.PriceSet", 1, b"\xff\xff", "unreadable"),
        "gap": ("almagest.catalog.events.v1.PriceSet", 2, build.price().SerializeToString(), "revision 1 was expected"),
        # An amount that is no number is refused by Postgres, and found by halving.
        "refused by the database": (
            "almagest.catalog.events.v1.PriceSet",
            1,
            build.price("dear").SerializeToString(),
            "the database refuses the row",
        ),
        "breaks the fold": ("almagest.catalog.events.v1.PriceSet", 1, b"", "ZeroDivisionError while applying"),
    }[poison]
    if poison == "breaks the fold":
        applied = folding.evolve

        def breaking(document: Any, event: Any) -> Any:
            if event.stream == f"product-{product_id}" and event.revision:
                raise ZeroDivisionError("a secret")
            return applied(document, event)

        monkeypatch.setattr(folding, "evolve", breaking)
    bad = log.put(product_id, revision, kind, payload)
    log.put(product_id, revision + 1, "almagest.catalog.events.v1.ProductPublished", b"")
    fill(log, build, seed=2)
    parked_before = REGISTRY.get_sample_value("almagest_projection_parked_total", PAIR) or 0
    told = Told()
    one = projector(log, read_model[0], told=told)
    async with projecting(one):
        await eventually(lambda: caught_up(read_model[0], log))
        log.put(product_id, revision + 2, "almagest.catalog.events.v1.ProductPublished", b"")
        await eventually(lambda: caught_up(read_model[0], log))
        assert one.state.error == ""
        assert one.state.running
    assert REGISTRY.get_sample_value("almagest_projection_parked_total", PAIR) == parked_before + 1
    others = fold_others(log, product_id)
    assert await stored(read_model[0], others) == others
    held = (await read_model[0].progress(TARGET)).held
    [(stream, hold)] = held.items()
    assert stream == f"product-{product_id}"
    assert (hold.revision, hold.position, hold.last_revision) == (revision, bad.position, revision + 2)
    assert told.holds[stream].revision == revision
    [row_] = await stored(read_model[0], {product_id: None})
    assert row_ == product_id
    async with read_model[0].connection() as connection:
        parked = await connection.fetchrow("SELECT * FROM parked_events")
    assert (parked["event_id"], parked["event_type"], parked["held_events"]) == (bad.event_id, kind, 2)
    assert what in parked["error"]
    assert "secret" not in parked["error"]


def fold_others(log: Any, product_id: str) -> Mapping[str, Any]:
    documents: dict[str, Any] = {}
    for shard in log.shards:
        for event in shard:
            if (other := event.stream.removeprefix("product-")) != product_id:
                documents[other] = evolve(documents.get(other), event)
    return documents


async def test_what_is_held_survives_a_restart(read_model, log_fake, build, eventually):
    """The next owner knows what is parked: it goes on holding, and counts on."""
    log = log_fake(1)
    product_id = build.id_of("a")
    log.append(product_id, build.created("a"))
    log.put(product_id, 1, "almagest.catalog.events.v1.Poison", b"")
    async with projecting(projector(log, read_model[0])):
        await eventually(lambda: caught_up(read_model[0], log))
    log.append(product_id, build.price())
    log.put(product_id, 2, "almagest.catalog.events.v1.PriceSet", build.price().SerializeToString())
    log.put(product_id, 3, "almagest.catalog.events.v1.PriceSet", build.price().SerializeToString())
    told = Told()
    async with projecting(projector(log, read_model[0], owner="two", told=told)):
        await eventually(lambda: caught_up(read_model[0], log))
    [hold] = (await read_model[0].progress(TARGET)).held.values()
    assert (hold.revision, hold.last_revision) == (1, 3)
    assert list(told.holds) == [f"product-{product_id}"]
