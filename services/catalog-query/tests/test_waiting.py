"""Waiting for positions, and page tokens."""

import asyncio
import base64
import random
import uuid
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from almagest.eventstore.v1 import event_pb2
from catalog_query.application import cursors
from catalog_query.application.freshness import Freshness, Wanted
from catalog_query.application.shards import Shards
from catalog_query.domain.errors import BadPageToken, NotYetVisible
from catalog_query.domain.query import Key, Sort
from catalog_query.entrypoints import tokens


async def test_who_waits_is_woken_by_the_position_and_not_before():
    """Only the pair and position that were asked for wake a waiter."""
    freshness = Freshness()
    waiting = asyncio.create_task(freshness.wait(Wanted(0, 1, 10), timeout=10))
    await asyncio.sleep(0)
    assert freshness.waiting(event_shard=0, read_shard=1)
    freshness.advance(event_shard=0, read_shard=1, position=9)
    freshness.advance(event_shard=0, read_shard=0, position=99)
    freshness.advance(event_shard=1, read_shard=1, position=99)
    await asyncio.sleep(0)
    assert not waiting.done()
    freshness.advance(event_shard=0, read_shard=1, position=10)
    await waiting
    assert not freshness.waiting(event_shard=0, read_shard=1)


async def test_a_wait_that_is_too_long_says_where_we_are():
    """The answer names the position wanted and the one reached, and nothing stays behind."""
    freshness = Freshness()
    freshness.advance(event_shard=0, read_shard=0, position=7)
    with pytest.raises(NotYetVisible) as refused:
        await freshness.wait_for_all([Wanted(0, 0, 5), Wanted(0, 0, 8)], timeout=0.01)
    assert (refused.value.wanted, refused.value.position) == (8, 7)
    assert not freshness.waiting(event_shard=0, read_shard=0)


async def test_a_cancelled_wait_leaves_nothing_behind():
    """Somebody who gave up is not kept in memory."""
    freshness = Freshness()
    waiting = asyncio.create_task(freshness.wait(Wanted(0, 0, 1), timeout=10))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not freshness.waiting(event_shard=0, read_shard=0)


async def test_another_generation_is_read_once_it_is_as_new_as_what_was_said_before():
    """Until then reads stay where they are and their position stands still; who waits is woken by the new one."""
    freshness = Freshness()
    for event_shard in (0, 1):
        freshness.advance(event_shard=event_shard, read_shard=0, position=10)
        freshness.advance(event_shard=event_shard, read_shard=0, position=9, generation=2)
    freshness.serve(0, 2)
    assert (freshness.generation(0), freshness.adopting(0)) == (1, True)
    freshness.advance(event_shard=0, read_shard=0, position=12)
    assert freshness.position(event_shard=0, read_shard=0) == 10
    waiting = asyncio.create_task(freshness.wait(Wanted(0, 0, 12), timeout=10))
    await asyncio.sleep(0)
    freshness.advance(event_shard=0, read_shard=0, position=12, generation=2)
    assert freshness.generation(0) == 1
    assert not waiting.done()
    freshness.advance(event_shard=1, read_shard=0, position=10, generation=2)
    assert (freshness.generation(0), freshness.adopting(0)) == (2, False)
    await waiting
    freshness.advance(event_shard=0, read_shard=0, position=99)
    assert freshness.position(event_shard=0, read_shard=0) == 12


def test_a_switch_that_is_taken_back_before_it_was_adopted_leaves_nothing_behind():
    """The positions of the generation that is read go on, with what came meanwhile; other shards never stopped."""
    freshness = Freshness()
    freshness.advance(event_shard=0, read_shard=0, position=10)
    freshness.advance(event_shard=0, read_shard=1, position=10)
    freshness.serve(0, 2)
    freshness.advance(event_shard=0, read_shard=0, position=11)
    freshness.advance(event_shard=0, read_shard=1, position=11)
    assert [freshness.position(event_shard=0, read_shard=shard) for shard in (0, 1)] == [10, 11]
    freshness.serve(0, 1)
    assert (freshness.generation(0), freshness.adopting(0)) == (1, False)
    assert freshness.position(event_shard=0, read_shard=0) == 11


