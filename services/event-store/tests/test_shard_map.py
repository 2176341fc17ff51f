"""The map that is put together from what the shards say, each at a moment of its own."""

from itertools import pairwise

import pytest
from chassis.buckets import BUCKETS
from event_store.application.membership import ShardsUnusable
from event_store.application.moves import Move, Phase
from event_store.application.shard_map import Held, joined
from hypothesis import given, settings
from hypothesis import strategies as st


def test_a_map_is_put_together_from_accounts_of_different_moments():
    """Who holds a bucket by the later version has it; what nobody holds is where it was; two at once cannot be."""
    everything = frozenset(range(BUCKETS))
    some = frozenset(range(100))
    late = joined([Held(1, everything), Held(2, some)], [-1] * BUCKETS)
    assert (late.epoch, late.shard_of(0), late.shard_of(100)) == (2, 1, 0)
    fenced = joined([Held(2, everything - some), Held(2, frozenset())], [0] * BUCKETS)
    assert fenced.shard_of(0) == 0
    for wrong in ([Held(2, everything), Held(2, some)], [Held(1, everything - some), Held(1, frozenset())]):
        with pytest.raises(ShardsUnusable):
            joined(wrong, [-1] * BUCKETS)


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(), moves=st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 1023), st.integers(0, 2)), max_size=5)
)
def test_looks_at_any_moments_of_a_history_of_moves_give_a_map_of_that_history(data, moves):
    """Each shard is looked at at a moment of its own, in any order, among the fences and takes of moves. Each bucket is
    then where it was at one of these moments.
    """
    owners = [bucket * 3 // BUCKETS for bucket in range(BUCKETS)]
    held = [{b for b in range(BUCKETS) if owners[b] == s} for s in range(3)]
    epochs = [1, 1, 1]
    moments = [([Held(e, frozenset(h)) for e, h in zip(epochs, held, strict=True)], list(owners))]
    for number, (one, other, target) in enumerate(moves):
        buckets = [b for b in range(min(one, other), max(one, other) + 1) if owners[b] != target]
        for source in {owners[b] for b in buckets}:
            held[source] -= set(buckets)
        moments.append(([Held(e, frozenset(h)) for e, h in zip(epochs, held, strict=True)], list(owners)))
        held[target] |= set(buckets)
        epochs[target] = number + 2
        for bucket in buckets:
            owners[bucket] = target
        moments.append(([Held(e, frozenset(h)) for e, h in zip(epochs, held, strict=True)], list(owners)))
        epochs = [number + 2] * 3
    begun = data.draw(st.integers(0, len(moments) - 1))
    looks = [data.draw(st.integers(begun, len(moments) - 1)) for _ in range(3)]
    found = joined([moments[look][0][shard] for shard, look in enumerate(looks)], moments[begun][1])
    for bucket in range(0, BUCKETS, 7):
        assert found.shard_of(bucket) in {moments[m][1][bucket] for m in range(begun, max(looks) + 1)}
    assert all(later[1] is not earlier[1] for earlier, later in pairwise(moments))


async def test_the_phase_says_whether_more_comes():
    """For those who follow a move."""
    assert [phase.over for phase in Phase] == [False, False, True, True, True]


@given(first=st.integers(0, 1023), count=st.integers(1, 1024), size=st.integers(1, 1024))
def test_the_slices_of_a_move_are_its_buckets_once_each_with_a_version_each(first, count, size):
    """Whoever works on it finds the same ones; the last has the version that the whole leads to."""
    last = min(1023, first + count - 1)
    move = Move("6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11", first, last, 0, 1, 5000, size)
    slices = move.slices
    assert [bucket for one in slices for bucket in range(one.first, one.last + 1)] == list(range(first, last + 1))
    assert all(one.last - one.first < size for one in slices)
    assert [one.epoch for one in slices] == list(range(5000 - len(slices) + 1, 5001))
    assert len({one.move_id for one in slices}) == len(slices)
    assert slices == move.slices
    assert (len(slices) > 1) == (move.move_id not in {one.move_id for one in slices})
