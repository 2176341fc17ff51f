"""The table of versions, which answers for every two times what the fold of the log does."""

# ruff: noqa: S311 - chance makes lives
import random
import uuid
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime

import orjson
import pytest
from almagest.eventstore.v1 import event_pb2
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.adapters.versions import VersionPages
from catalog_query.domain import timeline
from catalog_query.domain.projection import Target
from catalog_query.domain.query import Filter, Query, Sort
from catalog_query.projections.checks import VersionCheck
from catalog_query.projections.versions import Versions
from chassis.database.engine import create_engine
from chassis.database.pool import Database

from .stories import Story


class Told:
    """The streams of a few products, as the projection reads them."""

    def __init__(self, lives: Sequence[Story]) -> None:
        self._histories = {f"product-{life.product_id}": life.history for life in lives}

    async def backwards(
        self, stream: str, *, from_revision: int | None
    ) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        yield [
            event
            for event in reversed(self._histories[stream])
            if from_revision is None or event.revision <= from_revision
        ]

    async def forwards(self, stream: str) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        yield self._histories[stream]


async def projected(shard: ReadModelShard, lives: Sequence[Story], chance: random.Random) -> None:
    """Put the lives into the table of versions, in batches that end anywhere, by two processes in turn."""
    target = Target("versions")
    log = sorted((event for life in lives for event in life.history), key=lambda event: event.recorded_at.seconds)
    position = 0
    while position < len(log):
        applier = Versions(Told(lives), cached=chance.choice((0, 3, 100))).applier(shard, target, filling=False)
        lease = await shard.claim(target, event_shard=0, owner="test", lease=60)
        assert lease is not None
        for _ in range(chance.randrange(1, 4)):
            batch = log[position : position + chance.randrange(1, 60)]
            if not batch:
                break
            # A copy that comes again, as after a move, changes nothing.
            again = [log[chance.randrange(position)]] if position else []
            prepared = await applier.prepare([*again, *batch], {}, careful=bool(again))
            assert not prepared.poisons
            after = position + len(batch)
            await shard.write(
                target, event_shard=0, token=lease.token, before=position, after=after, rows=prepared.write
            )
            prepared.committed()
            position = after


async def nothing_to_wait_for() -> None:
    pass


@pytest.mark.parametrize("seed", range(4))
async def test_the_table_and_the_log_answer_the_same_for_every_two_times(databases, seed):
    """Random lives with schedules and corrections, any batches: each product once at most, and as the fold has it."""
    chance = random.Random(seed)
    lives = [Story(chance.getrandbits(32)).live(chance.randrange(1, 16)) for _ in range(20)]
    [dsn] = (await databases(1)).service
    engine = create_engine(dsn, name="test_versions", size=2, isolation_level="AUTOCOMMIT")
    database = await Database.open(dsn, name="test_versions", size=2)
    try:
        await projected(ReadModelShard(database), lives, chance)
        pages = VersionPages(engine, lambda: 1, nothing_to_wait_for)
        everything = Query(Filter(), Sort.NAME, descending=False, size=100)
        last = max(life.tick for life in lives)
        compared = 0
        for known in range(-1, last + 1, 2):
            for tick in range(-1, last + 10, 3):
                found = await pages.page(everything, as_of=lives[0].time(tick), known_at=lives[0].time(known))
                shown = {str(one.key.product_id): orjson.loads(one.document) for one in found}
                assert len(shown) == len(found)
                for life in lives:
                    history = [event for event in life.history if timeline.recorded(event) <= life.time(known)]
                    assert shown.get(life.product_id) == timeline.at(history, life.time(tick)), (tick, known)
                    compared += 1
        assert compared > 1_000
        shard, target = ReadModelShard(database), Target("versions")
        for life in lives:
            # However the events came in batches: the drift check expects what is there.
            assert await VersionCheck(Told([life])).look(shard, target, uuid.UUID(life.product_id)) is None
    finally:
        await engine.dispose()
        await database.close()


async def test_the_past_gives_way_to_the_present_but_not_for_ever(databases):
    """While there is something more urgent, a batch is put off, and done in the end."""
    [dsn] = (await databases(1)).service
    database = await Database.open(dsn, name="test_versions", size=1)
    life = Story(1).create()
    asked: list[bool] = []

    def gives_way() -> bool:
        asked.append(len(asked) < 3)
        return asked[-1]

    try:
        projection = Versions(Told([life]), cached=1, gives_way=gives_way)
        applier = projection.applier(ReadModelShard(database), Target("versions"), filling=False)
        assert (await applier.prepare(life.history, {}, careful=False)).write is not None
        assert asked == [True, True, True, False]
        asked.clear()
        always = Versions(Told([life]), cached=1, gives_way=lambda: not asked.append(True))
        applier = always.applier(ReadModelShard(database), Target("versions"), filling=False)
        assert (await applier.prepare(life.history, {}, careful=False)).write is not None
        assert len(asked) > 1
    finally:
        await database.close()


async def test_a_page_follows_to_the_generation_that_took_the_place_of_its_own(databases):
    """What was dropped before this process heard of it is an error to nobody."""
    read = await databases(1)
    generations = [7]

    async def adopted() -> None:
        generations.append(1)

    engine = create_engine(read.service[0], name="test_versions", size=1, isolation_level="AUTOCOMMIT")
    try:
        pages = VersionPages(engine, lambda: generations[-1], adopted)
        now = datetime.now(UTC)
        everything = Query(Filter(), Sort.NAME, descending=False, size=5)
        assert await pages.page(everything, as_of=now, known_at=now) == []
        assert generations == [7, 1]
    finally:
        await engine.dispose()
