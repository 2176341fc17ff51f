"""Schedules, corrections and restorations through the use case: what needs to be known of the log is looked up."""

import asyncio
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import command_pb2
from catalog_command.application.execute_commands import ExecuteCommands
from catalog_command.application.known_products import KnownProducts
from catalog_command.domain import errors
from catalog_command.entrypoints.errors import error_table
from catalog_command.entrypoints.translation import execute_of
from google.protobuf.timestamp_pb2 import Timestamp

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def stamp(at: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp


class Shop:
    """One product, and the clock that the log and the commands go by."""

    def __init__(self, log: Any, example: Any) -> None:
        self.log = log
        self.example = example
        self.now = NOW
        self.service = self.replica()
        self.sku = example.sku()
        self.product = example.id_of(self.sku)
        log.clock = lambda: self.now

    def replica(self) -> ExecuteCommands:
        return ExecuteCommands(log=self.log, products=KnownProducts(100))

    async def ask(self, *commands: Any, service: ExecuteCommands | None = None, **fields: Any) -> Any:
        item = self.example.item(self.product, *commands, **fields)
        request = execute_of(item, now=self.now, deadline=time.monotonic() + 5, traceparent="")
        return await (service or self.service)(request)

    def types(self) -> list[str]:
        return [type(event).__name__ for event in self.log.events(self.product)]

    def price(self, amount: str) -> command_pb2.ProductCommand:
        return self.example.price(amount)

    @staticmethod
    def plan(at: datetime, amount: str, schedule_id: str) -> command_pb2.ProductCommand:
        price = events.Money(amount=amount, currency="EUR")
        return command_pb2.ProductCommand(
            schedule_price=command_pb2.SchedulePrice(schedule_id=schedule_id, price=price, effective_at=stamp(at))
        )

    @staticmethod
    def activate(schedule_id: str) -> command_pb2.ProductCommand:
        return command_pb2.ProductCommand(activate_schedule=command_pb2.ActivateSchedule(schedule_id=schedule_id))

    @staticmethod
    def restore(revision: int) -> command_pb2.ProductCommand:
        return command_pb2.ProductCommand(restore=command_pb2.RestoreProduct(revision=revision))

    @staticmethod
    def correct(start: datetime, end: datetime | None = None, amount: str = "9.00") -> command_pb2.ProductCommand:
        correct = command_pb2.CorrectPrice(
            price=events.Money(amount=amount, currency="EUR"), effective_from=stamp(start)
        )
        if end is not None:
            correct.effective_until.CopyFrom(stamp(end))
        return command_pb2.ProductCommand(correct_price=correct)


@pytest.fixture
async def shop(memory_log, example):
    made = Shop(memory_log, example)
    await made.ask(example.create(made.sku, example.car()), made.price("1.00"))
    return made


async def test_who_wrote_a_price_itself_still_knows_when_it_took_effect(shop):
    """What a process wrote and did not read back tells no time; an activation asks the log for it."""
    plan = str(uuid.uuid4())
    await shop.ask(shop.plan(NOW + HOUR, "2.00", plan))
    shop.now = NOW + 2 * HOUR
    await shop.ask(shop.price("3.00"))
    shop.now = NOW + 3 * HOUR
    await shop.ask(shop.activate(plan))
    assert shop.types()[-2:] == ["PriceSet", "ScheduleFailed"]
    assert shop.log.events(shop.product)[-1].reason == "SUPERSEDED"


async def test_two_workers_carry_a_schedule_out_once(shop):
    """By one id at the same time, on two replicas; and again under another id, when it has ended."""
    plan = str(uuid.uuid4())
    await shop.ask(shop.plan(NOW + HOUR, "2.00", plan))
    shop.now = NOW + 2 * HOUR
    command_id = str(uuid.uuid4())
    await asyncio.gather(
        *(
            shop.ask(shop.activate(plan), service=shop.replica(), command_id=command_id, fingerprint=b"same")
            for _ in range(4)
        )
    )
    later = await shop.ask(shop.activate(plan), service=shop.replica())
    assert shop.types() == ["ProductCreated", "PriceSet", "PriceScheduled", "PriceSet"]
    assert later.changed is False


async def test_a_plan_that_is_sent_again_after_its_time_gets_its_answer(shop):
    """The same command id is answered as before, although the time is in the past by now."""
    asked = {"command_id": str(uuid.uuid4()), "fingerprint": b"same"}
    command = shop.plan(NOW + HOUR, "2.00", str(uuid.uuid4()))
    first = await shop.ask(command, **asked)
    shop.now = NOW + 2 * HOUR
    again = await shop.ask(command, service=shop.replica(), **asked)
    assert (again.revision, again.replayed) == (first.revision, True)
    with pytest.raises(errors.TimeOutOfRange):
        await shop.ask(shop.plan(NOW + HOUR, "3.00", str(uuid.uuid4())))


async def test_a_correction_goes_back_to_the_creation_as_the_log_recorded_it(shop):
    """Not a microsecond further; the refusal names the time by its path in the request."""
    shop.now = NOW + HOUR
    await shop.ask(shop.correct(NOW))
    with pytest.raises(errors.TimeOutOfRange) as refusal:
        await shop.ask(shop.correct(NOW - timedelta(microseconds=1)))
    problem = error_table().problem(refusal.value)
    assert problem.reason == "TIME_OUT_OF_RANGE"
    assert [one.field for one in problem.violations] == ["commands[0].correct_price.effective_from"]
    with pytest.raises(errors.TimeOutOfRange) as refusal:
        await shop.ask(shop.price("1.00"), shop.correct(NOW, NOW + 2 * HOUR))
    problem = error_table().problem(refusal.value)
    assert [one.field for one in problem.violations] == ["commands[1].correct_price.effective_until"]


async def test_an_earlier_revision_is_restored_from_the_log(shop, example):
    """With what the description was then, which no folded state holds; to the present: nothing."""
    await shop.ask(example.describe(example.car(name="Other")), shop.price("2.00"), example.publish())
    restored = await shop.ask(shop.restore(1), service=shop.replica())
    assert (restored.changed, restored.revision) == (True, 7)
    description, hidden, price = shop.log.events(shop.product)[-3:]
    assert description.description.name == example.car().name
    assert isinstance(hidden, events.ProductUnpublished)
    assert (price.price.amount, price.restored_from) == ("1.00", 1)
    assert (await shop.ask(shop.restore(7))).changed is False
    assert (await shop.ask(shop.restore(1))).changed is False
    with pytest.raises(errors.RevisionNotFound):
        await shop.ask(shop.restore(8))


async def test_what_was_never_created_cannot_be_restored(shop, example):
    """Nor planned, corrected or carried out."""
    shop.product = example.id_of(example.sku())
    for command in (
        shop.restore(0),
        shop.correct(NOW),
        shop.activate(str(uuid.uuid4())),
        shop.plan(NOW + HOUR, "1.00", str(uuid.uuid4())),
    ):
        with pytest.raises(errors.ProductNotFound):
            await shop.ask(command)


async def test_wrong_fields_are_named_all_at_once(shop):
    """Ids, prices and times of the new commands, as of the old."""
    plan = shop.plan(NOW + HOUR, "1.001", "mine")
    correct = shop.correct(NOW)
    correct.correct_price.price.currency = "XYZ"
    with pytest.raises(errors.InvalidCommand) as refusal:
        await shop.ask(plan, correct, shop.activate(""))
    assert [field for field, _ in refusal.value.violations] == [
        "commands[0].schedule_price.schedule_id",
        "commands[0].schedule_price.price.amount",
        "commands[1].correct_price.price.currency",
        "commands[2].activate_schedule.schedule_id",
    ]
