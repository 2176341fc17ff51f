"""Follows one shard of the log and keeps one shard of the read model up to it.

A projector claims its checkpoint, subscribes from it, and applies what arrives in batches: rows and checkpoint in one
transaction that is only taken when the checkpoint still is where the batch begins. Whatever fails (the log, the
database, another projector in between, an event that cannot be applied), nothing of the batch remains, and the
projector begins anew from the checkpoint after a pause. An event that cannot be applied therefore stops its pair of
shards, visibly, until it can be; nothing is skipped.

Of several replicas one projects a pair, and the others look at its checkpoint, ready to take over when it falls silent
for as long as the lease.
"""

import asyncio
import contextlib
import random
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

import structlog
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.telemetry.tracing import link_to, tracer
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind

from catalog_query.domain.errors import CatalogQueryError, CheckpointMoved, PoisonousEvent, UnwritableRows
from catalog_query.domain.product import Document, evolve, product_id_of
from catalog_query.domain.rows import ProductRow, StoredDocument
from catalog_query.projections import metrics
from catalog_query.projections.product import document_of, row

_LINKS: Final = 32
_FOLDED_BETWEEN_TURNS: Final = 100
_MESSAGES_AHEAD: Final = 8

_logger = structlog.stdlib.get_logger(__name__)


class Log(Protocol):
    """The log, as far as projectors go."""

    def subscribe(
        self, *, event_shard: int, after: int, buckets: Sequence[tuple[int, int]], heartbeat: float
    ) -> AsyncGenerator[event_store_pb2.SubscribeResponse, None]:
        """What was and will be appended after a position, in order, until left."""
        ...


class ReadModel(Protocol):
    """One shard of the read model, as far as projectors go."""

    async def read(self, product_ids: Sequence[UUID]) -> Mapping[UUID, StoredDocument]:
        """The documents of those products that there are."""
        ...

    async def checkpoints(self) -> Mapping[int, int]:
        """The position up to which each shard of the log is applied."""
        ...

    async def claim(self, *, event_shard: int, owner: str, lease: float) -> int | None:
        """Become the one who applies a shard of the log: the checkpoint, or None while another owner lives."""
        ...

    async def release(self, *, event_shard: int, owner: str) -> None:
        """Let somebody else apply it, at once."""
        ...

    async def write(self, *, event_shard: int, owner: str, before: int, after: int, rows: Sequence[ProductRow]) -> None:
        """Rows and checkpoint, both or neither; CheckpointMoved when the checkpoint is not ours at `before`."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How a projector goes. Times are in seconds."""

    batch_events: int = 1_000
    """More events than this are not put into one transaction, if they come in several messages."""
    cached_documents: int = 4_000
    heartbeat: float = 1.0
    """How often to hear where the log's head is when nothing happens."""
    lease: float = 6.0
    """For how long a silent projector is taken to be alive by the other replicas."""
    persist_idle: float = 1.0
    """How often at most the checkpoint is moved when no event concerned us."""
    watch: float = 0.25
    """How often a replica that does not project looks at the checkpoint."""
    watch_waited_for: float = 0.02
    """The same while a read waits for it."""
    first_pause: float = 0.2
    longest_pause: float = 15.0


@dataclass(slots=True)
class ProjectorState:
    """What a projector tells of itself."""

    checkpoint: int = 0
    head: int = 0
    running: bool = False
    behind_since: float | None = None
    """Seconds since the epoch at which the oldest event that is not applied was recorded, as far as that is known."""
    error: str = ""


