"""Follows one shard of the log and keeps one shard of one generation of a projection up to it.

A projector claims its checkpoint, subscribes from it, and applies what arrives in batches: rows and checkpoint in one
transaction that is only taken when the checkpoint still is where the batch begins and the fencing token is still the
highest. Whatever fails (the log, the database, another projector in between), nothing of the batch remains, and the
projector begins anew from the checkpoint after a pause.

An event that cannot be applied does not stop it: in the transaction of its batch the event is parked and its stream is
held; later events of that stream are only counted. All others go on. Nothing is skipped unless an operator says so.

Of several replicas one projects a pair, and the others look at its checkpoint, ready to take over when it falls silent
for as long as the lease.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import Final

import structlog
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.errors import is_away, is_planned
from chassis.telemetry.tracing import link_to, tracer
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind

from catalog_query.domain.errors import (
    CatalogQueryError,
    CheckpointMoved,
    ExceptionsMoved,
    PoisonousEvent,
    ReadModelDiverged,
    UnwritableRows,
)
from catalog_query.domain.projection import Exceptions, Hold, Lease
from catalog_query.projections import metrics
from catalog_query.projections.parking import Batch, Held, with_holds
from catalog_query.projections.ports import Log, Pace, ReadModel, Watcher, Work
from catalog_query.projections.projection import Applier, Prepared
from catalog_query.projections.state import ProjectorState

_LINKS: Final = 32
_MESSAGES_AHEAD: Final = 8
_ATTEMPTS: Final = 5
"""How often a batch is prepared anew since rows or holds were not what it was folded upon."""

_logger = structlog.stdlib.get_logger(__name__)


class Projector:
    """Projects one shard of the log into one shard of a generation."""

    def __init__(
        self,
        work: Work,
        *,
        owner: str,
        log: Log,
        read_model: ReadModel,
        applier: Applier,
        watcher: Watcher,
        pace: Pace,
    ) -> None:
        self.work = work
        self.state = ProjectorState()
        self._owner = owner
        self._log = log
        self._read_model = read_model
        self._applier = applier
        self._watcher = watcher
        self._pace = pace
        self._exceptions = Exceptions()
        self._token = 0
        self._persisted = 0
        self._reached = 0
        self._persisted_at = 0.0
        self._well_at = time.monotonic()
        self._metrics = metrics.ProjectorMetrics(work.target, work.event_shard, work.read_shard)

    async def run(self) -> None:
        """Project until cancelled."""
        pause = self._pace.first_pause
        try:
            while True:
                began = time.monotonic()
                try:
                    await self._follow()
                except Exception as error:  # noqa: BLE001 - it is told, and tried again from the checkpoint
                    self._stopped(error)
                self._applier.forget()
                self.state.running = False
                self._metrics.show(self.state)
                pause = self._pace.first_pause if self._well_at > began else min(pause * 2, self._pace.longest_pause)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - to not try again all at once
        finally:
            self.state.running = False
            # What serves no more lets the others go on at once; if it cannot say so, the lease will.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await self._read_model.release(
                        self.work.target, event_shard=self.work.event_shard, token=self._token
                    )

    def show(self) -> None:
        """Tell Prometheus where we are."""
        self._metrics.show(self.state)

    def forget(self) -> None:
        """Tell Prometheus that we are no more."""
        self._metrics.forget()

    def _stopped(self, error: Exception) -> None:
        where = {
            "projection": self.work.target.projection,
            "generation": self.work.target.generation,
            "event_shard": self.work.event_shard,
            "read_shard": self.work.read_shard,
            "checkpoint": self._persisted,
        }
        if isinstance(error, CheckpointMoved):
            self._metrics.failed(error)
            _logger.info("another projector goes on", **where)
            return
        silent = time.monotonic() - self._well_at
        if _is_interruption(error) and silent < self._pace.patience:
            # Connections are renewed, services and databases replaced, buckets moved: that is daily work.
            _logger.info("the projection begins anew where it is", problem=str(error) or type(error).__name__, **where)
            return
        self._metrics.failed(error)
        # The texts of our own errors name places in the log; others may hold anything, and are only written to our log.
        self.state.error = str(error) if isinstance(error, CatalogQueryError) else type(error).__name__
        _logger.error("the projection stands still", problem=self.state.error, **where, exc_info=error)

    async def _follow(self) -> None:
        """Claim the checkpoint, then apply what comes after it."""
        lease = await self._claimed()
        self._token = lease.token
        self._persisted, self._persisted_at = lease.position, time.monotonic()
        self._reached = lease.position
        await self._look_at_exceptions()
        self._advance(lease.position)
        arrived: asyncio.Queue[event_store_pb2.SubscribeResponse | Exception] = asyncio.Queue(_MESSAGES_AHEAD)
        reader = asyncio.create_task(self._read(arrived, after=lease.position))
        renewing = asyncio.create_task(self._renew())
        try:
            while True:
                await self._apply(await self._batch(arrived))
        finally:
            reader.cancel()
            renewing.cancel()
            await asyncio.gather(reader, renewing, return_exceptions=True)

    async def _renew(self) -> None:
        """Keep the lease while a batch takes longer than it lasts. Whether it was lost shows at the next write."""
        while True:
            await asyncio.sleep(self._pace.lease / 3)
            try:
                await self._read_model.renew(self.work.target, event_shard=self.work.event_shard, token=self._token)
            except Exception as error:  # noqa: BLE001 - the next write finds out whether it matters
                _logger.warning("the lease was not renewed", problem=type(error).__name__)

    async def _claimed(self) -> Lease:
        """Wait until the checkpoint is ours, meanwhile telling how far the other projector is."""
        while True:
            lease = await self._read_model.claim(
                self.work.target, event_shard=self.work.event_shard, owner=self._owner, lease=self._pace.lease
            )
            if lease is not None:
                return lease
            self.state.error = ""
            self._well_at = time.monotonic()
            until = time.monotonic() + self._pace.lease / 3
            while time.monotonic() < until:
                progress = await self._read_model.progress(self.work.target)
                self._watcher.progress(self.work, progress)
                self._advance(progress.positions.get(self.work.event_shard, 0))
                await asyncio.sleep(
                    self._pace.watch_waited_for if self._watcher.waited_for(self.work) else self._pace.watch
                )

    async def _look_at_exceptions(self) -> None:
        self._exceptions = await self._read_model.exceptions(self.work.target)
        self._watcher.held(self.work, self._exceptions.held)

    async def _read(self, arrived: asyncio.Queue[event_store_pb2.SubscribeResponse | Exception], *, after: int) -> None:
        messages = self._log.subscribe(
            event_shard=self.work.event_shard, after=after, buckets=self.work.buckets, heartbeat=self._pace.heartbeat
        )
        try:
            async with aclosing(messages) as subscription:
                async for message in subscription:
                    await arrived.put(message)
            await arrived.put(SubscriptionEnded("the log ended the subscription"))
        except Exception as error:  # noqa: BLE001 - it is raised again where the messages are taken
            await arrived.put(error)

    async def _batch(
        self, arrived: asyncio.Queue[event_store_pb2.SubscribeResponse | Exception]
    ) -> list[event_store_pb2.SubscribeResponse]:
        """All that has arrived, at least one message, up to a bound."""
        batch: list[event_store_pb2.SubscribeResponse] = []
        events = 0
        while not batch or (
            events < self._pace.batch_events and (not arrived.empty() or self._waits_for_more(batch[-1]))
        ):
            message = await arrived.get()
            if isinstance(message, Exception):
                # What came before it is read again from the checkpoint.
                raise message
            batch.append(message)
            events += len(message.events)
        return batch

    def _waits_for_more(self, last: event_store_pb2.SubscribeResponse) -> bool:
        return self._pace.patient and last.checkpoint.position < last.head.position

    async def _apply(self, batch: Sequence[event_store_pb2.SubscribeResponse]) -> None:
        events = [event for message in batch for event in message.events]
        reached = batch[-1].checkpoint.position
        if reached < self._reached or (events and events[0].position <= self._reached):
            raise LogWentBack(f"the log went back to {reached}, before {self._reached}")
        self.state.head = max(batch[-1].head.position, reached)
        self.state.running = True
        if events:
            self.state.behind_since = recorded(events[0])
            await self._project(events, reached)
        else:
            await self._idle(reached)
        self.state.error = ""
        self._well_at = time.monotonic()
        self._reached = reached
        self._advance(reached)

    async def _project(self, events: Sequence[event_pb2.RecordedEvent], reached: int) -> None:
        """Apply events, or park those that cannot be applied and hold what comes behind them."""
        try:
            with self._span(events, reached):
                began = time.perf_counter()
                await self._written(events, reached)
                self._metrics.applied(len(events), time.perf_counter() - began)
        except UnwritableRows:
            # The database does not say which: halve, until it is alone.
            if len(events) == 1:
                await self._park_unwritable(events[0], reached)
                return
            half = len(events) // 2
            await self._project(events[:half], events[half].position - 1)
            self._advance(events[half].position - 1)
            await self._project(events[half:], reached)

    async def _written(self, events: Sequence[event_pb2.RecordedEvent], reached: int) -> None:
        """Prepare and write a batch, anew for as long as it turns out to be folded upon what is no more."""
        for attempt in range(1, _ATTEMPTS + 1):
            batch = Batch.of(events, self._exceptions.held)
            prepared = await self._applier.prepare(batch.applicable, self._exceptions.skipped, careful=attempt > 1)
            batch.hold_behind(prepared.poisons)
            try:
                await self._write(reached, prepared, batch.held)
            except (ReadModelDiverged, ExceptionsMoved):
                self._applier.forget()
                if attempt == _ATTEMPTS:
                    raise
                await self._look_at_exceptions()
            else:
                prepared.committed()
                return

    async def _park_unwritable(self, event: event_pb2.RecordedEvent, reached: int) -> None:
        poison = PoisonousEvent(event, f"the database refuses the row that {event.type} makes")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._write(reached, Prepared(poisons=[poison]), {})
            except ExceptionsMoved:
                await self._look_at_exceptions()
                if attempt == _ATTEMPTS:
                    raise
            else:
                self._applier.forget(event.stream)
                return

    def _span(self, events: Sequence[event_pb2.RecordedEvent], reached: int) -> AbstractContextManager[object]:
        """A trace of its own, linked to the recorded requests that the events come from, if there are any."""
        links = sampled(events)
        if not links:
            return contextlib.nullcontext()
        return tracer().start_as_current_span(
            self.work.title,
            context=Context(),
            kind=SpanKind.CONSUMER,
            links=links,
            attributes={
                "almagest.projection": self.work.target.projection,
                "almagest.generation": self.work.target.generation,
                "almagest.event_shard": self.work.event_shard,
                "almagest.read_shard": self.work.read_shard,
                "almagest.events": len(events),
                "almagest.position": reached,
            },
        )

    async def _idle(self, reached: int) -> None:
        """Nothing concerned us. Moving the checkpoint spares reading this again after a restart, and shows the other
        replicas that we live.
        """
        silent = time.monotonic() - self._persisted_at
        if (reached > self._persisted and silent >= self._pace.persist_idle) or silent >= self._pace.lease / 3:
            await self._write(reached, Prepared(), {})

    async def _write(self, reached: int, prepared: Prepared, held: Mapping[str, Held]) -> None:
        parked = await self._read_model.write(
            self.work.target,
            event_shard=self.work.event_shard,
            token=self._token,
            before=self._persisted,
            after=reached,
            rows=prepared.write,
            parked=prepared.poisons,
            held={stream: (one.events, one.last) for stream, one in held.items()},
        )
        self._persisted, self._persisted_at = reached, time.monotonic()
        if parked or held:
            self._note(parked, held, prepared.poisons)

    def _note(self, parked: Mapping[str, Hold], held: Mapping[str, Held], poisons: Sequence[PoisonousEvent]) -> None:
        self._exceptions = with_holds(self._exceptions, parked, held)
        if parked:
            self._metrics.parked(len(parked))
            self._watcher.held(self.work, parked)
            for poison in poisons:
                _logger.error(
                    "an event is parked, and its stream is held",
                    problem=str(poison),
                    projection=self.work.target.projection,
                    generation=self.work.target.generation,
                    exc_info=poison.__cause__,
                )

    def _advance(self, position: int) -> None:
        self.state.checkpoint = max(self.state.checkpoint, position)
        self.state.head = max(self.state.head, self.state.checkpoint)
        if self.state.head == self.state.checkpoint:
            self.state.behind_since = None
        self._watcher.visible(self.work, self.state.checkpoint)
        self._metrics.show(self.state)


class SubscriptionEnded(CatalogQueryError):
    """The log does not go on from where we are, for now."""


class LogWentBack(CatalogQueryError):
    """The log tells of what it had told before, or of less."""


def _is_interruption(error: Exception) -> bool:
    """Whether it says no more than that the log or the database is not there at the moment."""
    return isinstance(error, SubscriptionEnded) or is_planned(error) or is_away(error)


def sampled(events: Sequence[event_pb2.RecordedEvent]) -> Sequence[Link]:
    """Links to the recorded requests that the events come from, a bounded number of them."""
    links: list[Link] = []
    for traceparent in dict.fromkeys(event.metadata.traceparent for event in events):
        link = link_to(traceparent)
        if link is not None and link.context.trace_flags.sampled:
            links.append(link)
            if len(links) == _LINKS:
                break
    return links


def recorded(event: event_pb2.RecordedEvent) -> float:
    """When an event was recorded, in seconds since the epoch."""
    return event.recorded_at.seconds + event.recorded_at.nanos / 1e9
