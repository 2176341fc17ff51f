# Fixtures are asked for by name; how many a test needs says nothing about it.
"""The use case over the log in memory: conflicts, repetitions, races and failures."""

import asyncio
import itertools
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from catalog_command.application.errors import CommandIdReused, OutcomeUnknown, RevisionConflict, TooContended
from catalog_command.application.execute_commands import LONG_TALE, Execute, ExecuteCommands
from catalog_command.application.known_products import KnownProducts
from catalog_command.application.product_log import History
from catalog_command.domain import errors
from catalog_command.entrypoints.translation import execute_of
from chassis.errors import DeadlineExceeded, Unavailable
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def service(memory_log):
    return ExecuteCommands(log=memory_log, products=KnownProducts(100))


@pytest.fixture
def replica(memory_log):
    """Another process on the same log, with a memory of its own."""
    return ExecuteCommands(log=memory_log, products=KnownProducts(100))


@pytest.fixture
def sku(example):
    return example.sku()


@pytest.fixture
def product(example, sku):
    return example.id_of(sku)


@pytest.fixture
def ask(example, product):
    """Builds a request about the product."""

    def build(*commands: Any, seconds: float = 5, **fields: Any) -> Execute:
        return asked(example.item(product, *commands, **fields), seconds=seconds)

    return build


def asked(item, *, seconds: float = 5) -> Execute:
    return execute_of(item, now=NOW, deadline=time.monotonic() + seconds, traceparent="")


class TestOutcomes:
    async def test_a_new_product_is_one_append_and_no_read(self, service, memory_log, example, ask, sku, product):
        """A creation is decided blindly, and its commands travel together."""
        done = await service(ask(example.put(sku, example.car()), example.price("1"), example.publish()))

        assert (done.revision, done.changed, done.created, done.replayed) == (2, True, True, False)
        assert done.consistency_token == "at-3"
        assert memory_log.calls == ["append"]
        assert [type(event).__name__ for event in memory_log.events(product)] == [
            "ProductCreated", "PriceSet", "ProductPublished",
        ]  # fmt: skip

    async def test_what_is_already_so_is_not_written_again(self, service, memory_log, example, ask, sku):
        """Another command that asks for the same changes nothing, and says where the product stands."""
        first = await service(ask(example.put(sku, example.car()), example.price("1")))
        again = await service(ask(example.put(sku, example.car()), example.price("1.00")))

        assert (again.revision, again.changed, again.created) == (1, False, False)
        assert again.consistency_token == first.consistency_token
        assert memory_log.calls == ["append", "read"]

    async def test_a_put_of_what_another_replica_created_is_corrected(self, service, replica, example, ask, sku):
        """The blind creation conflicts, and the product is described instead."""
        await replica(ask(example.put(sku, example.car())))
        done = await service(ask(example.put(sku, example.car(name="Another"))))
        assert (done.revision, done.changed, done.created) == (1, True, False)

    async def test_all_commands_of_an_item_or_none(self, service, memory_log, example, ask, sku, product):
        """The second command is refused, so the first did not happen; the refusal says which it was."""
        with pytest.raises(errors.PriceMissing) as refused:
            await service(ask(example.create(sku, example.car()), example.publish()))
        assert refused.value.command == 1
        assert memory_log.events(product) == []

    async def test_a_dry_run_tells_and_writes_nothing(self, service, memory_log, example, ask, sku, product):
        """It answers what would be, with no place in the log."""
        done = await service(ask(example.put(sku, example.car()), example.price("1"), dry_run=True))
        assert (done.revision, done.changed, done.created, done.consistency_token) == (1, True, True, "")
        assert memory_log.events(product) == []
        with pytest.raises(errors.ProductNotFound):
            await service(ask(example.publish(), dry_run=True))

    async def test_a_dry_run_looks_at_the_log_and_not_at_its_memory(self, service, replica, example, ask, sku):
        """What another replica wrote meanwhile counts."""
        await service(ask(example.put(sku, example.car())))
        await replica(ask(example.price("1")))
        done = await service(ask(example.price("1"), dry_run=True))
        assert (done.revision, done.changed) == (1, False)

    async def test_where_it_comes_from_is_written_with_it(self, service, memory_log, example, ask, sku, product):
        """Job, line and reason go into the log beside the event."""
        job = str(uuid.uuid4())
        await service(ask(example.create(sku, example.car()), job_id=job, import_line=7, reason="Spring"))
        provenance = memory_log.appends(product)[0].provenance
        assert (provenance.job_id, provenance.import_line, provenance.reason) == (job, 7, "Spring")


