"""What was stored is read as what is written today."""

import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.eventstore.v1 import event_pb2
from catalog_events import PACKAGE, UndecodableEvent, UnknownEvent, UnreadableEvent, decode, type_name
from catalog_events.decoder import Decoder, Upcaster
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

RECORDED_AT = Timestamp(seconds=1_790_000_000, nanos=123_456_000)


def recorded(type_: str, payload: bytes) -> event_pb2.RecordedEvent:
    return event_pb2.RecordedEvent(
        stream="product-1", shard=1, position=7, revision=3, type=type_, payload=payload, recorded_at=RECORDED_AT
    )


# Written by the version before facts could be scheduled, and committed as the bytes that its logs hold.
OLD = [
    ("PriceSet", "0a0f0a0831323939392e30301203455552"),
    ("ProductPublished", ""),
    ("ProductUnpublished", ""),
]


@pytest.mark.parametrize(("name", "stored"), OLD)
def test_an_event_from_before_schedules_is_effective_when_it_was_recorded(name: str, stored: str):
    """The old shape had one time, and readers of today ask for two."""
    message = decode(recorded(PACKAGE + name, bytes.fromhex(stored)))
    assert message.DESCRIPTOR.name == name
    assert message.effective_at == RECORDED_AT
    assert not message.schedule_id


def test_the_old_price_is_read_whole():
    """What the old shape did say is not lost in the new one."""
    message = decode(recorded(PACKAGE + "PriceSet", bytes.fromhex("0a0f0a0831323939392e30301203455552")))
    assert isinstance(message, events.PriceSet)
    assert (message.price.amount, message.price.currency) == ("12999.00", "EUR")


def test_what_says_its_time_keeps_it():
    """A price that was scheduled holds from when it was due, however late that was recorded."""
    due = Timestamp(seconds=RECORDED_AT.seconds - 60)
    price = events.PriceSet(price=events.Money(amount="1.00", currency="EUR"), schedule_id="s", effective_at=due)
    assert decode(recorded(type_name(price), price.SerializeToString())) == price


def test_every_event_that_is_written_is_read_back():
    """No type of the language can be stored and not be read."""
    for message in events.DESCRIPTOR.message_types_by_name.values():
        if message.name.endswith(("Attributes", "Money", "Description")):
            continue
        assert decode(recorded(message.full_name, b"")).DESCRIPTOR is message


def test_an_unknown_type_is_named_with_its_place_and_without_its_content():
    """Who sees the error finds the event; the log of the process does not tell what it holds."""
    with pytest.raises(UnknownEvent) as caught:
        decode(recorded(PACKAGE + "ProductTeleported", b"secret"))
    assert str(caught.value) == (
        "unknown event type almagest.catalog.events.v1.ProductTeleported: event 3 of product-1, position 7 of shard 1"
    )


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(payload: bytes):
    """Nothing that can stand in a log ends in another error than the one that says so."""
    try:
        message = decode(recorded(PACKAGE + "PriceSet", payload))
    except UndecodableEvent as error:
        assert isinstance(error, UnreadableEvent)  # noqa: PT017 - refused or read, both are right
    else:
        assert isinstance(message, events.PriceSet)


def _to_described(message: events.ProductCreated, _: event_pb2.RecordedEvent) -> Message:
    return events.ProductDescribed(description=message.description)


def _trimmed(message: events.ProductDescribed, _: event_pb2.RecordedEvent) -> Message:
    message.description.name = message.description.name.strip()
    return message


def _shouted(message: events.ProductDescribed, _: event_pb2.RecordedEvent) -> Message:
    message.description.name = message.description.name.upper()
    return message


RENAMED = Upcaster(events.ProductCreated, events.ProductDescribed, _to_described)
TRIMMED = Upcaster(events.ProductDescribed, events.ProductDescribed, _trimmed)
SHOUTED = Upcaster(events.ProductDescribed, events.ProductDescribed, _shouted)


def test_steps_compose_over_a_type_that_took_the_place_of_another():
    """Each step knows its neighbours only; together they lead from the oldest version to that of today."""
    decoder = Decoder(types=[events.ProductDescribed], upcasters=[TRIMMED, SHOUTED, RENAMED])
    oldest = events.ProductCreated(description=events.Description(name=" v60 "))
    newer = events.ProductDescribed(description=events.Description(name=" v60 "))
    for stored in (oldest, newer):
        read = decoder.decode(recorded(stored.DESCRIPTOR.full_name, stored.SerializeToString()))
        assert read == events.ProductDescribed(description=events.Description(name="V60"))


def test_a_chain_that_leads_nowhere_is_refused_when_it_is_built():
    """A decoder that could loop, or answer what nobody reads any more, does not come into being."""
    back = Upcaster(events.ProductDescribed, events.ProductCreated, _trimmed)
    with pytest.raises(ValueError, match="lead back"):
        Decoder(types=[events.ProductDescribed], upcasters=[RENAMED, back])
    with pytest.raises(ValueError, match="which nobody writes"):
        Decoder(types=[events.PriceSet], upcasters=[RENAMED])
