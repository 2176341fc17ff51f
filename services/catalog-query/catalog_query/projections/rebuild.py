"""Generations beside the one that is read: finished when they have caught up, compared, looked after.

Nothing here is remembered outside the databases: whatever replica finds a generation that has caught up indexes it, and
one that finds it indexed and not compared compares it. So a rebuild survives the end of any process at any step.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import structlog

from catalog_query.adapters.generations import GenerationsShard
from catalog_query.domain.comparisons import Comparison, RowPair, Tally
from catalog_query.domain.projection import Pointer, Target

_NEAR: Final = 5_000
"""How many positions a generation may be behind when it is indexed; it catches up with the rest while it is."""
_LOOKED_AT_AGAIN: Final = 20_000
"""Rows of unequal revision that are looked at again; more are taken as they were seen first."""
_ROUNDS: Final = 120
_BETWEEN_ROUNDS: Final = 0.25
_KEYS: Final = 500

_logger = structlog.stdlib.get_logger(__name__)

Progress = Callable[[Target, int], Sequence[tuple[int, int, int]]]
"""How far a generation is in a shard of the read model: shard of the log, checkpoint, head."""


class Rebuilds:
    """What is done for generations that are not read yet."""

    def __init__(self, shards: Sequence[GenerationsShard]) -> None:
        self._shards = shards

    def due(
        self, pointers: Mapping[int, Sequence[Pointer]], progress: Progress
    ) -> Sequence[tuple[str, Coroutine[Any, Any, None]]]:
        """What should run now, each under a name."""
        found: list[tuple[str, Coroutine[Any, Any, None]]] = []
        for read_shard, of_shard in pointers.items():
            for pointer in of_shard:
                for generation in pointer.generations:
                    target = generation.target
                    name = f"{target.schema} in {read_shard}"
                    if not generation.ready and _caught_up(progress(target, read_shard)):
                        found.append((f"finish {name}", self._finish(target, read_shard)))
                    elif generation.ready and target.generation > pointer.serving:
                        against = Target(target.projection, pointer.serving)
                        found.append((f"compare {name}", self._compare_once(target, against, read_shard)))
        return found

    async def _finish(self, target: Target, read_shard: int) -> None:
        try:
            if await self._shards[read_shard].finish(target):
                _logger.info("a generation is ready", generation=target.schema, read_shard=read_shard)
        except Exception as error:
            _logger.exception("a generation cannot be finished", generation=target.schema, problem=type(error).__name__)

    async def _compare_once(self, target: Target, against: Target, read_shard: int) -> None:
        try:
            if await self._shards[read_shard].comparison(target) is None:
                await compare(self._shards[read_shard], target, against)
        except Exception as error:
            _logger.exception("generations cannot be compared", generation=target.schema, problem=type(error).__name__)


def _caught_up(progress: Sequence[tuple[int, int, int]]) -> bool:
    return bool(progress) and all(head - checkpoint <= _NEAR for _, checkpoint, head in progress)


async def compare(shard: GenerationsShard, target: Target, against: Target) -> Comparison:
    """Compare all rows of a generation with those of another, and keep what was found.

    Both go on meanwhile: rows that are not of the same revision are looked at again until they are.
    """
    began = await shard.now()
    compared = await shard.count(against)
    tally = Tally()
    unsettled: list[str] = []
    async for piece in shard.pairs(against, target):
        for pair in piece:
            if pair.settled or len(unsettled) >= _LOOKED_AT_AGAIN:
                tally.add(pair)
            else:
                unsettled.append(pair.key)
    for pair in await _settled(shard, target, against, unsettled):
        tally.add(pair)
    found = Comparison(
        against=against.generation,
        compared=compared,
        missing=tally.missing,
        extra=tally.extra,
        different=tally.different,
        fields=dict(tally.fields),
        began_at=began,
        ended_at=await shard.now(),
    )
    await shard.keep_comparison(target, found, tally.samples)
    return found


async def _settled(shard: GenerationsShard, target: Target, against: Target, keys: Sequence[str]) -> Sequence[RowPair]:
    """What still differs of some rows, once they have had the time to get to the same revision."""
    differing: list[RowPair] = []
    left = list(keys)
    for attempt in range(_ROUNDS):
        waiting: list[RowPair] = []
        for start in range(0, len(left), _KEYS):
            for pair in await shard.pairs_of(against, target, left[start : start + _KEYS]):
                (differing if pair.settled else waiting).append(pair)
        if not waiting or attempt == _ROUNDS - 1:
            return [*differing, *waiting]
        left = [pair.key for pair in waiting]
        await asyncio.sleep(_BETWEEN_ROUNDS)
    return differing
