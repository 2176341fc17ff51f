"""All projectors of this process, one per pair of shards with buckets in common."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from catalog_query.application.freshness import Freshness
from catalog_query.application.lag import Lag
from catalog_query.application.shards import Pair, Shards
from catalog_query.projections.projector import Log, Pace, Projector, ReadModel

_logger = structlog.stdlib.get_logger(__name__)


class ShardedLog(Log, Protocol):
    """The log, with what it tells of its shards."""

    async def shard_ranges(self) -> Mapping[int, Sequence[tuple[int, int]]]:
        """The bucket ranges of each shard."""
        ...

    async def heads(self) -> Mapping[int, int]:
        """The last committed position of each shard."""
        ...


class ShardMapUnusable(Exception):
    """The log's buckets are not where this version looks for them."""


class Projections:
    """Finds out how the log is cut, then projects every pair of shards, until cancelled."""

    def __init__(
        self,
        *,
        owner: str,
        log: ShardedLog,
        read_models: Sequence[ReadModel],
        shards: Shards,
        freshness: Freshness,
        pace: Pace,
    ) -> None:
        self._owner = owner
        self._log = log
        self._read_models = read_models
        self._shards = shards
        self._freshness = freshness
        self._pace = pace
        self._projectors: list[Projector] = []

    async def recall(self) -> None:
        """Take from the read model how far it was: enough to answer reads while the log cannot be reached."""
        event_shards = 0
        for read_shard, read_model in enumerate(self._read_models):
            for event_shard, position in (await read_model.checkpoints()).items():
                event_shards = max(event_shards, event_shard + 1)
                self._freshness.advance(event_shard=event_shard, read_shard=read_shard, position=position)
        if event_shards:
            self._shards.learn(event_shards)

    async def run(self) -> None:
        """Project until cancelled.

        Raises:
            ShardMapUnusable: going on would put products into the wrong shard.
        """
        ranges = await self._ranges()
        if not self._shards.agree(ranges):
            raise ShardMapUnusable("the log's shards do not have the buckets that this version computes")
        self._shards.learn(len(ranges))
        self._projectors = [self._projector(pair) for pair in self._shards.pairs()]
        async with asyncio.TaskGroup() as group:
            for projector in self._projectors:
                group.create_task(projector.run())

    async def lags(self) -> Sequence[Lag]:
        """How far each projector is behind, against the committed heads of the log, not against what arrived here."""
        heads: Mapping[int, int] = {}
        try:
            heads = await self._log.heads()
        except Exception as error:  # noqa: BLE001 - what arrived here is the next best answer, and says that it is not running
            _logger.warning("the heads of the log cannot be had", problem=str(error))
        return [self._lag(projector, heads.get(projector.event_shard, 0)) for projector in self._projectors]

    def _lag(self, projector: Projector, head: int) -> Lag:
        state = projector.state
        state.head = max(state.head, head)
        behind = state.head > state.checkpoint
        if behind and state.behind_since is None:
            state.behind_since = time.time()
        return Lag(
            event_shard=projector.event_shard,
            read_shard=projector.read_shard,
            checkpoint=state.checkpoint,
            head=state.head,
            seconds=max(time.time() - state.behind_since, 0.0) if behind and state.behind_since is not None else 0.0,
            running=state.running,
            error=state.error,
        )

    async def _ranges(self) -> Mapping[int, Sequence[tuple[int, int]]]:
        pause = self._pace.first_pause
        while True:
            try:
                return await self._log.shard_ranges()
            except Exception as error:  # noqa: BLE001 - reads are served meanwhile
                _logger.warning("the log cannot be asked for its shards yet", problem=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._pace.longest_pause)

    def _projector(self, pair: Pair) -> Projector:
        def visible(position: int) -> None:
            self._freshness.advance(event_shard=pair.event_shard, read_shard=pair.read_shard, position=position)

        def waited_for() -> bool:
            return self._freshness.waiting(event_shard=pair.event_shard, read_shard=pair.read_shard)

        return Projector(
            event_shard=pair.event_shard,
            read_shard=pair.read_shard,
            buckets=pair.buckets,
            owner=self._owner,
            log=self._log,
            read_model=self._read_models[pair.read_shard],
            visible=visible,
            waited_for=waited_for,
            pace=self._pace,
        )
