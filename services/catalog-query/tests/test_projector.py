"""Projectors over a log in memory and real Postgres: every event takes effect exactly once, whatever happens in between."""

# ruff: noqa: S311 - chance makes test data
import contextlib
import itertools
import random
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.rpc.v1 import problem_pb2
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.domain.product import evolve
from catalog_query.projections.projector import Projector
from chassis.database.pool import Database
from chassis.errors import ConnectionRenewed, RemoteProblem
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from .projecting import QUICK, TARGET, caught_up, expected, fill, projecting, projector, stored

numbers = itertools.count(1000)
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
