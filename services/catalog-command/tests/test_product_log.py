"""One contract for every log: the one in memory, that the other tests trust, and the event store behind real mTLS."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from almagest.catalog.events.v1.product_events_pb2 import (
    Description,
    GeneralAttributes,
    Money,
    PriceSet,
    ProductCreated,
    ProductPublished,
)
from almagest.eventstore.v1 import event_store_pb2
from catalog_command.adapters import snapshots
from catalog_command.application.known_products import UNKNOWN
from catalog_command.application.product_log import (
    NO_REVISION,
    AppendIdReused,
    History,
    ProductAppend,
    ProductLog,
    Provenance,
    StreamConflict,
    Written,
)
from catalog_command.domain.description import Kind
from catalog_command.domain.money import Money as DomainMoney
from catalog_command.domain.product import Product, Status, initial
from catalog_command.domain.schedule import Ending, Schedule
from chassis.errors import RemoteProblem
from google.protobuf.timestamp_pb2 import Timestamp


@pytest.fixture(params=["memory", "event store"])
async def log(request, new_memory_log, store) -> AsyncIterator[ProductLog]:
    if request.param == "memory":
        yield new_memory_log()
    else:
        async with store.log() as real:
            yield real


@pytest.fixture
def appending(transaction_tokens):
    """Builds appends by one person."""
    token = transaction_tokens()

    def build(product: str, expected: int, *events: Any, **fields: Any) -> ProductAppend:
        append = ProductAppend(str(uuid.uuid4()), product, expected, events, b"fingerprint", token, Provenance())
        return replace(append, **fields)

    return build


def soon() -> float:
    return time.monotonic() + 10


def price(amount: str) -> PriceSet:
    return PriceSet(price=Money(amount=amount, currency="EUR"))


def said(events: Any) -> list[Any]:
    """What was written: without the times that the log adds on reading."""
    copies = [type(event).FromString(event.SerializeToString()) for event in events]
    for event in copies:
        event.ClearField("effective_at")
    return copies


@pytest.fixture
def product() -> str:
    return str(uuid.uuid4())


async def test_what_is_written_is_read(log, appending, product):
    """Events come back in their order, with the appends that wrote them and the place of each."""
    first = appending(product, NO_REVISION, ProductCreated(sku="a"), price("1.00"))
    second = appending(product, 1, ProductPublished())
    one = await log.append(first, deadline=soon())
    two = await log.append(second, deadline=soon())
    assert (one.first_revision, one.last_revision, two.first_revision, two.last_revision) == (0, 1, 2, 2)
    assert not one.replayed
    assert one.consistency_token != two.consistency_token

    history = await log.read(product, after=NO_REVISION, deadline=soon())
    assert said(history.events) == [*first.events, *second.events]
    assert [(done.append_id, done.first_revision, done.last_revision) for done in history.appends] == [
        (first.append_id, 0, 1),
        (second.append_id, 2, 2),
    ]
    assert [done.consistency_token for done in history.appends] == [one.consistency_token, two.consistency_token]
    assert (history.last_revision, history.consistency_token) == (2, two.consistency_token)


async def test_what_does_not_say_its_time_is_told_when_it_was_recorded(log, appending, product):
    """Both are read through the published language, so that decisions can go by times."""
    due = Timestamp(seconds=1_790_000_000)
    scheduled = PriceSet(price=Money(amount="1.00", currency="EUR"), schedule_id="s", effective_at=due)
    began = time.time() - 60
    await log.append(appending(product, NO_REVISION, ProductCreated(sku="a"), scheduled), deadline=soon())
    created, priced = (await log.read(product, after=NO_REVISION, deadline=soon())).events
    assert began < created.effective_at.seconds < time.time() + 60
    assert priced == scheduled


async def test_a_read_begins_after_a_revision(log, appending, product):
    """Only what is new is told."""
    await log.append(appending(product, NO_REVISION, ProductCreated(sku="a")), deadline=soon())
    await log.append(appending(product, 0, price("1.00")), deadline=soon())
    assert said((await log.read(product, after=0, deadline=soon())).events) == [price("1.00")]
    assert await log.read(product, after=1, deadline=soon()) == History([], [], 1, "")


async def test_a_product_that_does_not_exist_has_no_history(log, product):
    """It has no events and no revision."""
    assert await log.read(product, after=NO_REVISION, deadline=soon()) == History([], [], NO_REVISION, "")


async def test_another_revision_than_expected_is_a_conflict(log, appending, product):
    """Nothing is written then."""
    await log.append(appending(product, NO_REVISION, ProductCreated(sku="a")), deadline=soon())
    for expected in (NO_REVISION, 1, 7):
        with pytest.raises(StreamConflict):
            await log.append(appending(product, expected, price("1.00")), deadline=soon())
    assert len((await log.read(product, after=NO_REVISION, deadline=soon())).events) == 1


async def test_the_same_append_again_has_the_same_answer(log, appending, product):
    """Whatever revision it expects now, and as often as it comes."""
    append = appending(product, NO_REVISION, ProductCreated(sku="a"))
    first = await log.append(append, deadline=soon())
    await log.append(appending(product, 0, price("1.00")), deadline=soon())
    for again in (append, replace(append, expected_revision=1, events=[price("2.00")])):
        assert await log.append(again, deadline=soon()) == replace(first, replayed=True)


async def test_an_append_id_belongs_to_one_fingerprint(log, appending, product):
    """Another request under the same id is refused."""
    append = appending(product, NO_REVISION, ProductCreated(sku="a"))
    await log.append(append, deadline=soon())
    with pytest.raises(AppendIdReused):
        await log.append(replace(append, fingerprint=b"other"), deadline=soon())


async def test_an_append_is_found_by_its_id(log, appending, product):
    """With its fingerprint; and one that was never written is not found."""
    append = appending(product, NO_REVISION, ProductCreated(sku="a"))
    first = await log.append(append, deadline=soon())
    found = await log.find(append.append_id, product_id=product, deadline=soon())
    assert isinstance(found, Written)
    assert found.fingerprint == b"fingerprint"
    assert (found.first_revision, found.consistency_token) == (first.first_revision, first.consistency_token)
    assert await log.find(str(uuid.uuid4()), product_id=product, deadline=soon()) is None


async def test_one_of_many_at_once_is_written(log, appending, product):
    """Thirty-two with the same expectation, each with an id of its own."""
    appends = [appending(product, NO_REVISION, ProductCreated(sku=str(number))) for number in range(32)]
    answers = await asyncio.gather(*(log.append(a, deadline=soon()) for a in appends), return_exceptions=True)
    assert sum(isinstance(answer, Written) for answer in answers) == 1
    assert sum(isinstance(answer, StreamConflict) for answer in answers) == 31


async def test_many_products_travel_together(log, appending):
    """Each of three hundred finds its own answer, also when calls have to be split."""
    products = [str(uuid.uuid4()) for _ in range(300)]
    created = [appending(product, NO_REVISION, ProductCreated(sku=product * 900)) for product in products]
    answers = await asyncio.gather(*(log.append(append, deadline=soon()) for append in created))
    assert {answer.append_id for answer in answers} == {append.append_id for append in created}
    histories = await asyncio.gather(*(log.read(p, after=NO_REVISION, deadline=soon()) for p in products))
    assert [history.events[0].sku for history in histories] == [product * 900 for product in products]


async def test_a_long_stream_is_read_whole(log, appending, product):
    """Also one that is longer than what a batch may answer."""
    await log.append(appending(product, NO_REVISION, ProductCreated(sku="a")), deadline=soon())
    for block in range(11):
        prices = [price(f"{block}.{number:03}") for number in range(1000)]
        await log.append(appending(product, block * 1000, *prices), deadline=soon())
    history = await log.read(product, after=NO_REVISION, deadline=soon())
    assert history.last_revision == 11_000
    assert said(history.events[-1:])[0] == price("10.999")


async def test_a_kept_state_stands_for_the_events_before_it(log, appending):
    """Who loads a product gets the state that was kept and what came after it: the same as the whole tale."""
    product = str(uuid.uuid4())
    created = ProductCreated(sku="S-1", description=Description(name="n", general=GeneralAttributes()))
    first = await log.append(appending(product, NO_REVISION, created, price("1.00")), deadline=soon())
    whole = UNKNOWN.followed_by(await log.load(product, deadline=soon()))
    log.keep(product, whole.product, revision=whole.revision, consistency_token=whole.consistency_token)
    async with asyncio.timeout(20):
        while (loaded := await log.load(product, deadline=soon())).base is None:  # noqa: ASYNC110 - it is kept in the background
            await asyncio.sleep(0.01)
    assert (loaded.base, loaded.events, loaded.last_revision) == (whole.product, [], 1)
    assert UNKNOWN.followed_by(loaded).consistency_token == first.consistency_token
    await log.append(appending(product, 1, price("2.00"), ProductPublished()), deadline=soon())
    loaded = UNKNOWN.followed_by(await log.load(product, deadline=soon()))
    whole = UNKNOWN.followed_by(await log.read(product, after=NO_REVISION, deadline=soon()))
    assert loaded.product == whole.product
    assert (loaded.revision, loaded.consistency_token) == (whole.revision, whole.consistency_token)
    assert not loaded.all_appends


async def test_a_state_that_does_not_read_is_folded_anew(store, appending, monkeypatch):
    """And one of another version is not even asked for."""
    product = str(uuid.uuid4())
    async with store.log() as log:
        await log.append(appending(product, NO_REVISION, ProductCreated(sku="S-2"), price("1.00")), deadline=soon())
        whole = await log.load(product, deadline=soon())
        with monkeypatch.context() as patched:
            patched.setattr(snapshots, "written", lambda *_: b'{"sku": 5}')
            log.keep(product, initial, revision=1, consistency_token="")
        stub = log._stub
        request = event_store_pb2.BatchReadStreamsRequest(
            streams=[event_store_pb2.StreamSlice(stream=f"product-{product}", snapshot_kind=snapshots.KIND)]
        )
        async with asyncio.timeout(20):
            while not (await stub.BatchReadStreams(request, timeout=5)).streams[0].HasField("snapshot"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await log.load(product, deadline=soon()) == whole
        monkeypatch.setattr(snapshots, "KIND", "catalog-command.product.2")
        assert await log.load(product, deadline=soon()) == whole


async def test_a_stream_that_has_ended_is_an_error_and_not_a_product_that_never_was(store, appending):
    """Else its SKU could be created anew, to be refused by the log only."""
    product = str(uuid.uuid4())
    async with store.log() as log:
        await log.append(appending(product, NO_REVISION, ProductCreated(sku="S-3")), deadline=soon())
        request = event_store_pb2.SetStreamMetadataRequest(append_id=str(uuid.uuid4()), stream=f"product-{product}")
        request.metadata.tombstoned = True
        await log._stub.SetStreamMetadata(request, timeout=5)
        with pytest.raises(RemoteProblem) as caught:
            await log.load(product, deadline=soon())
        assert caught.value.reason == "STREAM_TOMBSTONED"


def test_every_part_of_a_product_survives_being_kept():
    """A field that the form forgets would be lost without a word: each has a value here that is not its default."""
    at = datetime(2026, 11, 27, 8, 30, 0, 5, tzinfo=UTC)
    product = Product(
        status=Status.PUBLISHED,
        sku="S-4",
        kind=Kind.TRUCK,
        description_digest=bytes(range(32)),
        price=DomainMoney("10.50", "EUR"),
        discontinued_because="why not",
        created_at=at,
        price_since=at + timedelta(days=1),
        status_since=at + timedelta(days=2),
        schedules=(Schedule("a", DomainMoney("1", "JPY"), at), Schedule("b", False, at)),
        endings=(("c", Ending.CANCELLED), ("d", Ending.FAILED)),
        corrected=(at, None, DomainMoney("2.00", "EUR")),
    )
    for field in fields(Product):
        assert getattr(product, field.name) != getattr(initial, field.name), field.name
    assert snapshots.read(snapshots.written(product, "token")) == (product, "token")
    assert snapshots.read(snapshots.written(initial, "")) == (initial, "")
    for broken in (b"", b"{}", b"[]", b"null", snapshots.written(product, "")[:-1]):
        with pytest.raises(snapshots.SnapshotUnreadable):
            snapshots.read(broken)