def test_an_answer_is_as_new_as_the_oldest_read_shard():
    """A page over all read shards can only promise what all of them have; positions never go back."""
    freshness = Freshness()
    freshness.advance(event_shard=0, read_shard=0, position=9)
    freshness.advance(event_shard=0, read_shard=1, position=4)
    freshness.advance(event_shard=1, read_shard=1, position=2)
    freshness.advance(event_shard=0, read_shard=1, position=3)
    assert freshness.positions() == {0: 4, 1: 2}


@pytest.mark.parametrize(
    ("sort", "value"),
    [
        (Sort.NAME, "volvo ü"),
        (Sort.PRICE, Decimal("12999.10")),
        (Sort.MODEL_YEAR, 1999),
        (Sort.UPDATED, datetime(2026, 11, 22, 1, 2, 3, 456789, tzinfo=UTC)),
        (Sort.RELEVANCE, 607927),
    ],
)
def test_a_page_token_gives_back_the_place(sort, value):
    """Exactly, to the last digit and microsecond."""
    key = Key(value, uuid.uuid4())
    assert cursors.to_key(cursors.of_key(key, question=b"q"), sort=sort, question=b"q") == key


def test_a_page_token_for_another_question_is_refused():
    """It would silently skip or repeat products."""
    token = cursors.of_key(Key("a", uuid.uuid4()), question=b"make=Volvo")
    with pytest.raises(BadPageToken):
        cursors.to_key(token, sort=Sort.NAME, question=b"make=Ford")


def test_a_damaged_page_token_is_refused():
    """Whatever character was lost, added or changed."""
    token = cursors.of_key(Key("a", uuid.uuid4()), question=b"q")
    chance = random.Random(1)  # noqa: S311 - which letter does not matter
    alphabet = "abcXYZ012-_"
    for place in range(len(token)):
        other = chance.choice([letter for letter in alphabet if letter != token[place]])
        for damaged in (token[:place] + token[place + 1 :], token[:place] + other + token[place + 1 :]):
            with pytest.raises(BadPageToken):
                cursors.to_key(damaged, sort=Sort.NAME, question=b"q")


@pytest.mark.parametrize("token", ["", "!", "ü", "AAAA", "A" * 3000, "e30", " "])
def test_what_was_never_a_page_token_is_refused(token):
    """With the one error that people can act upon."""
    with pytest.raises(BadPageToken):
        cursors.to_key(token, sort=Sort.NAME, question=b"q")


@pytest.mark.parametrize(
    "values", [[], [1, uuid.UUID(int=0).hex], ["a", "no id"], ["a"], {"a": 1}, [None, uuid.UUID(int=0).hex], [True, 3]]
)
def test_a_token_with_other_contents_is_refused(values):
    """The check sum is not enough: what is inside must be a place in the order."""
    with pytest.raises(BadPageToken):
        cursors.to_key(cursors.encode(values, question=b"q"), sort=Sort.NAME, question=b"q")


def test_a_token_of_a_page_is_about_every_shard_of_the_read_model():
    """A page is made of all of them, and a later read may be of any, wherever buckets have moved."""

    def text(**fields: object) -> str:
        token = event_pb2.ConsistencyToken(epoch=1, shard=1, position=7, **fields)
        return base64.urlsafe_b64encode(token.SerializeToString()).rstrip(b"=").decode()

    shards = Shards(3)
    assert tokens.wanted(text(every_bucket=True), shards) == [Wanted(1, read_shard, 7) for read_shard in range(3)]
    (one,) = tokens.wanted(text(bucket=1023), shards)
    assert one == Wanted(1, 2, 7, bucket=1023)