class TestStaleMemory:
    async def test_a_refusal_is_never_based_on_memory_alone(self, service, replica, example, ask, sku):
        """The price that another replica has set meanwhile allows the publication."""
        await service(ask(example.create(sku, example.car())))
        await replica(ask(example.price("1")))
        assert (await service(ask(example.publish()))).revision == 2

    async def test_nothing_to_do_is_never_based_on_memory_alone(
        self, service, replica, memory_log, example, ask, sku, product
    ):
        """The price is no longer what memory says, so setting it is a change."""
        await service(ask(example.create(sku, example.car()), example.price("1")))
        await replica(ask(example.price("2")))
        done = await service(ask(example.price("1")))
        assert (done.revision, done.changed) == (3, True)
        assert memory_log.events(product)[-1].price.amount == "1.00"

    async def test_forgotten_products_are_read_again(self, memory_log, example):
        """The memory is bounded; what fell out of it is in the log."""
        products = KnownProducts(2)
        service = ExecuteCommands(log=memory_log, products=products)
        skus = [example.sku() for _ in range(5)]
        for sku in skus:
            await service(asked(example.item(example.id_of(sku), example.create(sku, example.car()))))
        assert len(products) == 2
        done = await service(asked(example.item(example.id_of(skus[0]), example.price("1"))))
        assert done.revision == 1


class TestExpectedRevision:
    async def test_the_revision_seen_is_the_revision_changed(
        self, service, replica, memory_log, example, ask, sku, product
    ):
        """A stale one is refused with the actual one, and nothing is written."""
        await service(ask(example.create(sku, example.car())))
        assert (await service(ask(example.price("1"), expected_revision=0))).revision == 1
        with pytest.raises(RevisionConflict) as stale:
            await service(ask(example.price("2"), expected_revision=0))
        assert (stale.value.expected, stale.value.actual) == (0, 1)
        await replica(ask(example.price("3")))
        with pytest.raises(RevisionConflict) as overtaken:
            await service(ask(example.price("2"), expected_revision=1))
        assert overtaken.value.actual == 2
        assert len(memory_log.events(product)) == 3

    async def test_a_revision_that_memory_does_not_know_yet_is_looked_up(self, service, replica, example, ask, sku):
        """The caller may have seen more than this process."""
        await service(ask(example.create(sku, example.car())))
        await replica(ask(example.price("1")))
        assert (await service(ask(example.publish(), expected_revision=1))).revision == 2

    async def test_a_stale_revision_is_refused_even_when_nothing_would_change(self, service, example, ask, sku):
        """The caller decided on what is no longer so."""
        await service(ask(example.create(sku, example.car()), example.price("1")))
        with pytest.raises(RevisionConflict):
            await service(ask(example.price("1"), expected_revision=0))

    async def test_a_product_that_does_not_exist_has_no_revision(self, service, example, ask, sku):
        """A change finds nothing; a creation conflicts."""
        with pytest.raises(errors.ProductNotFound):
            await service(ask(example.price("1"), expected_revision=0))
        with pytest.raises(RevisionConflict) as absent:
            await service(ask(example.create(sku, example.car()), expected_revision=3))
        assert absent.value.actual == -1

    async def test_the_repetition_of_a_conditional_write_is_no_conflict(self, service, replica, example, ask, sku):
        """The same command id gets its answer, although the revision has moved, by its own hand and by others'."""
        await service(ask(example.create(sku, example.car())))
        request = ask(example.price("1"), expected_revision=0)
        first = await service(request)
        await replica(ask(example.price("5")))
        for where in (service, replica):
            assert await where(request) == replace(first, replayed=True)


