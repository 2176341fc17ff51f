"""Projectors over a log in memory and real Postgres: every event takes effect exactly once, whatever happens in between."""

# ruff: noqa: S311 - chance makes test data
import asyncio
import contextlib
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import asyncpg
import orjson
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.domain.errors import CheckpointMoved, ReadModelDiverged
from catalog_query.domain.product import evolve
from catalog_query.projections.product import row
from catalog_query.projections.projector import Pace, Projector
from chassis.database.pool import Database
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

EVERYTHING = ((0, 1023),)
QUICK = Pace(heartbeat=0.05, lease=0.4, persist_idle=0.05, watch=0.02, first_pause=0.02, longest_pause=0.1)
numbers = itertools.count(1000)


def projector(
    log: Any, read_model: Any, *, shard: int = 0, owner: str = "one", pace: Pace = QUICK, **more: Any
) -> Projector:
    return Projector(
        event_shard=shard,
        read_shard=0,
        buckets=more.pop("buckets", EVERYTHING),
        owner=owner,
        log=log,
        read_model=read_model,
        visible=lambda _: None,
        waited_for=lambda: False,
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
    found = await read_model.read([uuid.UUID(product_id) for product_id in wanted])
    assert all(orjson.loads(one.document)["revision"] == one.revision for one in found.values())
    return {str(key): orjson.loads(one.document) for key, one in found.items()}


async def caught_up(read_model: Any, log: Any, *, shard: int = 0) -> bool:
    return (await read_model.checkpoints()).get(shard, 0) == len(log.shards[shard % len(log.shards)])


def fill(log: Any, build: Any, *, products: int = 12, events_: int = 120, seed: int = 1) -> None:
    chance = random.Random(seed)
    skus = [f"{uuid.uuid4()}" for _ in range(products)]
    for sku in skus:
        log.append(build.id_of(sku), build.created(sku, chance.choice([build.car, build.truck, build.general])()))
    for _ in range(events_):
        log.append(build.id_of(chance.choice(skus)), build.price(f"{chance.randrange(10_000)}.00"))


operations = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["describe", "price", "publish", "unpublish", "discontinue"])),
    max_size=60,
)


# Without shrinking: an example takes a database and may take until its deadline to fail.
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(
    history=operations,
    message_events=st.integers(1, 20),
    batch_events=st.integers(1, 40),
    cached=st.integers(0, 6),
    faults=st.lists(st.integers(1, 30), max_size=3),
)
async def test_the_rows_are_the_fold_of_the_log(
    read_model, log_fake, build, eventually, history, message_events, batch_events, cached, faults
):
    """Any history, in any pieces, with any interruptions and however little is remembered, leads to the documents of a plain fold."""
    log = log_fake(1, message_events=message_events)
    shard = next(numbers)
    skus: dict[int, str] = {}
    for number, operation in history:
        if number not in skus:
            skus[number] = str(uuid.uuid4())
            log.append(
                build.id_of(skus[number]),
                build.created(skus[number], (build.car, build.truck, build.general)[number % 3]()),
            )
        log.append(build.id_of(skus[number]), _message(build, operation, number))
    pace = Pace(
        **{
            **{name: getattr(QUICK, name) for name in QUICK.__slots__},
            "batch_events": batch_events,
            "cached_documents": cached,
        }
    )
    log.faults = list(faults)
    async with projecting(projector(log, read_model[0], shard=shard, pace=pace)):
        await eventually(lambda: caught_up(read_model[0], log, shard=shard))
    assert await stored(read_model[0], expected(log)) == expected(log)


def _message(build: Any, operation: str, number: int) -> Any:
    kind = (build.car, build.truck, build.general)[number % 3]
    return {
        "describe": lambda: events.ProductDescribed(
            description=kind(f"Name {random.random()}", text="words " * number)
        ),
        "price": lambda: build.price(f"{random.randrange(1000)}.50", random.choice(["EUR", "USD"])),
        "publish": events.ProductPublished,
        "unpublish": events.ProductUnpublished,
        "discontinue": lambda: events.ProductDiscontinued(reason="old"),
    }[operation]()


async def test_a_restart_goes_on_where_it_stopped(read_model, log, build, eventually):
    """The second life subscribes from the checkpoint, not from the start."""
    fill(log, build)
    async with projecting(projector(log, read_model[0])):
        await eventually(lambda: caught_up(read_model[0], log))
    head = len(log.shards[0])
    fill(log, build, seed=2)
    async with projecting(projector(log, read_model[0], owner="two")):
        await eventually(lambda: caught_up(read_model[0], log))
    assert log.subscriptions == [(0, 0), (0, head)]
    wanted = {key: value for key, value in expected(log).items() if log.history(key)[0].shard == 0}
    assert await stored(read_model[0], wanted) == wanted


