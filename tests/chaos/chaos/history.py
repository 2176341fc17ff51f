"""What a run leaves behind, in one directory of JSON lines, from which it can be checked again at any time.

`history.jsonl` holds one line per operation of a client: when it was called and answered (seconds of one monotonic
clock), its arguments, its outcome (`ok`; `fail`: it is certain that it had no effect; `unknown`) and its answer.
`subscription-<name>.jsonl` holds what a subscriber was told, message by message. `log-<shard>.jsonl` is the final log, a
row as stored per line, and `model.jsonl` the final read model, a document per line. `run.json` says what was run.

An event's id and payload follow from the append that it belongs to, so they need not be recorded to be known.
"""

import uuid
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

OK: Final = "ok"
FAIL: Final = "fail"
UNKNOWN: Final = "unknown"

HISTORY: Final = "history.jsonl"
MODEL: Final = "model.jsonl"
RUN: Final = "run.json"
VERIFIED: Final = "verified.json"
"""What the system itself said of the chain."""

CATEGORY: Final = "chaos"
"""The category of the streams that are written directly; no projection looks at them."""
PRODUCT: Final = "product"

Record = dict[str, Any]


def event_id(append_id: str, part: int, index: int) -> uuid.UUID:
    """The id of an event: the `index`th of the `part`th stream of an append."""
    return uuid.UUID(bytes=blake2b(f"{append_id}/{part}/{index}".encode(), digest_size=16).digest(), version=4)


def payload(identifier: uuid.UUID) -> bytes:
    """The payload of the event with this id."""
    return blake2b(identifier.bytes, digest_size=32).digest()


def digest(identifiers: Sequence[bytes]) -> str:
    """What stands for a sequence of event ids."""
    return blake2b(b"".join(identifiers), digest_size=8).hexdigest()


class Writer:
    """Lines of JSON, in the order in which they are written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=1 << 20)
        self.lines = 0

    def write(self, record: Record | list[Any]) -> None:
        """Add a line."""
        self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self.lines += 1

    def close(self) -> None:
        """Have all of it in the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read(path: Path) -> Iterator[Any]:
    """The lines of a file; none if it is not there."""
    if path.exists():
        with path.open("rb", buffering=1 << 20) as file:
            for line in file:
                yield orjson.loads(line)


def log_file(directory: Path, shard: int) -> Path:
    """Where the final log of a shard is."""
    return directory / f"log-{shard}.jsonl"


def shards_of(directory: Path) -> list[int]:
    """The shards whose final logs are there."""
    return sorted(int(path.stem.partition("-")[2]) for path in directory.glob("log-*.jsonl"))


def ranges(positions: Sequence[int]) -> list[list[int]]:
    """Ascending positions as runs `[first, last]`; a position that does not ascend begins a run of its own."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][1] + 1:
            runs[-1][1] = position
        else:
            runs.append([position, position])
    return runs