class TestRepetition:
    @pytest.mark.parametrize("where", ["service", "replica"])
    async def test_a_repeated_creation_is_answered_as_the_first_time(self, service, replica, where, example, ask, sku):
        """It must not hear that the product exists: not here, and not at another replica."""
        request = ask(example.create(sku, example.car()))
        first = await service(request)
        await service(ask(example.describe(example.car(name="Another"))))
        again = await {"service": service, "replica": replica}[where](request)
        assert again == replace(first, replayed=True)
        assert again.created

    async def test_a_repetition_is_recognised_when_its_append_is_no_longer_remembered(
        self, service, replica, example, ask, sku
    ):
        """Ten appends later it has to be asked for, and is found: for a refusal, for no change, and for a new change."""
        creation = ask(example.create(sku, example.car()))
        first = await service(creation)
        pricing = ask(example.price("1"))
        second = await service(pricing)
        for amount in itertools.chain(range(2, 12), [1]):
            await service(ask(example.price(str(amount))))
        await service(ask(example.describe(example.car(name="Another"))))
        for where in (service, replica):
            assert await where(creation) == replace(first, replayed=True)
            assert await where(pricing) == replace(second, replayed=True)
        await service(ask(example.price("99")))
        assert await service(pricing) == replace(second, replayed=True)

    async def test_a_command_id_belongs_to_one_request(self, service, replica, memory_log, example, ask, sku, product):
        """Something else under the same id is refused everywhere, and changes nothing."""
        request = ask(example.create(sku, example.car()))
        await service(request)
        for commands in ([example.price("1")], [example.publish()], [example.create(sku, example.car(doors=3))]):
            other = ask(*commands, command_id=request.command_id)
            for where in (service, replica):
                with pytest.raises(CommandIdReused):
                    await where(other)
        assert len(memory_log.events(product)) == 1

    async def test_a_repetition_teaches_nothing_about_the_product(self, service, replica, example, ask, sku):
        """It was decided elsewhere, on what is not known here; to take it for the product's state would hide a change for ever."""
        await service(ask(example.create(sku, example.car())))
        await replica(ask(example.describe(example.car(doors=3))))
        pricing = ask(example.price("1"))
        await replica(pricing)
        assert (await service(pricing)).replayed
        back = await service(ask(example.describe(example.car())))
        assert (back.revision, back.changed) == (3, True)

    async def test_a_reused_command_id_is_recognised_when_its_append_is_lost(
        self, service, memory_log, example, ask, sku
    ):
        """What is found in place of the lost one is not its own."""
        await service(ask(example.create(sku, example.car())))
        first = ask(example.price("1"))
        await service(first)
        memory_log.loses_appends = 1
        with pytest.raises(CommandIdReused):
            await service(ask(example.price("2"), command_id=first.command_id))

    async def test_sixty_four_at_once_are_one_append(self, service, replica, memory_log, example, ask, sku, product):
        """All of them get the same answer, and all but one are told that it is not the first."""
        request = ask(example.create(sku, example.car()), example.price("1"))
        answers = await asyncio.gather(*(where(request) for where in [service, replica] * 32))
        assert len(memory_log.events(product)) == 2
        assert {(answer.revision, answer.consistency_token, answer.created) for answer in answers} == {
            (1, "at-2", True)
        }
        assert sum(not answer.replayed for answer in answers) == 1


