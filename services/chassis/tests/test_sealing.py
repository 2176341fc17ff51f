"""What is sealed opens with its key, in its place, unchanged, and in no other way."""

import asyncio
import base64
import copy
import os
import pickle
from pathlib import Path
from uuid import UUID

import pytest
from chassis.ids import uuid7
from chassis.sealing.aead import SealBroken, SealingError, SealingKey, UnknownKey, context_of, key_id_of
from chassis.sealing.index import IndexKey, indexes
from chassis.sealing.ring import SealingRing
from chassis.sealing.subjects import SubjectForgotten, SubjectSealer, WrappedKey
from chassis.sealing.wrapping import FileKeyWrapping
from hypothesis import given
from hypothesis import strategies as st


@given(plaintext=st.binary(max_size=200), context=st.binary(max_size=50))
def test_what_is_sealed_opens(plaintext: bytes, context: bytes):
    """With the same key in the same context, whatever it is."""
    key = SealingKey.fresh()
    sealed = key.seal(plaintext, context=context)
    assert key.open(sealed, context=context) == plaintext
    assert key_id_of(sealed) == key.id


@given(bit=st.integers(min_value=0, max_value=(1 + 8 + 12 + 6 + 16) * 8 - 1))
def test_no_bit_of_a_sealed_value_may_change(bit: int):
    """Not of version, key id, nonce, ciphertext or tag."""
    key = SealingKey.fresh()
    sealed = bytearray(key.seal(b"secret", context=b"here"))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((SealBroken, UnknownKey)):
        key.open(bytes(sealed), context=b"here")


@given(places=st.lists(st.lists(st.text(max_size=5), max_size=4), min_size=2, max_size=2, unique_by=tuple))
def test_two_places_never_have_one_context(places: list[list[str]]):
    """However their names are cut: ("ab", "c") is not ("a", "bc")."""
    one, other = places
    assert context_of(*one) != context_of(*other)


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" * 20, b"\x02" + bytes(50)])
def test_what_is_no_sealed_value_is_refused(sealed: bytes):
    """Too short, or of another version."""
    with pytest.raises(SealBroken):
        SealingKey.fresh().open(sealed, context=b"")


def test_a_ring_opens_what_older_keys_sealed_and_seals_with_the_primary():
    """And says what is to be sealed anew."""
    old, new = SealingKey.fresh(), SealingKey.fresh()
    sealed = old.seal(b"x", context=b"c")
    ring = SealingRing(new, [old])
    assert ring.open(sealed, context=b"c") == b"x"
    assert not ring.is_current(sealed)
    assert ring.is_current(ring.seal(b"x", context=b"c"))
    ring.take(new)
    with pytest.raises(UnknownKey, match=old.id.hex()):
        ring.open(sealed, context=b"c")


def test_a_key_shows_its_id_only_and_is_never_pickled_or_copied():
    """Nor does a ring, an index key or a key-encryption key show any."""
    content = os.urandom(32)
    key, index = SealingKey(content, key_id=bytes(8)), IndexKey(content, key_id=bytes(8))
    wrapping = FileKeyWrapping(content, purpose="test")
    shown = "".join(map(repr, (key, index, SealingRing(key), wrapping)))
    assert content.hex() not in shown
    assert repr(content)[2:-1] not in shown
    for each in (key, index):
        assert not hasattr(each, "__dict__")
        with pytest.raises(TypeError, match="never serialised"):
            pickle.dumps(each)
        with pytest.raises(TypeError, match="never serialised"):
            copy.copy(each)


def test_an_index_is_the_same_for_the_same_value_under_the_same_key_only():
    """32 bytes of HMAC-SHA256; while keys are rotated, one for each."""
    one, other = (IndexKey(os.urandom(32), key_id=os.urandom(8)) for _ in range(2))
    assert one.of("ada@example.org") == one.of("ada@example.org") != other.of("ada@example.org")
    assert indexes([one, other], "a") == {one.id: one.of("a"), other.id: other.of("a")}
    assert len(one.of("a")) == 32


