"""Lives of products, made up by chance, and an oracle that paints every moment anew."""

# ruff: noqa: S311 - chance makes lives
import random
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import catalog_events
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.eventstore.v1 import event_pb2
from chassis.buckets import BucketMap, bucket_of
from google.protobuf.message import Message


def described(name: str) -> events.Description:
    vehicle = events.VehicleAttributes(make="Volvo", model="V60", model_year=2024)
    return events.Description(name=name, category="vehicles", car=events.CarAttributes(vehicle=vehicle))


class Story:
    """One product's life on a clock of whole seconds: events with the times that a test gives them.

    It knows what is scheduled and open, so that random lives keep to the rules of the write side, and it can paint what
    holds at each second in the dullest way: the oracle of the fold in two times.
    """

    BEGIN = 1_800_000_000

    def __init__(
        self, seed: int | None = None, *, product_id: str = "", position: Callable[[], int] | None = None
    ) -> None:
        self.chance = random.Random(seed)
        self.product_id = product_id or str(uuid.UUID(int=self.chance.getrandbits(128)))
        self.history: list[event_pb2.RecordedEvent] = []
        self.tick = 0
        self._position = position or (lambda: len(self.history) + 1)
        self._open: dict[str, tuple[int, Message]] = {}
        self._says: list[tuple[str, int, int, int | None, Any]] = []

    def time(self, tick: float) -> datetime:
        return datetime.fromtimestamp(self.BEGIN + tick, UTC)

    @property
    def now(self) -> datetime:
        return self.time(self.tick)

    def wait(self, ticks: int) -> "Story":
        self.tick += ticks
        return self

    def put(self, message: Message) -> event_pb2.RecordedEvent:
        """Record an event now."""
        bucket = bucket_of(self.product_id)
        event = event_pb2.RecordedEvent(
            shard=BucketMap(2).shard_of(bucket),
            position=self._position(),
            stream=f"product-{self.product_id}",
            revision=len(self.history),
            bucket=bucket,
            event_id=str(uuid.UUID(int=self.chance.getrandbits(128))),
            type=message.DESCRIPTOR.full_name,
            payload=message.SerializeToString(),
        )
        event.recorded_at.FromSeconds(self.BEGIN + self.tick)
        self.history.append(event)
        return event

    def _say(self, part: str, value: Any, since: int | None = None, until: int | None = None) -> None:
        self._says.append((part, len(self.history) - 1, self.tick if since is None else since, until, value))

    def create(self, name: str = "Volvo V60", sku: str = "") -> "Story":
        self.put(
            events.ProductCreated(
                product_id=self.product_id, sku=sku or f"S{self.product_id[:8]}", description=described(name)
            )
        )
        self._say("name", name)
        self._say("status", "draft")
        return self

    def describe(self, name: str) -> "Story":
        self.put(events.ProductDescribed(description=described(name)))
        self._say("name", name)
        return self

    def price(self, amount: str) -> "Story":
        self.put(events.PriceSet(price=events.Money(amount=amount, currency="EUR")))
        self._say("price", {"amount": amount, "currency": "EUR"})
        return self

    def remove_price(self) -> "Story":
        self.put(events.PriceRemoved())
        self._say("price", None)
        return self

    def publish(self, *, published: bool = True) -> "Story":
        self.put(events.ProductPublished() if published else events.ProductUnpublished())
        self._say("status", "published" if published else "draft")
        return self

    def discontinue(self) -> "Story":
        self.put(events.ProductDiscontinued(reason="old"))
        self._say("status", "discontinued")
        return self

    def correct(self, amount: str, *, since: int, until: int | None = None) -> "Story":
        message = events.PriceCorrected(price=events.Money(amount=amount, currency="EUR"))
        message.effective_from.FromSeconds(self.BEGIN + since)
        if until is not None:
            message.effective_until.FromSeconds(self.BEGIN + until)
        self.put(message)
        self._say("price", {"amount": amount, "currency": "EUR"}, since, until)
        return self

    def schedule_price(self, amount: str, *, due: int) -> str:
        message = events.PriceScheduled(schedule_id=self._id(), price=events.Money(amount=amount, currency="EUR"))
        return self._schedule(message, due)

    def schedule_publication(self, *, published: bool, due: int) -> str:
        return self._schedule(events.PublicationScheduled(schedule_id=self._id(), published=published), due)

    def _id(self) -> str:
        return str(uuid.UUID(int=self.chance.getrandbits(128)))

    def _schedule(self, message: Any, due: int) -> str:
        message.effective_at.FromSeconds(self.BEGIN + due)
        self.put(message)
        self._open[message.schedule_id] = (due, message)
        return message.schedule_id

    def cancel(self, schedule_id: str, *, failed: bool = False) -> "Story":
        self._open.pop(schedule_id)
        self.put((events.ScheduleFailed if failed else events.ScheduleCancelled)(schedule_id=schedule_id))
        return self

    def activate(self, schedule_id: str) -> "Story":
        due, planned = self._open.pop(schedule_id)
        message: Any
        if isinstance(planned, events.PriceScheduled):
            message = events.PriceSet(schedule_id=schedule_id, price=planned.price)
            said = ("price", {"amount": planned.price.amount, "currency": planned.price.currency})
        else:
            assert isinstance(planned, events.PublicationScheduled)
            kind = events.ProductPublished if planned.published else events.ProductUnpublished
            message = kind(schedule_id=schedule_id)
            said = ("status", "published" if planned.published else "draft")
        message.effective_at.FromSeconds(self.BEGIN + due)
        self.put(message)
        self._say(*said, since=due)
        return self

    def live(self, events_more: int) -> "Story":
        """A random life, by the rules of the write side."""
        chance = self.chance
        self.create(f"Name {chance.randrange(3)}")
        for _ in range(events_more):
            self.wait(chance.choice((0, 0, 1, 2, 5)))
            due = [one for one, (tick, _) in self._open.items() if tick <= self.tick]
            match chance.randrange(12):
                case 0 | 1 | 2:
                    self.price(f"{chance.randrange(5)}.00")
                case 3:
                    self.describe(f"Name {chance.randrange(3)}")
                case 4:
                    self.publish(published=chance.random() < 0.6)
                case 5:
                    self.remove_price()
                case 6 | 7:
                    self.schedule_price(f"{chance.randrange(5, 9)}.00", due=self.tick + chance.randrange(1, 8))
                case 8:
                    self.schedule_publication(published=chance.random() < 0.6, due=self.tick + chance.randrange(1, 8))
                case 9 if self._open:
                    self.cancel(chance.choice(list(self._open)), failed=chance.random() < 0.3)
                case 10 if self.tick:
                    since = chance.randrange(self.tick)
                    until = chance.choice((None, chance.randrange(since + 1, self.tick + 1)))
                    self.correct(f"{chance.randrange(9, 12)}.00", since=since, until=until)
                case _ if due:
                    self.activate(chance.choice(due))
                case _:
                    self.price(f"{chance.randrange(5)}.00")
        if chance.random() < 0.2:
            self.discontinue()
        return self

    def painted(self, history: Sequence[event_pb2.RecordedEvent]) -> dict[int, Any]:
        """Per second, what holds: name, status and price, None before the product."""
        told: list[Any] = [catalog_events.decode(event) for event in history]
        plans = [one for one in told if isinstance(one, events.PriceScheduled | events.PublicationScheduled)]
        ended = {getattr(one, "schedule_id", "") for one in told if one not in plans}
        left = sorted(
            (one for one in plans if one.schedule_id not in ended), key=lambda plan: plan.effective_at.seconds
        )
        return {-1: None} | {tick: self._painted(len(history), left, tick) for tick in range(self.tick + 12)}

    def _painted(self, known: int, plans: Sequence[Any], tick: int) -> Any:
        holds: dict[str, Any] = {"price": None}
        latest: dict[str, int] = {"price": -1, "status": -1}
        for part, revision, since, until, value in self._says:
            if revision < known and since <= tick and (until is None or tick < until):
                holds[part] = value
                if until is None:
                    latest[part] = max(latest.get(part, -1), since)
        for plan in plans:
            due = plan.effective_at.seconds - self.BEGIN
            part = "price" if isinstance(plan, events.PriceScheduled) else "status"
            if due > tick or latest[part] > due or holds["status"] == "discontinued":
                continue
            if isinstance(plan, events.PriceScheduled):
                holds["price"] = {"amount": plan.price.amount, "currency": plan.price.currency}
            elif not plan.published:
                holds["status"] = "draft"
            elif holds["price"] is not None:
                holds["status"] = "published"
        return (holds["name"], holds["status"], holds["price"])
