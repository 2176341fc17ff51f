"""All projectors of a process over a log in memory and real Postgres: what they tell, and what they find by themselves."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from catalog_query.adapters.generations import GenerationsShard
from catalog_query.adapters.products import ProductTable
from catalog_query.adapters.versions import VersionTable
from catalog_query.application.freshness import Freshness, Wanted
from catalog_query.application.holds import Holds
from catalog_query.application.shards import Shards
from catalog_query.domain.projection import Target
from catalog_query.projections.checks import VersionCheck, folded
from catalog_query.projections.ports import Pace
from catalog_query.projections.product import Products
from catalog_query.projections.rebuild import Rebuilds
from catalog_query.projections.supervisor import Followed, Projections
from catalog_query.projections.versions import Versions
from prometheus_client import REGISTRY

TARGET = Target("products")
QUICK = Pace(heartbeat=0.05, lease=0.4, persist_idle=0.05, watch=0.02, first_pause=0.02, longest_pause=0.1)


@contextlib.asynccontextmanager
async def supervised(
    log: Any, read_model: Any, *, lease: float = 0.4, step: int = 1_000
) -> AsyncIterator[tuple[Projections, Freshness]]:
    shards, freshness = Shards(2), Freshness()
    products = Products(cached_documents=100, cached_while_filling=100)
    versions, versions_freshness = Versions(log, cached=100), Freshness()
    pace = replace(QUICK, lease=lease)
    projections = Projections(
        owner="one",
        log=log,
        read_models=read_model,
        shards=shards,
        followed=[
            Followed(products, freshness, Holds(shards, freshness)),
            Followed(versions, versions_freshness, Holds(shards, versions_freshness)),
        ],
        pace=pace,
        filling=replace(pace, batch_events=step, patient=True),
        look_every=0.05,
        chores=Rebuilds([GenerationsShard(shard) for shard in read_model]),
    )
    await projections.recall()
    task = asyncio.create_task(projections.run())
    try:
        yield projections, freshness
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def sku_of(build: Any, *, read_shard: int) -> str:
    """A SKU whose product is in a shard of the read model, and of the log."""
    while Shards(2).read_shard_of(build.id_of(sku := build.fresh())) != read_shard:
        pass
    return sku


def gauge(name: str, event_shard: int, read_shard: int) -> float:
    labels = {
        "projection": "products",
        "generation": "1",
        "event_shard": str(event_shard),
        "read_shard": str(read_shard),
    }
    return REGISTRY.get_sample_value(f"almagest_projection_{name}", labels) or 0.0


async def test_who_is_at_the_head_has_no_lag(read_model, log, build, eventually):
    """However long nothing has happened, and however old the last event is."""
    log.append(build.id_of(sku_of(build, read_shard=0)), build.created("a"))
    async with supervised(log, read_model) as (projections, _):

        async def current() -> bool:
            lags = await projections.lags()
            return len(lags) == 4 and all(lag.running and lag.head == lag.checkpoint for lag in lags)

        await eventually(current)
        assert [lag.seconds for lag in await projections.lags()] == [0.0] * 4
        await eventually(lambda: gauge("lag_seconds", 0, 0) == 0.0)


async def test_a_replica_tells_the_lag_of_an_owner_that_died(read_model, log, build, eventually):
    """Against the committed head and since the oldest event was recorded, though it projects nothing itself."""
    for shard in read_model:
        for event_shard in (0, 1):
            assert await shard.claim(TARGET, event_shard=event_shard, owner="dead", lease=60)
    sku = sku_of(build, read_shard=1)
    log.append(build.id_of(sku), build.created(sku), build.price(), build.price("2.00"))
    async with supervised(log, read_model, lease=60.0) as (projections, _):
        # The fake's events are an hour old.
        await eventually(lambda: 3500 < gauge("lag_seconds", 1, 1) < 3700)
        assert gauge("lag_events", 1, 1) == 3
        assert gauge("running", 1, 1) == 0
        # Nothing of that shard of the log concerns the other pair: it is behind by positions, but by no event.
        assert gauge("lag_seconds", 1, 0) == 0
        lags = {(lag.event_shard, lag.read_shard): lag for lag in await projections.lags()}
        assert (lags[1, 1].head, lags[1, 1].checkpoint, lags[1, 1].running) == (3, 0, False)
        assert 3500 < lags[1, 1].seconds < 3700


@pytest.mark.parametrize("held", [False, True])
async def test_a_generation_is_filled_indexed_and_compared_by_whoever_finds_it(
    read_model, log, build, eventually, held
):
    """Nobody is asked to: the databases say what there is to do. A stream that is held in one is held in the other."""
    for number in range(20):
        sku = sku_of(build, read_shard=number % 2)
        log.append(build.id_of(sku), build.created(sku), build.price())
    if held:
        log.put(build.id_of(sku), 2, "almagest.catalog.events.v1.PriceBurnt", b"")
    shards = [GenerationsShard(shard) for shard in read_model]
    for shard in shards:
        assert await shard.create(Target("products", 2), by="test")
        assert not await shard.create(Target("products", 2), by="test")
    async with supervised(log, read_model):

        async def compared() -> bool:
            return all([await shard.comparison(Target("products", 2)) is not None for shard in shards])

        await eventually(compared)
    for shard in shards:
        found = await shard.comparison(Target("products", 2))
        assert found is not None
        assert (found.compared, found.missing, found.extra, found.different) == (10, 0, 0, 0)
    held_streams = [len((await shard.progress(Target("products", 2))).held) for shard in read_model]
    assert sum(held_streams) == int(held)


async def test_a_new_read_model_is_filled_in_large_steps_and_goes_over_to_small_ones_without_a_gap(
    read_model, log, build, eventually, monkeypatch
):
    """By COPY while it is far behind, although it is read; what is appended meanwhile and after is there, once."""
    copied: list[str] = []
    for table, name in ((ProductTable, "copy"), (VersionTable, "copy")):
        real = getattr(table, name)

        async def spied(self: Any, connection: Any, rows: Any, real: Any = real) -> None:
            copied.extend([type(self).__name__] * len(rows))
            await real(self, connection, rows)

        monkeypatch.setattr(table, name, spied)
    # Names that COPY must escape,.
    skus = [build.fresh() for _ in range(150)]
    for number, sku in enumerate(skus):
        name = f"Lamp {number}\t\\N\n\\x{number}"
        log.append(build.id_of(sku), build.created(sku, build.general(name)), build.price("1.00"), build.published())
    for number, sku in enumerate(skus[:60]):
        log.append(build.id_of(sku), build.price(f"2.{number:02}"))
    async with supervised(log, read_model, step=20) as (projections, freshness):

        async def caught_up() -> bool:
            lags = await projections.all_lags()
            return len(lags) == 8 and all(lag.running and lag.head == lag.checkpoint for lag in lags)

        await eventually(caught_up)
        assert copied.count("ProductTable") >= len(skus) / 2
        assert copied.count("VersionTable") >= len(skus) / 2
        # Small steps from here on: nothing is copied any more, and what is written is there.
        await eventually(lambda: all(not running.filling for running in projections._running.values()))
        copied.clear()
        last = build.fresh()
        for sku in [*skus[:5], last]:
            await _visible(
                freshness, log.append(build.id_of(sku), build.created(last) if sku == last else build.price("3.00"))
            )
        await eventually(caught_up)
        assert copied == []
    for sku in [*skus, last]:
        shard = read_model[Shards(2).read_shard_of(build.id_of(sku))]
        product_id = uuid.UUID(build.id_of(sku))
        history = log.history(build.id_of(sku))
        document = (await ProductTable(shard, TARGET).read([product_id]))[product_id]
        assert orjson.loads(document.document) == folded(history, frozenset()).document
        assert await VersionCheck(log).look(shard, Target("versions"), product_id) is None


async def _visible(freshness: Freshness, token: Any) -> None:
    for read_shard in range(2):
        await freshness.wait(Wanted(token.shard, read_shard, token.position), timeout=10)