async def test_a_rotated_key_file_opens_and_is_told_apart(tmp_path: Path):
    """With the older file beside it; without it, the error names the key and not its content."""
    old, new = tmp_path / "old", tmp_path / "new"
    for path in (old, new):
        path.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
    before = FileKeyWrapping.read(old, purpose="test")
    wrapped = await before.wrap(b"k" * 32, context="c")
    both = FileKeyWrapping.read(new, [old], purpose="test")
    assert await both.unwrap(wrapped, context="c") == b"k" * 32
    assert not both.is_current(wrapped)
    assert both.is_current(await both.wrap(b"k" * 32, context="c"))
    with pytest.raises(UnknownKey, match=before.primary_id):
        await FileKeyWrapping.read(new, purpose="test").unwrap(wrapped, context="c")
    with pytest.raises(UnknownKey):
        await FileKeyWrapping.read(old, purpose="other").unwrap(wrapped, context="c")
    with pytest.raises(SealBroken):
        await both.unwrap(wrapped, context="d")


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "cannot read"), (b"", "32 bytes"), (b"@@@", "not base64"), (b"QUJD", "32 bytes")]
)
def test_a_bad_key_file_is_named(tmp_path: Path, content: bytes | None, problem: str):
    """And what is wrong with it."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SealingError, match=problem) as failure:
        FileKeyWrapping.read(path, purpose="test")
    assert str(path) in str(failure.value)


class KeysInMemory:
    """The keys of persons, for as long as the test."""

    def __init__(self) -> None:
        self.kept: dict[UUID, WrappedKey] = {}
        self.asked = 0

    async def find(self, subject_id: UUID) -> WrappedKey | None:
        self.asked += 1
        return self.kept.get(subject_id)

    async def add(self, subject_id: UUID, key: WrappedKey) -> WrappedKey:
        return self.kept.setdefault(subject_id, key)

    async def destroy(self, subject_id: UUID) -> bool:
        found = self.kept.get(subject_id)
        self.kept[subject_id] = WrappedKey(b"", None)
        return found is not None and found.wrapped is not None


class Persons:
    """A sealer with a clock of its own."""

    def __init__(self) -> None:
        self.keys = KeysInMemory()
        self.wrapping = FileKeyWrapping(os.urandom(32), purpose="test")
        self.now = 0.0
        self.sealer = self.replica()

    def replica(self) -> SubjectSealer:
        return SubjectSealer(self.keys, self.wrapping, remembered_seconds=5.0, clock=lambda: self.now)


async def test_what_is_said_of_a_person_opens_for_that_person_field_and_place_only():
    """The key is made on first use, and wrapped."""
    persons, ada, grace = Persons(), uuid7(), uuid7()
    sealed = await persons.sealer.seal(ada, "address", b"192.0.2.7", b"event 1")
    await persons.sealer.seal(grace, "address", b"192.0.2.8", b"event 1")
    assert await persons.replica().open(ada, "address", sealed, b"event 1") == b"192.0.2.7"
    for subject, field, place, error in (
        (grace, "address", b"event 1", UnknownKey),
        (ada, "agent", b"event 1", SealBroken),
        (ada, "address", b"event 2", SealBroken),
    ):
        with pytest.raises(error):
            await persons.sealer.open(subject, field, sealed, place)


async def test_a_forgotten_person_is_sealed_for_ever():
    """Nothing opens, nothing new is said, no key is made again, also when there never was one."""
    persons, ada = Persons(), uuid7()
    sealed = await persons.sealer.seal(ada, "address", b"192.0.2.7")
    assert await persons.sealer.forget(ada)
    assert not await persons.sealer.forget(ada)
    with pytest.raises(SubjectForgotten):
        await persons.sealer.open(ada, "address", sealed)
    with pytest.raises(SubjectForgotten):
        await persons.sealer.seal(ada, "address", b"again")
    nobody = uuid7()
    assert not await persons.sealer.forget(nobody)
    with pytest.raises(SubjectForgotten):
        await persons.sealer.seal(nobody, "address", b"first")


async def test_a_remembered_key_is_forgotten_by_another_replica_in_seconds_or_at_once():
    """It is asked for anew when its time is over, and before that when the replica is told."""
    persons, ada, grace = Persons(), uuid7(), uuid7()
    other = persons.replica()
    of_ada = await persons.sealer.seal(ada, "f", b"x")
    of_grace = await persons.sealer.seal(grace, "f", b"x")
    for subject, sealed in ((ada, of_ada), (grace, of_grace)):
        assert await other.open(subject, "f", sealed) == b"x"
    asked = persons.keys.asked
    assert await other.open(ada, "f", of_ada) == b"x"
    assert persons.keys.asked == asked
    await persons.sealer.forget(ada)
    await persons.sealer.forget(grace)
    other.invalidate(ada)
    with pytest.raises(SubjectForgotten):
        await other.open(ada, "f", of_ada)
    persons.now += 5.0
    with pytest.raises(SubjectForgotten):
        await other.open(grace, "f", of_grace)


async def test_a_key_that_is_being_read_while_its_person_is_forgotten_is_not_remembered():
    """What was read before says nothing of after, however late it arrives."""
    persons, ada = Persons(), uuid7()
    other = persons.replica()
    sealed = await persons.sealer.seal(ada, "f", b"x")
    found, find = asyncio.Event(), persons.keys.find

    async def slowly(subject_id: UUID) -> WrappedKey | None:
        key = await find(subject_id)
        await found.wait()
        return key

    persons.keys.find = slowly
    reading = asyncio.create_task(other.open(ada, "f", sealed))
    await asyncio.sleep(0)
    await persons.keys.destroy(ada)
    other.invalidate(ada)
    found.set()
    assert await reading == b"x"
    with pytest.raises(SubjectForgotten):
        await other.open(ada, "f", sealed)


async def test_two_replicas_that_make_a_key_at_once_use_one():
    """The first that is kept is everybody's."""
    persons, ada = Persons(), uuid7()
    late = persons.replica()
    first = await persons.sealer.seal(ada, "f", b"x")
    kept = persons.keys.kept.pop(ada)

    async def lost_the_race(subject_id: UUID, _key: WrappedKey) -> WrappedKey:
        persons.keys.kept[subject_id] = kept
        return kept

    persons.keys.add = lost_the_race
    second = await late.seal(ada, "f", b"y")
    assert key_id_of(first) == key_id_of(second)
    assert await persons.sealer.open(ada, "f", second) == b"y"
