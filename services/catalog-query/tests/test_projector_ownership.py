"""Who owns a checkpoint, and what whoever does not own it any more cannot do."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from catalog_query.adapters.postgres import ReadModelShard, Write
from catalog_query.adapters.products import ProductTable
from catalog_query.domain.errors import CheckpointMoved, ReadModelDiverged
from catalog_query.domain.product import evolve
from catalog_query.domain.projection import Hold, Lease, Target
from catalog_query.projections.product import row
from chassis.database.pool import Database

from .projecting import QUICK, TARGET, caught_up, expected, failures, fill, projecting, projector, stored


async def test_two_projectors_that_fight_for_a_checkpoint_do_not_do_anything_twice(
    read_model, log_fake, build, eventually
):
    """With a lease of nothing both claim it all the time; the compare-and-set lets one of them win each batch."""
    log = log_fake(1, message_events=10)
    fill(log, build, events_=300)
    pace = replace(QUICK, batch_events=10, lease=0.0)
    lost = failures("CheckpointMoved")
    two = [projector(log, read_model[0], owner=owner, pace=pace) for owner in ("one", "two")]
    async with projecting(*two):
        await eventually(lambda: caught_up(read_model[0], log))
    assert failures("CheckpointMoved") > lost
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
    async with projecting(projector(log, writing_long, owner="one", pace=replace(QUICK, lease=1.5))):
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
