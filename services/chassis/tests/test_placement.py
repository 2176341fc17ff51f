"""Ids and buckets: laws, and examples that must never change because data lies where they say."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from chassis.buckets import BUCKETS, BucketMap, ShardMap, bucket_of, stream_bucket
from chassis.ids import uuid7
from hypothesis import given, settings
from hypothesis import strategies as st


def test_ids_rise_also_across_threads_and_are_version_7() -> None:
    """Each id is greater than the one before; ids of several threads never meet; version and variant are as in RFC 9562."""
    own = [uuid7() for _ in range(5000)]
    assert own == sorted(own)
    with ThreadPoolExecutor(4) as threads:
        many = [made for batch in threads.map(lambda _: [uuid7() for _ in range(2000)], range(8)) for made in batch]
    assert len(set(many)) == len(many)
    assert all(made.version == 7 and made.variant == uuid.RFC_4122 for made in many)


def test_ids_rise_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set back does not make later ids smaller."""
    before = uuid7()
    monkeypatch.setattr("chassis.ids.time.time_ns", lambda: 1_000_000_000)
    after = [uuid7() for _ in range(10)]
    assert sorted([before, *after]) == [before, *after]


@pytest.mark.parametrize(("key", "bucket"), [("", 692), ("a", 559), ("5f0c9f6e-8d2b-5b7a-9a53-0f3f8f0d2a11", 78)])
def test_the_bucket_of_a_key_never_changes(key: str, bucket: int) -> None:
    """Another answer would leave every event in the wrong place."""
    assert bucket_of(key) == bucket


@given(category=st.from_regex(r"[a-z]+", fullmatch=True), identifier=st.text(min_size=1), key=st.text(min_size=1))
def test_a_stream_lives_with_its_partition_key(category: str, identifier: str, key: str) -> None:
    """The bucket is that of the id, or of the partition key if there is one, whatever the category."""
    assert stream_bucket(f"{category}-{identifier}") == bucket_of(identifier)
    assert stream_bucket(f"{category}-{identifier}", key) == bucket_of(key)


@pytest.mark.parametrize("stream", ["", "product", "product-", "-id"])
def test_a_stream_without_category_or_id_has_no_bucket(stream: str) -> None:
    """A malformed name is refused instead of placed somewhere."""
    with pytest.raises(ValueError, match="category"):
        stream_bucket(stream)


@settings(deadline=None)
@given(shards=st.integers(1, BUCKETS))
def test_every_bucket_is_in_exactly_one_shard_and_shards_are_equal(shards: int) -> None:
    """The ranges cover all buckets without overlap, agree with `shard_of`, and differ in size by one at most."""
    buckets = BucketMap(shards)
    covered: list[int] = []
    sizes: set[int] = set()
    for shard in range(shards):
        ((first, last),) = buckets.ranges(shard)
        assert all(buckets.shard_of(bucket) == shard for bucket in (first, last))
        covered.extend(range(first, last + 1))
        sizes.add(last - first + 1)
    assert covered == list(range(BUCKETS))
    assert max(sizes) - min(sizes) <= 1


def test_what_does_not_exist_is_refused() -> None:
    """No shard 2 of two, no bucket 1024, no map of none."""
    buckets = BucketMap(2)
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match="shard"):
            buckets.ranges(wrong)
    for wrong in (-1, BUCKETS):
        with pytest.raises(ValueError, match="bucket"):
            buckets.shard_of(wrong)
    for wrong in (0, BUCKETS + 1):
        with pytest.raises(ValueError, match="shards"):
            BucketMap(wrong)


@st.composite
def moves(draw: st.DrawFn) -> tuple[int, int, int]:
    """A range of buckets, and one of five shards."""
    first = draw(st.integers(0, BUCKETS - 1))
    return first, draw(st.integers(first, BUCKETS - 1)), draw(st.integers(0, 4))


@settings(deadline=None, max_examples=50)
@given(shards=st.integers(1, 4), wanted=st.lists(moves(), max_size=6))
def test_a_map_is_what_the_moves_made_of_it_and_comes_back_from_its_ranges(
    shards: int, wanted: list[tuple[int, int, int]]
) -> None:
    """Each bucket is where the last move of it put it, else where it was at first; each move is one version; the ranges
    of all shards say the whole map.
    """
    buckets: ShardMap = BucketMap(shards)
    owners = {bucket: buckets.shard_of(bucket) for bucket in range(BUCKETS)}
    for first, last, shard in wanted:
        buckets = buckets.moved(first, last, shard)
        owners.update(dict.fromkeys(range(first, last + 1), shard))
    assert buckets.epoch == 1 + len(wanted)
    assert {bucket: buckets.shard_of(bucket) for bucket in range(BUCKETS)} == owners
    ranges = {shard: buckets.ranges(shard) for shard in range(buckets.shards)}
    assert ShardMap.of_ranges(buckets.epoch, ranges) == buckets
    for first, last, shard in wanted:
        segments = buckets.segments(first, last)
        assert [bucket for start, end, _ in segments for bucket in range(start, end + 1)] == [*range(first, last + 1)]
        assert all(owners[bucket] == owner for start, end, owner in segments for bucket in range(start, end + 1))
        assert all(left[2] != right[2] for left, right in pairwise(segments))
        assert 0 <= shard < buckets.shards


@pytest.mark.parametrize(
    ("ranges", "fault"),
    [
        ({0: [(0, 511)], 1: [(511, 1023)]}, "511 is held by shards 0 and 1"),
        ({0: [(0, 510)], 1: [(512, 1023)]}, "511 is held by no shard"),
        ({0: [(0, 511)], 2: [(512, 1023)]}, "not numbered"),
        ({0: [(0, 1024)]}, "within 0 to 1023"),
        ({}, "0 is held by no shard"),
    ],
)
def test_a_map_that_leaves_a_bucket_in_doubt_is_none(ranges: dict[int, list[tuple[int, int]]], fault: str) -> None:
    """Two owners of a bucket would both take appends, and no owner would lose them."""
    with pytest.raises(ValueError, match=fault):
        ShardMap.of_ranges(1, ranges)


def test_a_shard_may_hold_nothing() -> None:
    """As one that was just added does."""
    buckets = ShardMap.of_ranges(3, {0: [(0, 1023)], 1: []})
    assert (buckets.shards, buckets.epoch, buckets.ranges(1)) == (2, 3, [])
