"""From the wire to what the use case takes. Whatever is wrong with an item in itself is found here, all at once."""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import command_pb2
from chassis.errors import DeadlineExceeded, ResourceExhausted
from google.protobuf.timestamp_pb2 import Timestamp

from catalog_command.application.execute_commands import Execute
from catalog_command.application.product_log import Provenance
from catalog_command.domain.commands import (
    ActivateSchedule,
    CancelSchedule,
    CorrectPrice,
    CreateProduct,
    DescribeProduct,
    DiscontinueProduct,
    ProductCommand,
    PublishProduct,
    PutProduct,
    RestoreProduct,
    ScheduleChange,
    SetPrice,
    UnpublishProduct,
)
from catalog_command.domain.description import Description, description
from catalog_command.domain.errors import InvalidCommand, InvalidValue, Violation
from catalog_command.domain.money import Money, money
from catalog_command.domain.schedule import Schedule
from catalog_command.domain.sku import product_id, sku
from catalog_command.domain.text import line, prose

MAXIMUM_COMMANDS: Final = 16
MAXIMUM_ITEM_BYTES: Final = 256 * 1024
MAXIMUM_FINGERPRINT_BYTES: Final = 64
MAXIMUM_REASON: Final = 500

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)

_Translator = Callable[[command_pb2.ProductCommand, str, datetime], ProductCommand]


def execute_of(item: command_pb2.CommandItem, *, now: datetime, deadline: float, traceparent: str) -> Execute:
    """What an item asks for.

    Args:
        item: the item; fields that this version does not know are taken out of it.
        now: the present time, which some commands are judged by.
        deadline: of the call, on the clock of `time.monotonic`; the item's own may come earlier.
        traceparent: the trace context that the item's work belongs to.

    Raises:
        InvalidCommand: Fields are wrong; their paths start at the item.
        ResourceExhausted: The item is too large.
        DeadlineExceeded: The item has no time.
    """
    size = item.ByteSize()
    if size > MAXIMUM_ITEM_BYTES:
        raise ResourceExhausted(f"An item has at most {MAXIMUM_ITEM_BYTES} bytes.", reason="ITEM_TOO_LARGE")
    # What a newer caller means by a field that is unknown here cannot be done, and must not be dropped silently.
    item.DiscardUnknownFields()
    if item.ByteSize() != size:
        raise InvalidCommand([("", "The item has fields that this version of the service does not know.")])
    wrong: list[Violation] = []
    product = _uuid(item.product_id, "product_id", wrong)
    command_id = _uuid(item.command_id, "command_id", wrong)
    job_id = _uuid(item.job_id, "job_id", wrong) if item.job_id else ""
    if len(item.fingerprint) > MAXIMUM_FINGERPRINT_BYTES:
        wrong.append(("fingerprint", f"must have at most {MAXIMUM_FINGERPRINT_BYTES} bytes"))
    reason = _checked("reason", wrong, lambda: prose(item.reason, maximum=MAXIMUM_REASON))
    commands = _commands(item.commands, product, now, wrong)
    if wrong:
        raise InvalidCommand(wrong)
    if item.HasField("timeout"):
        seconds = item.timeout.seconds + item.timeout.nanos / 1e9
        if seconds <= 0:
            raise DeadlineExceeded
        deadline = min(deadline, time.monotonic() + seconds)
    return Execute(
        command_id=command_id,
        product_id=product,
        commands=commands,
        fingerprint=item.fingerprint or _fingerprint(item),
        transaction_token=item.transaction_token,
        deadline=deadline,
        provenance=Provenance(traceparent, job_id, item.import_line, reason),
        expected_revision=item.expected_revision if item.HasField("expected_revision") else None,
        dry_run=item.dry_run,
    )


def names_of(item: command_pb2.CommandItem) -> str:
    """The commands of an item by name, for people who look at a trace."""
    names = [command.WhichOneof("command") or "nothing" for command in item.commands[:MAXIMUM_COMMANDS]]
    return ", ".join(names) or "nothing"


def _fingerprint(item: command_pb2.CommandItem) -> bytes:
    """What tells an item from another one under the same command id, when the caller does not say."""
    asked = command_pb2.CommandItem(product_id=item.product_id.lower(), commands=item.commands)
    if item.HasField("expected_revision"):
        asked.expected_revision = item.expected_revision
    return hashlib.sha256(asked.SerializeToString(deterministic=True)).digest()


def _uuid(text: str, field: str, wrong: list[Violation]) -> str:
    lower = text.lower()
    if _UUID.fullmatch(lower) is None:
        wrong.append((field, "must be a UUID, for example 0198c5a2-7c1e-7000-8000-0123456789ab"))
    return lower


def _checked(field: str, wrong: list[Violation], parse: Callable[[], str]) -> str:
    try:
        return parse()
    except InvalidValue as error:
        wrong.append((field, str(error)))
        return ""


def _commands(
    messages: Sequence[command_pb2.ProductCommand], product: str, now: datetime, wrong: list[Violation]
) -> Sequence[ProductCommand]:
    if not 1 <= len(messages) <= MAXIMUM_COMMANDS:
        wrong.append(("commands", f"must be 1 to {MAXIMUM_COMMANDS}"))
        return ()
    commands: list[ProductCommand] = []
    for index, message in enumerate(messages):
        name = message.WhichOneof("command")
        if name is None:
            wrong.append((f"commands[{index}]", "must have its command set, to one that this version knows"))
            continue
        try:
            commands.append(_TRANSLATORS[name](message, product, now))
        except InvalidCommand as error:
            # A path that leaves the command, as that of the product id does, starts with a slash and is the item's own.
            wrong += [
                (field[1:] if field.startswith("/") else f"commands[{index}].{name}.{field}", what)
                for field, what in error.violations
            ]
    return commands


