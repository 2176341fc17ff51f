"""Batches of appends as the arguments of the functions that write them (migrations/sql).

asyncpg asks of each element of an array whether it is itself a container, which takes up to half a microsecond, and
there are ten columns per append. So the columns of the plain batch travel as the text form of an array, but for those
that hold bytes.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import lru_cache
from itertools import chain
from typing import Any

from event_store.domain.append import Append, NewEvent


def plain(appends: Sequence[Append]) -> tuple[Any, ...] | None:
    """The arguments of `append_plain`; None when the batch is not of its kind."""
    ids, streams, categories, buckets, expected, fingerprints, written, _, _, also, settings = zip(
        *appends, strict=True
    )
    count = len(appends)
    if any(also) or settings.count(None) < count or len(set(ids)) < count or len(set(streams)) < count:
        return None
    events = list(chain.from_iterable(written))
    if len(events) == count:
        sizes, numbers = _ones(count), _counting(count)
    else:
        lengths = [len(part) for part in written]
        sizes = _array(map(str, lengths))
        numbers = _array(chain.from_iterable([str(n)] * length for n, length in enumerate(lengths, 1)))
    event_ids, types, payloads, metadatas = zip(*events, strict=True)
    names = _quoted(streams), _quoted(categories), _quoted(types)
    if None in names:
        return None
    return (
        _array(ids),
        fingerprints,
        names[0],
        _array(map(str, buckets)),
        names[1],
        _array(map(str, expected)),
        sizes,
        numbers,
        names[2],
        _array(event_ids),
        payloads,
        metadatas,
    )


def _array(elements: Iterable[str]) -> str:
    return "{" + ",".join(elements) + "}"


def _quoted(names: Sequence[str]) -> str | None:
    """The text form of an array of names; None when one of them would have to be escaped, which no valid one must."""
    text = '","'.join(names)
    if text.count('"') != 2 * (len(names) - 1) or "\\" in text:
        return None
    return '{"' + text + '"}'


@lru_cache(maxsize=1024)
def _ones(count: int) -> str:
    return _array(["1"] * count)


@lru_cache(maxsize=1024)
def _counting(count: int) -> str:
    return _array(map(str, range(1, count + 1)))


def general(appends: Sequence[Append]) -> tuple[Any, ...]:
    """The arguments of `append_batch`. Ids and streams that come more than once get one slot."""
    id_slots: dict[str, int] = {}
    streams = _Streams()
    id_of: list[int] = []
    part_counts: list[int] = []
    part_streams: list[int] = []
    expected: list[int] = []
    sizes: list[int] = []
    event_parts: list[int] = []
    types: list[str] = []
    event_ids: list[str] = []
    payloads: list[bytes] = []
    metadatas: list[bytes] = []
    settings: list[tuple[int, int, int | None, timedelta | None, bool]] = []

    def part(slot: int, expectation: int, events: Sequence[NewEvent]) -> None:
        part_streams.append(slot)
        expected.append(expectation)
        sizes.append(len(events))
        number = len(part_streams)
        for event_id, name, payload, metadata in events:
            event_parts.append(number)
            event_ids.append(event_id)
            types.append(name)
            payloads.append(payload)
            metadatas.append(metadata)

    for index, append in enumerate(appends, 1):
        id_of.append(id_slots.setdefault(append.append_id, len(id_slots) + 1))
        part_counts.append(1 + len(append.also))
        part(streams.slot(append.stream, append.category, append.bucket), append.expected, append.events)
        for stream, category, bucket, expectation, events in append.also:
            part(streams.slot(stream, category, bucket), expectation, events)
        if append.setting is not None:
            stream, category, bucket, max_count, max_age, tombstoned = append.setting
            settings.append((index, streams.slot(stream, category, bucket), max_count, max_age, tombstoned))
    return (
        list(id_slots),
        id_of,
        [append.fingerprint for append in appends],
        part_counts,
        list(streams.slots),
        streams.buckets,
        streams.categories,
        part_streams,
        expected,
        sizes,
        event_parts,
        types,
        event_ids,
        payloads,
        metadatas,
        *([setting[column] for setting in settings] for column in range(5)),
    )


class _Streams:
    """The distinct streams of a batch."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        self.buckets: list[int] = []
        self.categories: list[str] = []

    def slot(self, stream: str, category: str, bucket: int) -> int:
        """The number of a stream, from 1."""
        slot = self.slots.get(stream)
        if slot is None:
            slot = self.slots[stream] = len(self.slots) + 1
            self.buckets.append(bucket)
            self.categories.append(category)
        return slot
