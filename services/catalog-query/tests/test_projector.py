"""Projectors over a log in memory and real Postgres: every event takes effect exactly once, whatever happens in between."""

# ruff: noqa: S311 - chance makes test data
import asyncio
import contextlib
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import orjson
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.rpc.v1 import problem_pb2
from catalog_query.adapters.postgres import ReadModelShard, Write
from catalog_query.adapters.products import ProductTable
from catalog_query.domain import folding
from catalog_query.domain.errors import CheckpointMoved, ReadModelDiverged
from catalog_query.domain.product import evolve
from catalog_query.domain.projection import Hold, Lease, Progress, Target
from catalog_query.projections.ports import Pace, Work
from catalog_query.projections.product import ProductApplier, row
from catalog_query.projections.projector import Projector
from chassis.database.pool import Database
from chassis.errors import ConnectionRenewed, RemoteProblem
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

EVERYTHING = ((0, 1023),)
QUICK = Pace(heartbeat=0.05, lease=0.4, persist_idle=0.05, watch=0.02, first_pause=0.02, longest_pause=0.1)
TARGET = Target("products")
numbers = itertools.count(1000)


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
    pace = replace(QUICK, batch_events=batch_events)
    log.faults = list(faults)
    async with projecting(projector(log, read_model[0], shard=shard, pace=pace, cached=cached)):
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
        pace = replace(QUICK, batch_events=20)
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
    pace = replace(QUICK, batch_events=10, lease=0.0)
    lost = _failures("CheckpointMoved")
    two = [projector(log, read_model[0], owner=owner, pace=pace) for owner in ("one", "two")]
    async with projecting(*two):
        await eventually(lambda: caught_up(read_model[0], log))
    assert _failures("CheckpointMoved") > lost
    assert await stored(read_model[0], expected(log)) == expected(log)


def writing(shard: ReadModelShard, *rows: Any) -> Write:
    """Writes rows as they are."""

    async def write(connection: Any) -> None:
        await ProductTable(shard, TARGET).merge(connection, rows)

    return write


async def test_the_checkpoint_of_another_owner_or_place_is_not_moved(read_model, log, build):
    """Both halves of the compare-and-set, and with them the rows, are refused."""
    shard = read_model[0]
    log.append(build.id_of("a"), build.created("a"))
    rows = writing(shard, row(expected(log)[build.id_of("a")], before=None))
    one = await shard.claim(TARGET, event_shard=0, owner="one", lease=60)
    assert one == Lease(position=0, token=1)
    assert await shard.claim(TARGET, event_shard=0, owner="two", lease=60) is None
    with pytest.raises(CheckpointMoved):
        await shard.write(TARGET, event_shard=0, token=0, before=0, after=1, rows=rows)
    with pytest.raises(CheckpointMoved):
        await shard.write(TARGET, event_shard=0, token=1, before=5, after=6, rows=rows)
    assert await stored(shard, expected(log)) == {}
    await shard.release(TARGET, event_shard=0, token=1)
    assert await shard.claim(TARGET, event_shard=0, owner="two", lease=60) == Lease(position=0, token=2)
    with pytest.raises(CheckpointMoved):
        await shard.write(TARGET, event_shard=0, token=1, before=0, after=1, rows=rows)
    await shard.write(TARGET, event_shard=0, token=2, before=0, after=1, rows=rows)
    assert (await shard.progress(TARGET)).positions == {0: 1}


async def test_a_row_that_is_not_what_was_folded_upon_is_not_written_over(read_model, log, build):
    """Whether it should not be there, should be there, or is older: nothing of the batch remains."""
    shard = read_model[0]
    product_id = build.id_of("a")
    log.append(product_id, build.created("a"), build.price(), build.price("2.00"))
    documents = []
    for event in log.history(product_id):
        documents.append(evolve(documents[-1] if documents else None, event))
    first, second, third = documents

    async def write(before: int, after: int, written: Any) -> None:
        await shard.write(TARGET, event_shard=0, token=1, before=before, after=after, rows=writing(shard, written))

    assert await shard.claim(TARGET, event_shard=0, owner="one", lease=60) == Lease(0, 1)
    with pytest.raises(ReadModelDiverged):
        await write(0, 2, row(second, before=first))
    await write(0, 1, row(first, before=None))
    with pytest.raises(ReadModelDiverged):
        await write(1, 2, row(second, before=None))
    with pytest.raises(ReadModelDiverged):
        await write(1, 3, row(third, before=second))
    assert (await shard.progress(TARGET)).positions == {0: 1}
    await write(1, 3, row(third, before=first))