def _described(
    message: command_pb2.CreateProduct | command_pb2.PutProduct, product: str, now: datetime
) -> tuple[str, Description]:
    wrong: list[Violation] = []
    key = _checked("sku", wrong, lambda: sku(message.sku))
    if key and (expected := str(product_id(key))) != product:
        wrong.append(("/product_id", f"must be the id that the SKU gives, which is {expected}"))
    try:
        described = description(message.description, year=now.year)
    except InvalidCommand as error:
        raise InvalidCommand([*wrong, *_below("description", error)]) from None
    if wrong:
        raise InvalidCommand(wrong)
    return key, described


def _below(field: str, error: InvalidCommand) -> Sequence[Violation]:
    return [(f"{field}.{inner}", what) for inner, what in error.violations]


def _create(message: command_pb2.ProductCommand, product: str, now: datetime) -> CreateProduct:
    return CreateProduct(product, *_described(message.create, product, now))


def _put(message: command_pb2.ProductCommand, product: str, now: datetime) -> PutProduct:
    return PutProduct(product, *_described(message.put, product, now))


def _describe(message: command_pb2.ProductCommand, _: str, now: datetime) -> DescribeProduct:
    try:
        return DescribeProduct(description(message.describe.description, year=now.year))
    except InvalidCommand as error:
        raise InvalidCommand(_below("description", error)) from None


def _set_price(message: command_pb2.ProductCommand, _: str, __: datetime) -> SetPrice:
    try:
        return SetPrice(money(message.set_price.price))
    except InvalidCommand as error:
        raise InvalidCommand(_below("price", error)) from None


def _publish(_: command_pb2.ProductCommand, __: str, ___: datetime) -> PublishProduct:
    return PublishProduct()


def _unpublish(_: command_pb2.ProductCommand, __: str, ___: datetime) -> UnpublishProduct:
    return UnpublishProduct()


def _discontinue(message: command_pb2.ProductCommand, _: str, __: datetime) -> DiscontinueProduct:
    wrong: list[Violation] = []
    reason = _checked("reason", wrong, lambda: line(message.discontinue.reason, minimum=1, maximum=MAXIMUM_REASON))
    if wrong:
        raise InvalidCommand(wrong)
    return DiscontinueProduct(reason)


def _time(message: Timestamp, field: str, wrong: list[Violation]) -> datetime:
    """A time, to the microsecond, which is as fine as the log keeps them."""
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError):
        wrong.append((field, "must be a time between the years 1 and 9999"))
        # Only so that the rest can be looked at, too: what is in `wrong` refuses the command.
        return datetime.min.replace(tzinfo=UTC)


def _money(message: events.Money, wrong: list[Violation]) -> Money:
    try:
        return money(message)
    except InvalidCommand as error:
        wrong += _below("price", error)
        # As above; ISO 4217's code for no currency.
        return Money("0", "XXX")


def _schedule_price(message: command_pb2.ProductCommand, _: str, now: datetime) -> ScheduleChange:
    asked, wrong = message.schedule_price, list[Violation]()
    schedule = Schedule(
        _uuid(asked.schedule_id, "schedule_id", wrong),
        _money(asked.price, wrong),
        _time(asked.effective_at, "effective_at", wrong),
    )
    if wrong:
        raise InvalidCommand(wrong)
    return ScheduleChange(schedule, now)


def _schedule_publication(message: command_pb2.ProductCommand, _: str, now: datetime) -> ScheduleChange:
    asked, wrong = message.schedule_publication, list[Violation]()
    schedule = Schedule(
        _uuid(asked.schedule_id, "schedule_id", wrong),
        asked.published,
        _time(asked.effective_at, "effective_at", wrong),
    )
    if wrong:
        raise InvalidCommand(wrong)
    return ScheduleChange(schedule, now)


def _cancel_schedule(message: command_pb2.ProductCommand, _: str, __: datetime) -> CancelSchedule:
    wrong: list[Violation] = []
    schedule_id = _uuid(message.cancel_schedule.schedule_id, "schedule_id", wrong)
    if wrong:
        raise InvalidCommand(wrong)
    return CancelSchedule(schedule_id)


def _activate_schedule(message: command_pb2.ProductCommand, _: str, now: datetime) -> ActivateSchedule:
    wrong: list[Violation] = []
    schedule_id = _uuid(message.activate_schedule.schedule_id, "schedule_id", wrong)
    if wrong:
        raise InvalidCommand(wrong)
    return ActivateSchedule(schedule_id, now)


def _correct_price(message: command_pb2.ProductCommand, _: str, now: datetime) -> CorrectPrice:
    asked, wrong = message.correct_price, list[Violation]()
    end = _time(asked.effective_until, "effective_until", wrong) if asked.HasField("effective_until") else None
    correct = CorrectPrice(_money(asked.price, wrong), _time(asked.effective_from, "effective_from", wrong), end, now)
    if wrong:
        raise InvalidCommand(wrong)
    return correct


def _restore(message: command_pb2.ProductCommand, _: str, __: datetime) -> RestoreProduct:
    return RestoreProduct(message.restore.revision)


_TRANSLATORS: dict[str, _Translator] = {
    "create": _create,
    "describe": _describe,
    "put": _put,
    "set_price": _set_price,
    "publish": _publish,
    "unpublish": _unpublish,
    "discontinue": _discontinue,
    "schedule_price": _schedule_price,
    "schedule_publication": _schedule_publication,
    "cancel_schedule": _cancel_schedule,
    "activate_schedule": _activate_schedule,
    "correct_price": _correct_price,
    "restore": _restore,
}