class Killing:
    """A database whose connection is killed at one step of one write."""

    def __init__(self, database: Database, superuser: asyncpg.Connection, *, step: str, write: int) -> None:
        self._database = database
        self._superuser = superuser
        self._step = step
        self._until = write
        self.killed = 0

    def connection(self) -> Any:
        return self._database.connection()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        self._until -= 1
        async with self._database.transaction() as connection:
            if self._until:
                yield connection
                return
            self._connection = connection
            self._statements = 0
            await self._kill_at("before")
            yield self
            await self._kill_at("before commit")
        if self._step == "after commit":
            self.killed += 1
            raise ConnectionError("the answer to the commit was lost")

    async def execute(self, *arguments: Any) -> str:
        answer = await self._connection.execute(*arguments)
        self._statements += 1
        if self._statements == 1:
            await self._kill_at("between")
        return answer

    async def _kill_at(self, step: str) -> None:
        if step == self._step:
            self.killed += 1
            pid = self._connection.get_server_pid()
            assert await self._superuser.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)


@pytest.mark.parametrize("write", [1, 3])
@pytest.mark.parametrize("step", ["before", "between", "before commit", "after commit"])
async def test_a_killed_connection_neither_loses_nor_doubles_an_event(
    postgres, databases, log_fake, build, eventually, step, write
):
    """Wherever in a write the connection dies, also when only the answer to its commit is lost."""
    log = log_fake(1, message_events=20)
    fill(log, build)
    database = await Database.open((await databases(1)).service[0], name="test", size=3)
    superuser = await asyncpg.connect(postgres.superuser_dsn())
    killing = Killing(database, superuser, step=step, write=write)
    try:
        # Small batches, so that the kill falls between others.
        pace = Pace(**{**{name: getattr(QUICK, name) for name in QUICK.__slots__}, "batch_events": 20})
        read_model = ReadModelShard(killing)
        async with projecting(projector(log, read_model, pace=pace)):
            await eventually(lambda: caught_up(read_model, log))
        assert killing.killed == 1
        assert await stored(read_model, expected(log)) == expected(log)
    finally:
        await superuser.close()
        await database.close()


async def test_two_projectors_that_fight_for_a_checkpoint_do_not_do_anything_twice(
    read_model, log_fake, build, eventually
):
    """With a lease of nothing both claim it all the time; the compare-and-set lets one of them win each batch."""
    log = log_fake(1, message_events=10)
    fill(log, build, events_=300)
    pace = Pace(**{**{name: getattr(QUICK, name) for name in QUICK.__slots__}, "batch_events": 10, "lease": 0.0})
    lost = _failures("CheckpointMoved")
    two = [projector(log, read_model[0], owner=owner, pace=pace) for owner in ("one", "two")]
    async with projecting(*two):
        await eventually(lambda: caught_up(read_model[0], log))
    assert _failures("CheckpointMoved") > lost
    assert await stored(read_model[0], expected(log)) == expected(log)


async def test_the_checkpoint_of_another_owner_or_place_is_not_moved(read_model, log, build):
    """Both halves of the compare-and-set, and with them the rows, are refused."""
    shard = read_model[0]
    log.append(build.id_of("a"), build.created("a"))
    rows = [row(expected(log)[build.id_of("a")], before=None)]
    assert await shard.claim(event_shard=0, owner="one", lease=60) == 0
    assert await shard.claim(event_shard=0, owner="two", lease=60) is None
    with pytest.raises(CheckpointMoved):
        await shard.write(event_shard=0, owner="two", before=0, after=1, rows=rows)
    with pytest.raises(CheckpointMoved):
        await shard.write(event_shard=0, owner="one", before=5, after=6, rows=rows)
    assert await shard.read([uuid.UUID(build.id_of("a"))]) == {}
    await shard.release(event_shard=0, owner="one")
    assert await shard.claim(event_shard=0, owner="two", lease=60) == 0
    await shard.write(event_shard=0, owner="two", before=0, after=1, rows=rows)
    assert await shard.checkpoints() == {0: 1}


async def test_a_row_that_is_not_what_was_folded_upon_is_not_written_over(read_model, log, build):
    """Whether it should not be there, should be there, or is older: nothing of the batch remains."""
    shard = read_model[0]
    product_id = build.id_of("a")
    log.append(product_id, build.created("a"), build.price(), build.price("2.00"))
    documents = []
    for event in log.history(product_id):
        documents.append(evolve(documents[-1] if documents else None, event))
    first, second, third = documents
    assert await shard.claim(event_shard=0, owner="one", lease=60) == 0
    with pytest.raises(ReadModelDiverged):
        await shard.write(event_shard=0, owner="one", before=0, after=2, rows=[row(second, before=first)])
    await shard.write(event_shard=0, owner="one", before=0, after=1, rows=[row(first, before=None)])
    with pytest.raises(ReadModelDiverged):
        await shard.write(event_shard=0, owner="one", before=1, after=2, rows=[row(second, before=None)])
    with pytest.raises(ReadModelDiverged):
        await shard.write(event_shard=0, owner="one", before=1, after=3, rows=[row(third, before=second)])
    assert await shard.checkpoints() == {0: 1}
    await shard.write(event_shard=0, owner="one", before=1, after=3, rows=[row(third, before=first)])


class Dying(ReadModelShard):
    """The read model of a process that is killed: it releases nothing."""

    async def release(self, *, event_shard: int, owner: str) -> None:
        del event_shard, owner