class Projector:
    """Projects one shard of the log into one shard of the read model."""

    def __init__(
        self,
        *,
        event_shard: int,
        read_shard: int,
        buckets: Sequence[tuple[int, int]],
        owner: str,
        log: Log,
        read_model: ReadModel,
        visible: Callable[[int], None],
        waited_for: Callable[[], bool],
        pace: Pace,
    ) -> None:
        self.event_shard = event_shard
        self.read_shard = read_shard
        self.state = ProjectorState()
        self._buckets = buckets
        self._owner = owner
        self._log = log
        self._read_model = read_model
        self._visible = visible
        self._waited_for = waited_for
        self._pace = pace
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._persisted = 0
        self._reached = 0
        self._persisted_at = 0.0
        self._metrics = metrics.ProjectorMetrics(event_shard, read_shard)

    async def run(self) -> None:
        """Project until cancelled."""
        pause = self._pace.first_pause
        try:
            while True:
                began = self._persisted
                try:
                    await self._follow()
                except Exception as error:  # noqa: BLE001 - it is told, and tried again from the checkpoint
                    self._stopped(error)
                self._documents.clear()
                self.state.running = False
                self._metrics.show(self.state)
                pause = self._pace.first_pause if self._persisted > began else min(pause * 2, self._pace.longest_pause)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - to not try again all at once
        finally:
            self.state.running = False
            # What serves no more lets the others go on at once; if it cannot say so, the lease will.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await self._read_model.release(event_shard=self.event_shard, owner=self._owner)

    def _stopped(self, error: Exception) -> None:
        where = {"event_shard": self.event_shard, "read_shard": self.read_shard, "checkpoint": self._persisted}
        self._metrics.failed(error)
        if isinstance(error, CheckpointMoved):
            _logger.info("another projector goes on", **where)
            return
        # The texts of our own errors name places in the log; others may hold anything, and are only written to our log.
        self.state.error = str(error) if isinstance(error, CatalogQueryError) else type(error).__name__
        if isinstance(error, PoisonousEvent):
            self.state.behind_since = _recorded(error.event)
        _logger.error("the projection stands still", problem=self.state.error, **where, exc_info=error)

    async def _follow(self) -> None:
        """Claim the checkpoint, then apply what comes after it."""
        position = await self._claimed()
        self._persisted, self._persisted_at = position, time.monotonic()
        self._reached = position
        self._advance(position)
        arrived: asyncio.Queue[event_store_pb2.SubscribeResponse | Exception] = asyncio.Queue(_MESSAGES_AHEAD)
        reader = asyncio.create_task(self._read(arrived, after=position))
        try:
            while True:
                await self._apply(await self._batch(arrived))
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _claimed(self) -> int:
        """Wait until the checkpoint is ours, meanwhile telling how far the other projector is."""
        while True:
            position = await self._read_model.claim(
                event_shard=self.event_shard, owner=self._owner, lease=self._pace.lease
            )
            if position is not None:
                return position
            self.state.error = ""
            until = time.monotonic() + self._pace.lease / 3
            while time.monotonic() < until:
                checkpoints = await self._read_model.checkpoints()
                self._advance(checkpoints.get(self.event_shard, 0))
                await asyncio.sleep(self._pace.watch_waited_for if self._waited_for() else self._pace.watch)

    async def _read(self, arrived: asyncio.Queue[event_store_pb2.SubscribeResponse | Exception], *, after: int) -> None:
        messages = self._log.subscribe(
            event_shard=self.event_shard, after=after, buckets=self._buckets, heartbeat=self._pace.heartbeat
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
        while not batch or (events < self._pace.batch_events and not arrived.empty()):
            message = await arrived.get()
            if isinstance(message, Exception):
                # What came before it is read again from the checkpoint.
                raise message
            batch.append(message)
            events += len(message.events)
        return batch

    async def _apply(self, batch: Sequence[event_store_pb2.SubscribeResponse]) -> None:
        events = [event for message in batch for event in message.events]
        reached = batch[-1].checkpoint.position
        if reached < self._reached or (events and events[0].position <= self._reached):
            raise SubscriptionEnded(f"the log went back to {reached}, before {self._reached}")
        self.state.head = max(batch[-1].head.position, reached)
        self.state.running = True
        if events:
            self.state.behind_since = _recorded(events[0])
            await self._project(events, reached)
        else:
            await self._idle(reached)
        self.state.error = ""
        self._reached = reached
        self._advance(reached)

    async def _project(self, events: Sequence[event_pb2.RecordedEvent], reached: int) -> None:
        """Apply events up to the first one that cannot be applied, and raise what is wrong with that one."""
        try:
            with self._span(events, reached):
                began = time.perf_counter()
                changed, rows = await self._fold(events)
                await self._write(reached, rows)
                self._remember(changed)
                self._metrics.applied(len(events), time.perf_counter() - began)
        except PoisonousEvent as error:
            good = [event for event in events if event.position < error.event.position]
            if good:
                await self._project(good, error.event.position - 1)
                self._advance(error.event.position - 1)
            raise
        except UnwritableRows:
            if len(events) == 1:
                raise
            # The database does not say which: halve, until it is alone.
            half = len(events) // 2
            await self._project(events[:half], events[half].position - 1)
            self._advance(events[half].position - 1)
            await self._project(events[half:], reached)

    def _span(self, events: Sequence[event_pb2.RecordedEvent], reached: int) -> AbstractContextManager[object]:
        """A trace of its own, linked to the recorded requests that the events come from, if there are any."""
        links = sampled(events)
        if not links:
            return contextlib.nullcontext()
        return tracer().start_as_current_span(
            "project products",
            context=Context(),
            kind=SpanKind.CONSUMER,
            links=links,
            attributes={
                "almagest.event_shard": self.event_shard,
                "almagest.read_shard": self.read_shard,
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
            await self._write(reached, ())

    async def _write(self, reached: int, rows: Sequence[ProductRow]) -> None:
        await self._read_model.write(
            event_shard=self.event_shard, owner=self._owner, before=self._persisted, after=reached, rows=rows
        )
        self._persisted, self._persisted_at = reached, time.monotonic()

    async def _fold(self, events: Sequence[event_pb2.RecordedEvent]) -> tuple[Mapping[str, Document], list[ProductRow]]:
        """The documents after the events, and the rows to write. The cache is not touched: nothing is true before it is
        committed.
        """
        before = await self._known(events)
        after: dict[str, Document] = {}
        for count, event in enumerate(events):
            product_id = product_id_of(event.stream)
            after[product_id] = evolve(after.get(product_id) or before.get(product_id), event)
            if count % _FOLDED_BETWEEN_TURNS == _FOLDED_BETWEEN_TURNS - 1:
                # Reads share this event loop.
                await asyncio.sleep(0)
        rows: list[ProductRow] = []
        for count, (product_id, document) in enumerate(after.items()):
            rows.append(row(document, before=before.get(product_id)))
            if count % _FOLDED_BETWEEN_TURNS == _FOLDED_BETWEEN_TURNS - 1:
                await asyncio.sleep(0)
        return after, rows

    async def _known(self, events: Sequence[event_pb2.RecordedEvent]) -> Mapping[str, Document]:
        """The present documents of the products that the events are about."""
        known: dict[str, Document] = {}
        missing: dict[str, UUID] = {}
        begun: set[str] = set()
        for event in events:
            product_id = product_id_of(event.stream)
            if event.revision == 0:
                begun.add(product_id)
            elif product_id not in known and product_id not in begun and product_id not in missing:
                cached = self._documents.get(product_id)
                if cached is None:
                    missing[product_id] = _uuid(product_id, event)
                else:
                    known[product_id] = cached
        if missing:
            stored = await self._read_model.read(list(missing.values()))
            known.update({str(key): document_of(found.document) for key, found in stored.items()})
        return known

    def _remember(self, changed: Mapping[str, Document]) -> None:
        for product_id, document in changed.items():
            self._documents[product_id] = document
            self._documents.move_to_end(product_id)
        while len(self._documents) > self._pace.cached_documents:
            self._documents.popitem(last=False)

    def _advance(self, position: int) -> None:
        self.state.checkpoint = max(self.state.checkpoint, position)
        self.state.head = max(self.state.head, self.state.checkpoint)
        if self.state.head == self.state.checkpoint:
            self.state.behind_since = None
        self._visible(self.state.checkpoint)
        self._metrics.show(self.state)


class SubscriptionEnded(CatalogQueryError):
    """The log does not go on from where we are, for now."""


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


def _recorded(event: event_pb2.RecordedEvent) -> float:
    return event.recorded_at.seconds + event.recorded_at.nanos / 1e9


def _uuid(product_id: str, event: event_pb2.RecordedEvent) -> UUID:
    try:
        return UUID(product_id)
    except ValueError:
        raise UnnamedProduct(event) from None


class UnnamedProduct(PoisonousEvent):
    """The stream's id is no product id."""

    def __init__(self, event: event_pb2.RecordedEvent) -> None:
        super().__init__(event, "the stream is not named by a product id")