class TestRaces:
    async def test_writers_of_one_process_queue_up_instead_of_conflicting(
        self, service, memory_log, example, ask, sku, product
    ):
        """Fifty prices at once are fifty appends, in the order in which they came."""
        await service(ask(example.create(sku, example.car())))
        memory_log.calls.clear()
        await asyncio.gather(*(service(ask(example.price(str(amount)))) for amount in range(1, 51)))
        assert memory_log.calls == ["append"] * 50
        assert [event.price.amount for event in memory_log.events(product)[1:]] == [f"{n}.00" for n in range(1, 51)]

    async def test_writers_of_several_processes_lose_no_change(self, memory_log, example, ask, sku, product):
        """Those who conflict decide again."""
        replicas = [ExecuteCommands(log=memory_log, products=KnownProducts(10)) for _ in range(3)]
        await replicas[0](ask(example.create(sku, example.car())))
        requests = [ask(example.price(str(amount))) for amount in range(1, 13)]
        await asyncio.gather(
            *(where(request) for where, request in zip(itertools.cycle(replicas), requests, strict=False))
        )
        amounts = [event.price.amount for event in memory_log.events(product)[1:]]
        assert sorted(amounts) == sorted(f"{n}.00" for n in range(1, 13))

    async def test_conflicts_end_after_some(self, service, memory_log, example, ask, sku):
        """Somebody who is always faster does not hold a request for ever."""
        await service(ask(example.create(sku, example.car())))
        faster = iter(range(100, 200))

        def overtake(append):
            stream = memory_log._streams[append.product_id]
            stream.append((example.price(str(next(faster))).set_price, append))

        memory_log.before_append = overtake
        memory_log.read = lambda *_, **__: asyncio.sleep(0, History([], [], 0, ""))
        with pytest.raises(TooContended):
            await service(ask(example.price("1")))
        assert memory_log.calls.count("append") == 1 + 5

    async def test_a_cancelled_call_frees_the_product(self, service, memory_log, example, ask, sku):
        """The next in the queue goes on; what was not sent was not done."""
        await service(ask(example.create(sku, example.car())))
        stuck = asyncio.Event()
        original = memory_log.append

        async def hang(*_: Any, **__: Any):
            stuck.set()
            await asyncio.get_running_loop().create_future()

        memory_log.append = hang
        first = asyncio.create_task(service(ask(example.price("1"))))
        await stuck.wait()
        second = asyncio.create_task(service(ask(example.price("2"))))
        third = asyncio.create_task(service(ask(example.price("3"))))
        await asyncio.sleep(0)
        memory_log.append = original
        first.cancel()
        second.cancel()
        assert (await third).revision == 1
        with pytest.raises(asyncio.CancelledError):
            await first

    async def test_an_idle_product_has_no_queue(self, service, example, ask, sku):
        """Queues last as long as somebody is in them."""
        await asyncio.gather(
            service(ask(example.put(sku, example.car()))), service(ask(example.put(sku, example.car())))
        )
        assert len(service._queues) == 0

    async def test_waiting_for_the_product_ends_with_the_deadline(self, service, memory_log, example, ask, sku):
        """The queue is no reason to answer too late."""
        await service(ask(example.create(sku, example.car())))
        release = asyncio.get_running_loop().create_future()
        original = memory_log.append

        async def slow(append, *, deadline):
            await release
            return await original(append, deadline=deadline)

        memory_log.append = slow
        first = asyncio.create_task(service(ask(example.price("1"))))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await service(ask(example.price("2"), seconds=0.01))
        release.set_result(None)
        assert (await first).revision == 1