async def test_a_replica_watches_and_takes_over_when_the_owner_falls_silent(read_model, log_fake, build, eventually):
    """It knows the position meanwhile, and is not in the way."""
    log = log_fake(1)
    fill(log, build)
    first = projector(log, Dying(read_model[0]._database), owner="one")
    second = projector(log, read_model[0], owner="two")
    async with projecting(first) as tasks:
        await eventually(lambda: first.state.running)
        async with projecting(second):
            await eventually(lambda: second.state.checkpoint == len(log.shards[0]))
            assert not second.state.running
            tasks[0].cancel()
            fill(log, build, seed=2)
            await eventually(lambda: second.state.running and second.state.checkpoint == len(log.shards[0]))
    assert await stored(read_model[0], expected(log)) == expected(log)


async def test_the_log_may_go_away_and_come_back(read_model, log_fake, build, eventually):
    """Also in the middle of what is being read."""
    log = log_fake(1, message_events=10)
    fill(log, build)
    log.faults = [45]
    async with projecting(projector(log, read_model[0])):
        await eventually(lambda: caught_up(read_model[0], log))
    assert len(log.subscriptions) > 1
    assert await stored(read_model[0], expected(log)) == expected(log)


@pytest.mark.parametrize("poison", ["unknown type", "unreadable", "gap", "refused by the database"])
async def test_a_poisonous_event_stops_the_projection_in_sight_until_it_can_be_applied(
    read_model, log_fake, build, eventually, poison
):
    """What comes before it is applied, nothing after; state and metrics name its place; once it is right, all goes on."""
    log = log_fake(1)
    fill(log, build, events_=20)
    product_id = build.id_of(str(uuid.uuid4()))
    log.append(product_id, build.created("poisoned"))
    kind, revision, payload = {
        "unknown type": ("almagest.catalog.events.v1.PriceBurnt", 1, b""),
        "unreadable": ("almagest.catalog.events.v1.PriceSet", 1, b"\xff\xff"),
        "gap": ("almagest.catalog.events.v1.PriceSet", 2, build.price().SerializeToString()),
        # An amount that is no number is refused by Postgres, and found by halving.
        "refused by the database": ("almagest.catalog.events.v1.PriceSet", 1, build.price("dear").SerializeToString()),
    }[poison]
    bad = log.put(product_id, revision, kind, payload)
    # The products' own ids, so that rows can be written.
    log.shards[0][bad.position - 2].payload = events.ProductCreated(
        product_id=product_id, sku="poisoned", description=build.car()
    ).SerializeToString()
    fill(log, build, seed=2)
    one = projector(log, read_model[0])
    async with projecting(one):
        await eventually(lambda: bool(one.state.error))
        await eventually(lambda: one.state.checkpoint == bad.position - 1)
        assert str(bad.position) in one.state.error
        assert (await read_model[0].checkpoints())[0] == bad.position - 1
        await eventually(lambda: REGISTRY.get_sample_value("almagest_projection_stopped", _PAIR) == 1)
        assert REGISTRY.get_sample_value("almagest_projection_running", _PAIR) == 0
        assert one.state.behind_since is not None
        good = log.shards[0][bad.position - 1]
        good.type, good.revision, good.payload = (
            "almagest.catalog.events.v1.PriceSet",
            1,
            build.price("7.00").SerializeToString(),
        )
        await eventually(lambda: caught_up(read_model[0], log))
        await eventually(lambda: one.state.error == "" and one.state.running)
    assert REGISTRY.get_sample_value("almagest_projection_stopped", _PAIR) == 0
    assert await stored(read_model[0], expected(log)) == expected(log)


async def test_the_checkpoint_moves_when_nothing_concerns_us(read_model, log_fake, build, eventually):
    """Events of other buckets are not read again after a restart."""
    log = log_fake(1)
    fill(log, build)
    async with projecting(projector(log, read_model[0], buckets=())):
        await eventually(lambda: caught_up(read_model[0], log))
    assert await stored(read_model[0], expected(log)) == {}


async def test_lag_is_told_in_events_and_seconds_while_it_lasts(read_model, log_fake, build, eventually):
    """Behind by what is not applied, since the oldest of it was recorded."""
    log = log_fake(1)
    log.append(build.id_of("a"), build.created("a"))
    log.put(build.id_of("a"), 1, "almagest.catalog.events.v1.Poison", b"")
    one = projector(log, read_model[0])
    async with projecting(one):
        await eventually(lambda: bool(one.state.error) and one.state.checkpoint == 1)
        await eventually(lambda: REGISTRY.get_sample_value("almagest_projection_lag_events", _PAIR) == 1)
        # The fake's events are an hour old.
        assert 3500 < (REGISTRY.get_sample_value("almagest_projection_lag_seconds", _PAIR) or 0) < 3700


_PAIR = {"event_shard": "0", "read_shard": "0"}


def _failures(cause: str) -> float:
    return REGISTRY.get_sample_value("almagest_projection_failures_total", {**_PAIR, "cause": cause}) or 0
