"""Projectors over a log in memory, and what must come of it."""

# ruff: noqa: S311 - chance makes test data
import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.adapters.products import ProductTable
from catalog_query.domain.product import evolve
from catalog_query.domain.projection import Hold, Progress, Target
from catalog_query.projections.ports import Pace, Work
from catalog_query.projections.product import ProductApplier
from catalog_query.projections.projector import Projector
from prometheus_client import REGISTRY

EVERYTHING = ((0, 1023),)
QUICK = Pace(heartbeat=0.05, lease=0.4, persist_idle=0.05, watch=0.02, first_pause=0.02, longest_pause=0.1)
TARGET = Target("products")


class Told:
    """What readers are told by projectors."""

    def __init__(self) -> None:
        self.holds: dict[str, Hold] = {}
        self.positions: list[int] = []

    def waited_for(self, work: Work) -> bool:
        return False

    def held(self, work: Work, streams: Mapping[str, Hold]) -> None:
        self.holds.update(streams)

    def progress(self, work: Work, progress: Progress) -> None:
        self.holds.update(progress.held)

    def visible(self, work: Work, position: int) -> None:
        self.positions.append(position)


def projector(
    log: Any,
    read_model: Any,
    *,
    shard: int = 0,
    owner: str = "one",
    pace: Pace = QUICK,
    cached: int = 4000,
    told: Told | None = None,
    filling: bool = False,
    **more: Any,
) -> Projector:
    return Projector(
        Work(TARGET, shard, 0, more.pop("buckets", EVERYTHING)),
        owner=owner,
        log=log,
        read_model=read_model,
        applier=ProductApplier(ProductTable(read_model, TARGET), cached=cached, filling=filling),
        watcher=told or Told(),
        pace=pace,
    )


@contextlib.asynccontextmanager
async def projecting(*projectors: Projector) -> AsyncIterator[Sequence[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(one.run()) for one in projectors]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def expected(log: Any) -> Mapping[str, Any]:
    """What the documents must be: the fold of the whole log."""
    documents: dict[str, Any] = {}
    for shard in log.shards:
        for event in shard:
            product_id = event.stream.removeprefix("product-")
            documents[product_id] = evolve(documents.get(product_id), event)
    return documents


async def stored(read_model: ReadModelShard, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    found = await ProductTable(read_model, TARGET).read([uuid.UUID(product_id) for product_id in wanted])
    assert all(orjson.loads(one.document)["revision"] == one.revision for one in found.values())
    return {str(key): orjson.loads(one.document) for key, one in found.items()}


async def caught_up(read_model: Any, log: Any, *, shard: int = 0) -> bool:
    return (await read_model.progress(TARGET)).positions.get(shard, 0) == len(log.shards[shard % len(log.shards)])


def fill(log: Any, build: Any, *, products: int = 12, events_: int = 120, seed: int = 1) -> None:
    chance = random.Random(seed)
    skus = [f"{uuid.uuid4()}" for _ in range(products)]
    for sku in skus:
        log.append(build.id_of(sku), build.created(sku, chance.choice([build.car, build.truck, build.general])()))
    for _ in range(events_):
        log.append(build.id_of(chance.choice(skus)), build.price(f"{chance.randrange(10_000)}.00"))


PAIR = {"projection": "products", "generation": "1", "event_shard": "0", "read_shard": "0"}


def failures(cause: str) -> float:
    return REGISTRY.get_sample_value("almagest_projection_failures_total", {**PAIR, "cause": cause}) or 0