class TestFailures:
    async def test_an_append_whose_answer_is_lost_is_found(self, service, memory_log, example, ask, sku, product):
        """It was written: that is the answer, and it is not called a repetition."""
        memory_log.loses_answers = 1
        done = await service(ask(example.create(sku, example.car())))
        assert (done.revision, done.created, done.replayed) == (0, True, False)
        assert len(memory_log.events(product)) == 1
        assert (await service(ask(example.price("1")))).revision == 1

    async def test_an_append_that_is_lost_is_sent_again(self, service, memory_log, example, ask, sku, product):
        """It was not written, and the same id can be written only once."""
        memory_log.loses_appends = 1
        assert (await service(ask(example.create(sku, example.car())))).revision == 0
        assert memory_log.calls == ["append", "append"]
        assert len(memory_log.events(product)) == 1

    async def test_an_unknown_outcome_is_told_as_such_and_can_be_sent_again(
        self, service, memory_log, example, ask, sku, product
    ):
        """The log goes away after the write: the answer says that the same command id is safe, and it is."""
        request = ask(example.create(sku, example.car()))
        memory_log.loses_answers = 1
        memory_log.before_append = lambda _: setattr(memory_log, "down", True)
        with pytest.raises(OutcomeUnknown, match="safely be sent again"):
            await service(request)
        memory_log.down, memory_log.before_append = False, lambda _: None
        assert (await service(request)).replayed
        assert len(memory_log.events(product)) == 1

    async def test_a_log_that_is_down_fails_reads_at_once_and_recovers(self, service, memory_log, example, ask, sku):
        """Nothing is remembered that was not written."""
        memory_log.down = True
        with pytest.raises(OutcomeUnknown):
            await service(ask(example.create(sku, example.car())))
        with pytest.raises(Unavailable):
            await service(ask(example.price("1")))
        memory_log.down = False
        assert (await service(ask(example.create(sku, example.car())))).created

    async def test_an_expired_request_writes_nothing(self, service, memory_log, example, ask, sku, product):
        """What nobody waits for any more is not begun."""
        with pytest.raises((DeadlineExceeded, OutcomeUnknown)):
            await service(ask(example.create(sku, example.car()), seconds=-1))
        assert memory_log.events(product) == []


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_losses_and_repetitions_leave_no_mark_on_the_log(new_memory_log, example, data):
    """Appends and answers get lost, requests are repeated, at either replica: the log is as if nothing had happened.

    The client repeats a request until it has an answer, as clients should.
    """
    sku = example.sku()
    choices = st.sampled_from(
        [
            [example.put(sku, example.car())],
            [example.put(sku, example.car(doors=3)), example.price("1")],
            [example.price("1")],
            [example.price("2")],
            [example.publish()],
            [example.unpublish()],
        ]
    )
    requests = [
        asked(example.item(example.id_of(sku), *commands)) for commands in data.draw(st.lists(choices, max_size=8))
    ]
    faults = [data.draw(st.sampled_from(["none", "answer", "append", "repeat"])) for _ in requests]

    async def run(log, faults):
        replicas = [ExecuteCommands(log=log, products=KnownProducts(10)) for _ in range(2)]
        for request, fault in zip(requests, faults, strict=True):
            log.loses_answers = 2 if fault == "answer" else 0
            log.loses_appends = 2 if fault == "append" else 0
            for attempt in range(4):
                try:
                    await replicas[attempt % 2](request)
                except OutcomeUnknown:
                    continue
                except errors.DomainError:
                    break
                if fault != "repeat":
                    break
        return log.events(example.id_of(sku))

    unharmed = asyncio.run(run(new_memory_log(), ["none"] * len(requests)))
    assert asyncio.run(run(new_memory_log(), faults)) == unharmed


class TestLongTales:
    async def test_a_long_tale_is_told_once(self, service, replica, memory_log, example, ask, sku, product):
        """Who folded many events keeps the state for the next one, who then decides the same on it."""
        await service(ask(example.put(sku, example.car())))
        for number in range(1, LONG_TALE):
            await service(ask(example.price(str(number))))
        assert "keep" not in memory_log.calls
        await replica(ask(example.price("1000")))
        assert memory_log.calls.count("keep") == 1
        another = ExecuteCommands(log=memory_log, products=KnownProducts(100))
        same = await another(ask(example.price("1000")))
        assert (same.changed, same.revision) == (False, LONG_TALE)
        assert (await another(ask(example.publish()))).revision == LONG_TALE + 1
        assert memory_log.calls.count("keep") == 1

    async def test_a_command_from_before_the_kept_state_is_recognised(
        self, service, replica, memory_log, example, ask, sku
    ):
        """Its append is asked for by id, since the tale does not tell of it any more."""
        await service(ask(example.put(sku, example.car())))
        early = ask(example.price("5"))
        first = await service(early)
        for number in range(1, LONG_TALE):
            await service(ask(example.price(f"{number}.50")))
        await replica(ask(example.publish()))
        another = ExecuteCommands(log=memory_log, products=KnownProducts(100))
        again = await another(early)
        assert (again.replayed, again.revision) == (True, first.revision)
