"""All projectors of this process: one per projection, generation and pair of shards.

The databases say which generations there are and the log how many shards it has; both are looked at again and again, so
that a rebuild, a switch or a move of buckets is followed within moments by every replica, whoever began it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from almagest.eventstore.v1 import event_store_pb2

from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.application.freshness import Freshness
from catalog_query.application.holds import Holds
from catalog_query.application.lag import Lag
from catalog_query.application.shards import LogMap, Shards
from catalog_query.domain.projection import PRODUCTS, Generation, Hold, Pointer, Progress, Target
from catalog_query.projections import metrics
from catalog_query.projections.chores import Chores, NoChores
from catalog_query.projections.ports import Log, Pace, Work
from catalog_query.projections.projection import Projection
from catalog_query.projections.projector import Projector, recorded

_logger = structlog.stdlib.get_logger(__name__)

_LAG_SECONDS: Final = 2.0
"""How long is waited for the event that tells how old a lag is."""
_LAG_HEARTBEAT: Final = 0.2


class ShardedLog(Log, Protocol):
    """The log, with what it tells of its shards."""

    async def shard_map(self) -> LogMap:
        """Which shard holds which buckets, and the last committed position of each."""
        ...


@dataclass(frozen=True, slots=True)
class Followed:
    """A projection, and what its readers are told."""

    projection: Projection
    freshness: Freshness
    holds: Holds

    def waited_for(self, work: Work) -> bool:
        """Whether a read waits for this pair."""
        return self.freshness.adopting(work.read_shard) or (
            work.target.generation == self.freshness.generation(work.read_shard)
            and self.freshness.waiting(event_shard=work.event_shard, read_shard=work.read_shard)
        )

    def held(self, work: Work, streams: Mapping[str, Hold]) -> None:
        """More streams are held."""
        self.holds.add(read_shard=work.read_shard, generation=work.target.generation, held=streams)

    def progress(self, work: Work, progress: Progress) -> None:
        """How far another replica is, and what it holds."""
        self.held(work, progress.held)

    def visible(self, work: Work, position: int) -> None:
        """Everything up to a position is applied, or held."""
        self.freshness.advance(
            event_shard=work.event_shard,
            read_shard=work.read_shard,
            position=position,
            generation=work.target.generation,
        )


_FAR_BEHIND: Final = 5
"""How many of the large steps a pair must be behind to go in them."""

Key = tuple[Target, int, int]
"""A generation, a shard of the log, a shard of the read model."""


@dataclass(slots=True)
class _Running:
    projector: Projector
    task: asyncio.Task[None]
    filling: bool
    behind: tuple[int, float | None] = (-1, None)
    """A checkpoint, and when the event after it was recorded."""


@dataclass(slots=True)
class Known:
    """What was last seen of the log and of the databases."""

    heads: Mapping[int, int] = field(default_factory=dict[int, int])
    pointers: dict[int, Sequence[Pointer]] = field(default_factory=dict[int, Sequence[Pointer]])
    """By shard of the read model."""
    positions: dict[tuple[Target, int], Mapping[int, int]] = field(
        default_factory=dict[tuple[Target, int], Mapping[int, int]]
    )
    """By generation and shard of the read model, how far it is in each shard of the log."""


class Projections:
    """Finds out what is to be projected and projects it, until cancelled."""

    def __init__(
        self,
        *,
        owner: str,
        log: ShardedLog,
        read_models: Sequence[ReadModelShard],
        shards: Shards,
        followed: Sequence[Followed],
        pace: Pace,
        filling: Pace | None = None,
        look_every: float = 1.0,
        chores: Chores | None = None,
    ) -> None:
        self._owner = owner
        self._log = log
        self._read_models = read_models
        self._shards = shards
        self._followed = {one.projection.name: one for one in followed}
        self._pace = pace
        self._filling = filling or pace
        self._look_every = look_every
        self._chores = chores or NoChores()
        self._running: dict[Key, _Running] = {}
        self._doing: dict[str, asyncio.Task[None]] = {}
        self._look_now = asyncio.Event()
        self._looked = asyncio.Condition()
        self.known = Known()

    async def recall(self) -> None:
        """Take from the read model how far it was: enough to answer reads while the log cannot be reached."""
        event_shards = 0
        for read_shard, read_model in enumerate(self._read_models):
            for pointer in await read_model.pointers():
                followed = self._followed.get(pointer.projection)
                if followed is None:
                    continue
                followed.freshness.begin(read_shard, pointer.serving)
                work = Work(Target(pointer.projection, pointer.serving), 0, read_shard, ())
                progress = await read_model.progress(work.target)
                followed.progress(work, progress)
                for event_shard, position in progress.positions.items():
                    event_shards = max(event_shards, event_shard + 1)
                    followed.visible(Work(work.target, event_shard, read_shard, ()), position)
        if event_shards:
            self._shards.suppose(event_shards)

    async def run(self) -> None:
        """Project until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._look_now.clear()
                await self._look()
                await self._reconcile(group)
                async with self._looked:
                    self._looked.notify_all()
                try:
                    async with asyncio.timeout(self._look_every):
                        await self._look_now.wait()
                except TimeoutError:
                    pass

    async def refresh(self, *, timeout: float = 5.0) -> bool:
        """Look at the databases now: somebody has just changed what there is to project, or to read. False when that
        takes longer than `timeout` seconds; it will be seen a little later then.
        """
        try:
            async with asyncio.timeout(timeout), self._looked:
                for _ in range(2):
                    # The first look may have begun before the change.
                    self._look_now.set()
                    await self._looked.wait()
        except TimeoutError:
            return False
        return True

    async def adopted(self, read_shard: int, *, timeout: float = 5.0) -> None:
        """Wait until reads of a shard go where its database says that they should.

        Raises:
            TimeoutError: they do not, after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            await self.refresh(timeout=timeout)
            while any(one.freshness.adopting(read_shard) for one in self._followed.values()):
                await self.refresh(timeout=timeout)

    def progress(self, target: Target, read_shard: int) -> Sequence[tuple[int, int, int]]:
        """How far a generation is as far as this process knows: shard of the log, checkpoint and head."""
        return [
            (event_shard, running.projector.state.checkpoint, running.projector.state.head)
            for (one, event_shard, other), running in sorted(self._running.items(), key=lambda item: item[0][1])
            if (one, other) == (target, read_shard)
        ]

    async def _look(self) -> None:
        try:
            seen = await self._log.shard_map()
        except Exception as error:  # noqa: BLE001 - what is running goes on with what is known
            _logger.warning("the log cannot be asked for its shards", problem=str(error))
        else:
            self._shards.learn(seen.shards)
            self.known.heads = seen.heads
        for read_shard, read_model in enumerate(self._read_models):
            try:
                self.known.pointers[read_shard] = await read_model.pointers()
                await self._look_at_holds(read_shard)
            except Exception as error:  # noqa: BLE001 - as above
                _logger.warning("a shard of the read model cannot be asked", read_shard=read_shard, problem=str(error))

    async def _look_at_holds(self, read_shard: int) -> None:
        """What is held no more is told by nobody else: it was retried, maybe through another replica."""
        for pointer in self.known.pointers[read_shard]:
            followed = self._followed.get(pointer.projection)
            for generation in pointer.generations if followed else ():
                assert followed is not None  # noqa: S101 - see the line above
                version = followed.holds.version
                progress = await self._read_models[read_shard].progress(generation.target)
                self.known.positions[generation.target, read_shard] = progress.positions
                held = progress.held
                number = generation.target.generation
                followed.holds.replace(read_shard=read_shard, generation=number, held=held, version=version)
                metrics.show_held(generation.target, read_shard, len(held))

    async def _reconcile(self, group: asyncio.TaskGroup) -> None:
        wanted = self._wanted()
        for key, running in list(self._running.items()):
            known = key[2] in self.known.pointers
            if known and (key not in wanted or running.filling is not self._fills(key, wanted[key][1])):
                await self._stop(key, gone=key not in wanted)
        for key, (work, generation) in wanted.items():
            if key not in self._running:
                self._start(group, key, work, filling=self._fills(key, generation))
        self._serve()
        await asyncio.gather(*(self._measure(running) for running in self._running.values()))
        self._do_chores(group)

    def _fills(self, key: Key, generation: Generation) -> bool:
        """Whether a pair goes on in the large steps that fill a generation: one that is not ready, and one that is read
        and far behind, as that of a new read model beside an old log is. It ends soon enough that whoever waits for a
        write does not wait for a large step.
        """
        if not generation.ready:
            return True
        target, event_shard, read_shard = key
        running = self._running.get(key)
        position = self.known.positions.get((target, read_shard), {}).get(event_shard, 0)
        if running is not None:
            position = max(position, running.projector.state.checkpoint)
        behind = self.known.heads.get(event_shard, 0) - position
        step = self._filling.batch_events
        return behind > (step if running is not None and running.filling else _FAR_BEHIND * step)

    def _wanted(self) -> Mapping[Key, tuple[Work, Generation]]:
        wanted: dict[Key, tuple[Work, Generation]] = {}
        for pair in self._shards.pairs():
            for pointer in self.known.pointers.get(pair.read_shard, ()):
                followed = self._followed.get(pointer.projection)
                for generation in pointer.generations if followed else ():
                    title = followed.projection.title if followed else ""
                    work = Work(generation.target, pair.event_shard, pair.read_shard, pair.buckets, title)
                    wanted[generation.target, pair.event_shard, pair.read_shard] = (work, generation)
        return wanted

    def _do_chores(self, group: asyncio.TaskGroup) -> None:
        for name, task in list(self._doing.items()):
            if task.done():
                del self._doing[name]
        for name, work in self._chores.due(self.known.pointers, self.progress):
            if name in self._doing:
                work.close()
            else:
                self._doing[name] = group.create_task(work, name=name)

    def _start(self, group: asyncio.TaskGroup, key: Key, work: Work, *, filling: bool) -> None:
        followed = self._followed[work.target.projection]
        read_model = self._read_models[work.read_shard]
        projector = Projector(
            work,
            owner=self._owner,
            log=self._log,
            read_model=read_model,
            applier=followed.projection.applier(read_model, work.target, filling=filling),
            watcher=followed,
            pace=self._filling if filling else self._pace,
        )
        self._running[key] = _Running(projector, group.create_task(projector.run()), filling)

    async def _stop(self, key: Key, *, gone: bool) -> None:
        running = self._running.pop(key)
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
        if gone:
            running.projector.forget()
            target, _, read_shard = key
            self._followed[target.projection].freshness.forget(read_shard, target.generation)

    def _serve(self) -> None:
        for read_shard, pointers in self.known.pointers.items():
            for pointer in pointers:
                followed = self._followed.get(pointer.projection)
                if followed is not None:
                    followed.freshness.serve(read_shard, pointer.serving)

    async def _measure(self, running: _Running) -> None:
        """How far it is behind the committed head, also when another replica projects, or none does."""
        projector, state = running.projector, running.projector.state
        self._compare(running)
        if state.behind and not state.running:
            checkpoint = state.checkpoint
            if running.behind[0] != checkpoint:
                running.behind = (checkpoint, await self._recorded_after(projector.work, checkpoint))
            state.behind_since = running.behind[1]
        projector.show()

    def _compare(self, running: _Running) -> None:
        """With the heads as they were last heard."""
        state = running.projector.state
        state.head = max(state.head, self.known.heads.get(running.projector.work.event_shard, 0))
        if not state.behind:
            state.behind_since = None
        elif state.running and state.behind_since is None:
            # The event is on its way here; it is younger than the last look.
            state.behind_since = time.time()

    async def _recorded_after(self, work: Work, position: int) -> float | None:
        """When the first event after a position was recorded that concerns a pair; None when there is none."""
        try:
            async with (
                asyncio.timeout(_LAG_SECONDS),
                aclosing(
                    self._log.subscribe(
                        event_shard=work.event_shard, after=position, buckets=work.buckets, heartbeat=_LAG_HEARTBEAT
                    )
                ) as messages,
            ):
                return await _first_recorded(messages)
        except Exception as error:  # noqa: BLE001 - the lag in events tells enough meanwhile
            _logger.warning("the age of a lag cannot be asked", problem=type(error).__name__)
            return None

    async def lags(self) -> Sequence[Lag]:
        """How far each projector of the products that are read is behind the committed heads of the log."""
        try:
            self.known.heads = (await self._log.shard_map()).heads
        except Exception as error:  # noqa: BLE001 - what was heard last is the next best answer
            _logger.warning("the heads of the log cannot be had", problem=str(error))
        return [lag for lag in await self.all_lags() if lag.serving and lag.target.projection == PRODUCTS]

    async def all_lags(self) -> Sequence[Lag]:
        """How far every projector is behind."""
        lags: list[Lag] = []
        for (target, event_shard, read_shard), running in list(self._running.items()):
            self._compare(running)
            state = running.projector.state
            lags.append(
                Lag(
                    target=target,
                    serving=self._followed[target.projection].freshness.generation(read_shard) == target.generation,
                    event_shard=event_shard,
                    read_shard=read_shard,
                    checkpoint=state.checkpoint,
                    head=state.head,
                    seconds=state.seconds,
                    running=state.running,
                    error=state.error,
                )
            )
        return sorted(
            lags, key=lambda lag: (lag.target.projection, lag.target.generation, lag.event_shard, lag.read_shard)
        )


async def _first_recorded(messages: AsyncGenerator[event_store_pb2.SubscribeResponse, None]) -> float | None:
    async for message in messages:
        if message.events:
            return recorded(message.events[0])
        if message.checkpoint.position >= message.head.position:
            return None
    return None
