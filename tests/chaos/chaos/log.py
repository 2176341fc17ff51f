"""The checks of the final log by itself, shard by shard in one pass, and of subscriptions against it."""

import base64
import uuid
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chaos import findings, history
from chaos.chain import COLUMNS, GENESIS, hash_after
from chaos.findings import Findings

Row = dict[str, Any]


class ShardIndex:
    """Of each event of a shard what a subscription is compared with, in some twenty bytes."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.ids = bytearray()
        self.buckets = array("H")
        self.categories = array("B")
        self.originals = array("h")
        self.names: dict[str, int] = {}

    @property
    def head(self) -> int:
        """The last position."""
        return len(self.buckets)

    def add(self, row: Row) -> None:
        """Take the next event."""
        self.ids += uuid.UUID(row["event_id"]).bytes
        self.buckets.append(row["bucket"])
        self.categories.append(self.names.setdefault(row["category"], len(self.names)))
        self.originals.append(-1 if row["original_shard"] is None else row["original_shard"])

    def event_id(self, position: int) -> bytes:
        """The id of the event at a position."""
        return bytes(self.ids[16 * position - 16 : 16 * position])


def check_log(directory: Path, shard: int, found: Findings, each: Callable[[Row], None]) -> ShardIndex:
    """Check one shard's log by itself, and give each of its rows to `each`."""
    index = ShardIndex(shard)
    expected, latest, chain = 1, None, GENESIS
    for values in history.read(history.log_file(directory, shard)):
        row: Row = dict(zip(COLUMNS, values, strict=True))
        position = row["position"]
        found.expect(
            findings.POSITIONS, position == expected, f"shard {shard}: position {expected} is missing before {position}"
        )
        expected = position + 1
        # A copy keeps the time of what it was copied from.
        if row["original_shard"] is None:
            at = row["recorded_at"]
            found.expect(
                findings.TIMES, latest is None or at >= latest, f"shard {shard}: position {position} is of earlier"
            )
            latest = at
        stored = base64.b64decode(row["hash"])
        right = hash_after(chain, row)
        found.expect(findings.CHAIN, stored == right, f"shard {shard}: position {position} does not hold")
        chain = stored
        index.add(row)
        row["shard"] = shard
        each(row)
    return index


def check_verified(directory: Path, indexes: dict[int, ShardIndex], found: Findings) -> None:
    """What the system itself said of its chain, where it was asked."""
    for said in history.read(directory / history.VERIFIED):
        shard = said["shard"]
        fault = said["fault"]
        found.expect(findings.CHAIN, fault is None, f"shard {shard}: the system says that {fault} does not hold")
        if fault is None:
            head = indexes[shard].head
            found.expect(
                findings.CHAIN,
                said["position"] == head,
                f"shard {shard}: verified to {said['position']}, not to {head}",
            )


def check_subscriptions(directory: Path, indexes: dict[int, ShardIndex], found: Findings) -> None:
    """Every message of every subscriber is the next piece of the log, and each has got to its end."""
    for path in sorted(directory.glob("subscription-*.jsonl")):
        lines = history.read(path)
        told = next(lines, None)
        if told is None:
            found.expect(findings.SUBSCRIPTIONS, False, f"{path.stem}: is empty")
            continue
        reached = dict.fromkeys(told["shards"], 0)
        keeps = _filter(told)
        for line in lines:
            _check_message(path.stem, line, reached, indexes, keeps, found)
        for shard, position in reached.items():
            head = indexes[shard].head
            found.expect(
                findings.SUBSCRIPTIONS,
                position == head,
                f"{path.stem}: ended at {position} of shard {shard}, whose head is {head}",
            )


def _check_message(
    name: str,
    line: Row,
    reached: dict[int, int],
    indexes: dict[int, ShardIndex],
    keeps: Callable[[ShardIndex, int], bool],
    found: Findings,
) -> None:
    shard, until = line["shard"], line["checkpoint"]
    index = indexes[shard]
    begin = reached[shard]
    where = f"{name}, connection {line['connection']}, shard {shard} from {begin} to {until}"
    if not found.expect(
        findings.SUBSCRIPTIONS, begin <= until <= index.head, f"{where}: the checkpoint goes back, or past the head"
    ):
        return
    wanted = [position for position in range(begin + 1, until + 1) if keeps(index, position)]
    if found.expect(
        findings.SUBSCRIPTIONS, history.ranges(wanted) == line["positions"], f"{where}: {_difference(wanted, line)}"
    ):
        right = history.digest([index.event_id(position) for position in wanted])
        found.expect(findings.SUBSCRIPTIONS, right == line["digest"], f"{where}: other events than the log holds")
    reached[shard] = until


def _filter(told: Row) -> Callable[[ShardIndex, int], bool]:
    categories, buckets, shards = set(told["categories"]), told["buckets"], set(told["shards"])

    def keeps(index: ShardIndex, position: int) -> bool:
        at = position - 1
        if index.originals[at] >= 0 and len(shards) > 1 and index.originals[at] in shards:
            return False
        if buckets and not buckets[0] <= index.buckets[at] <= buckets[1]:
            return False
        return not categories or any(index.names.get(name) == index.categories[at] for name in categories)

    return keeps


def _difference(wanted: list[int], line: Row) -> str:
    got = list(_positions(line["positions"]))
    missing = sorted(set(wanted) - set(got))[:5]
    if missing:
        return f"positions {missing} were skipped"
    more = sorted(set(got) - set(wanted))[:5]
    return f"positions {more} were not to come" if more else "positions came twice, or out of order"


def _positions(runs: list[list[int]]) -> Iterator[int]:
    for first, last in runs:
        yield from range(first, last + 1)