class Sleeping(ReadModelShard):
    """The read model of a process that is stopped between its claim and its first write."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asleep = asyncio.Event()
        self.woken = asyncio.Event()
        self.refused = asyncio.Event()

    async def renew(self, target: Target, *, event_shard: int, token: int) -> None:
        """Who sleeps renews nothing."""
        del target, event_shard, token

    async def write(self, target: Target, **change: Any) -> Mapping[str, Hold]:
        self.asleep.set()
        await self.woken.wait()
        try:
            return await super().write(target, **change)
        except CheckpointMoved:
            self.refused.set()
            raise


async def test_an_owner_that_slept_while_another_took_over_writes_nothing(read_model, log_fake, build, eventually):
    """Also where the checkpoint still is where its batch begins: its fencing token is not the highest."""
    log = log_fake(1)
    fill(log, build)
    sleeping = Sleeping(read_model[0].database)
    first = projector(log, sleeping, owner="one")
    async with projecting(first):
        await sleeping.asleep.wait()
        # Takes over when the lease has run out, and does not write either: the checkpoint stays at 0.
        lease = None

        async def taken_over() -> bool:
            nonlocal lease
            lease = await read_model[0].claim(TARGET, event_shard=0, owner="two", lease=QUICK.lease)
            return lease is not None

        await eventually(taken_over)
        assert lease == Lease(position=0, token=2)
        sleeping.woken.set()
        await sleeping.refused.wait()
        assert await stored(read_model[0], expected(log)) == {}
        assert (await read_model[0].progress(TARGET)).positions == {0: 0}
        await read_model[0].write(TARGET, event_shard=0, token=2, before=0, after=0)


async def test_a_batch_that_takes_longer_than_the_lease_does_not_lose_it(read_model, log_fake, build, eventually):
    """The lease is renewed beside the work: otherwise two owners could take it from each other for ever."""
    log = log_fake(1)
    fill(log, build)
    writing_long = Sleeping(read_model[0].database)
    renewals = 0

    async def renew(target: Target, *, event_shard: int, token: int) -> None:
        nonlocal renewals
        await read_model[0].renew(target, event_shard=event_shard, token=token)
        renewals += 1

    writing_long.renew = renew
    async with projecting(projector(log, writing_long, owner="one")):
        await writing_long.asleep.wait()
        # Three renewals are as long as the lease.
        await eventually(lambda: renewals >= 4)
        assert await read_model[0].claim(TARGET, event_shard=0, owner="two", lease=QUICK.lease) is None
        writing_long.woken.set()
        await eventually(lambda: caught_up(read_model[0], log))


class Dying(ReadModelShard):
    """The read model of a process that is killed: it releases nothing."""

    async def release(self, target: Target, *, event_shard: int, token: int) -> None:
        del target, event_shard, token


async def test_a_replica_watches_and_takes_over_when_the_owner_falls_silent(read_model, log_fake, build, eventually):
    """It knows the position meanwhile, and is not in the way."""
    log = log_fake(1)
    fill(log, build)
    first = projector(log, Dying(read_model[0].database), owner="one")
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


def renewed() -> Exception:
    return ConnectionRenewed(problem_pb2.Problem(code=14, reason="UNAVAILABLE", message="renewed"))


def moved() -> Exception:
    return RemoteProblem(problem_pb2.Problem(code=14, reason="BUCKET_MOVED", message="moved"))


def broken() -> Exception:
    return RuntimeError("a defect")


@pytest.mark.parametrize(
    ("fault", "patience", "told"),
    [(renewed, 5.0, set()), (moved, 5.0, set()), (moved, 0.0, {"RemoteProblem"}), (broken, 5.0, {"RuntimeError"})],
)
async def test_what_is_planned_is_no_error_and_a_standstill_is(
    read_model, log_fake, build, eventually, fault, patience, told
):
    """A subscription ends with its connection or as buckets move, and is begun anew; if that goes on, or if it is a
    defect of ours, an operator is told.
    """
    log = log_fake(1, message_events=10)
    fill(log, build)
    log.fault, log.faults = fault, [1, 1, 45]
    with capture_logs() as lines:
        async with projecting(projector(log, read_model[0], pace=replace(QUICK, patience=patience))):
            await eventually(lambda: caught_up(read_model[0], log))
    assert {line["problem"] for line in lines if line["log_level"] == "error"} == told
    assert len(log.subscriptions) == 4


async def test_a_subscription_that_is_renewed_while_nothing_happens_is_not_waited_for_longer_each_time(
    read_model, log_fake, build, eventually
):
    """Pauses grow while nothing works, and not while there is nothing to do."""
    log = log_fake(1)
    fill(log, build)
    log.fault = renewed
    one = projector(log, read_model[0], pace=replace(QUICK, first_pause=0.02, longest_pause=60.0))
    async with projecting(one):
        await eventually(lambda: caught_up(read_model[0], log))
        for _ in range(12):
            before = len(log.subscriptions)
            log.cut()
            await eventually(lambda before=before: resumed(log, one, before))


async def resumed(log: Any, one: Projector, before: int) -> bool:
    return len(log.subscriptions) > before and one.state.running


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
    parked_before = REGISTRY.get_sample_value("almagest_projection_parked_total", _PAIR) or 0
    told = Told()
    one = projector(log, read_model[0], told=told)
    async with projecting(one):
        await eventually(lambda: caught_up(read_model[0], log))
        log.put(product_id, revision + 2, "almagest.catalog.events.v1.ProductPublished", b"")
        await eventually(lambda: caught_up(read_model[0], log))
        assert one.state.error == ""
        assert one.state.running
    assert REGISTRY.get_sample_value("almagest_projection_parked_total", _PAIR) == parked_before + 1
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


async def test_events_that_a_move_copied_are_applied_once(read_model, log_fake, build, eventually):
    """Two shards of the log tell of the same product: whichever comes first, and however they interleave."""
    chance = random.Random(3)
    log = log_fake(2)
    fill(log, build, products=6, events_=60, seed=4)
    # All that there is moves to the other shard, which then goes on.
    for event in list(log.shards[0]):
        copy = type(event)()
        copy.CopyFrom(event)
        copy.shard, copy.position = 1, len(log.shards[1]) + 1
        copy.original.shard, copy.original.position = 0, event.position
        log.shards[1].append(copy)
    log.map = log.map.moved(0, 1023, 1)
    for event in list(log.shards[0]):
        log.append(event.stream.removeprefix("product-"), build.price(f"{chance.randrange(10_000)}.00"))
    # With no memory and small batches both read rows that the other one is about to write.
    pace = replace(QUICK, batch_events=5)
    log.message_events = 5
    pair = [projector(log, read_model[0], shard=shard, cached=0, pace=pace) for shard in (0, 1)]
    async with projecting(*pair):
        await eventually(lambda: caught_up(read_model[0], log, shard=0))
        await eventually(lambda: caught_up(read_model[0], log, shard=1))
    documents: dict[str, Any] = {}
    for event in log.shards[1]:
        product_id = event.stream.removeprefix("product-")
        documents[product_id] = evolve(documents.get(product_id), event)
    assert await stored(read_model[0], documents) == documents
    assert (await read_model[0].progress(TARGET)).held == {}


async def test_the_checkpoint_moves_when_nothing_concerns_us(read_model, log_fake, build, eventually):
    """Events of other buckets are not read again after a restart."""
    log = log_fake(1)
    fill(log, build)
    async with projecting(projector(log, read_model[0], buckets=())):
        await eventually(lambda: caught_up(read_model[0], log))
    assert await stored(read_model[0], expected(log)) == {}


_PAIR = {"projection": "products", "generation": "1", "event_shard": "0", "read_shard": "0"}


def _failures(cause: str) -> float:
    return REGISTRY.get_sample_value("almagest_projection_failures_total", {**_PAIR, "cause": cause}) or 0
