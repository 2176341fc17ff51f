"""All checks over the directory of a run, in bounded memory: one pass over each shard's log, which is dealt out by
buckets into parts together with the operations, then one part at a time.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from chassis.buckets import BUCKETS, bucket_of, stream_bucket

from chaos import findings, history
from chaos.findings import Findings
from chaos.history import PRODUCT, Record, Writer
from chaos.log import check_log, check_subscriptions, check_verified
from chaos.products import check_products
from chaos.streams import Streams, check_direct

ROWS_PER_PART: Final = 100_000


def check(directory: Path) -> Findings:
    """What is wrong with the run in the directory."""
    found = Findings()
    with tempfile.TemporaryDirectory(prefix="almagest-check-", dir=directory) as scratch:
        size = sum(path.stat().st_size for path in directory.glob("*.jsonl"))
        parts = Parts(Path(scratch), count=max(1, min(64, size // (400 * ROWS_PER_PART))))
        with parts:
            indexes = {
                shard: check_log(directory, shard, found, parts.add_row) for shard in history.shards_of(directory)
            }
            check_verified(directory, indexes, found)
            check_subscriptions(directory, indexes, found)
            indexes.clear()
            for operation in history.read(directory / history.HISTORY):
                _check_told(operation, found)
                parts.add_operation(operation)
            for document in history.read(directory / history.MODEL):
                parts.add_document(document)
        for part in range(parts.count):
            _check_part(parts, part, found)
    return found


def _check_told(operation: Record, found: Findings) -> None:
    """An answer that says no more than that something unexpected happened is a defect by itself."""
    said = operation.get("status") or operation.get("reason")
    found.expect(
        findings.TOLD,
        said not in _UNEXPECTED,
        f"{operation['client']}: {operation['kind']} at {operation['invoked']:.3f} was answered {said}",
    )


def _check_part(parts: "Parts", part: int, found: Findings) -> None:
    streams = Streams()
    for row in parts.read(part, "rows"):
        streams.add(row)
    streams.check(found)
    check_direct(streams, list(parts.read(part, "direct")), found)
    check_products(streams, parts.read(part, "people"), parts.read(part, "documents"), found)


_UNEXPECTED: Final = frozenset({500, "INTERNAL"})
_KINDS: Final = ("rows", "direct", "people", "documents")
_ROW: Final = (
    "shard",
    "position",
    "revision",
    "stream",
    "event_id",
    "type",
    "payload",
    "original_shard",
    "original_position",
)


class Parts:
    """Files that hold what belongs together, for a range of buckets each."""

    def __init__(self, directory: Path, *, count: int) -> None:
        self.count = count
        self._directory = directory
        self._stack = ExitStack()
        self._writers: dict[tuple[int, str], Writer] = {}

    def __enter__(self) -> None:
        for part in range(self.count):
            for kind in _KINDS:
                self._writers[part, kind] = self._stack.enter_context(Writer(self._path(part, kind)))

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _path(self, part: int, kind: str) -> Path:
        return self._directory / f"{kind}-{part}.jsonl"

    def _write(self, bucket: int, kind: str, record: Record) -> None:
        self._writers[bucket * self.count // BUCKETS, kind].write(record)

    def add_row(self, row: Record) -> None:
        """Take a row of the log."""
        self._write(row["bucket"], "rows", {name: row[name] for name in _ROW})

    def add_operation(self, operation: Record) -> None:
        """Take an operation: what a list showed belongs to each product that it showed."""
        kind = operation["kind"]
        if kind in {"append", "read"}:
            self._write(operation["bucket"], "direct", operation)
        elif kind == "write":
            self._write(bucket_of(operation["product"]), "people", operation)
        elif operation["outcome"] == history.OK:
            for product, revision, amount, at_least in operation["seen"]:
                self._write(
                    bucket_of(product),
                    "people",
                    {
                        "kind": "see",
                        "client": operation["client"],
                        "invoked": operation["invoked"],
                        "completed": operation["completed"],
                        "outcome": history.OK,
                        "product": product,
                        "revision": revision,
                        "amount": amount,
                        "at_least": at_least,
                    },
                )

    def add_document(self, document: Record) -> None:
        """Take a document of the final read model."""
        self._write(stream_bucket(f"{PRODUCT}-{document['product_id']}"), "documents", document)

    def read(self, part: int, kind: str) -> Iterator[Any]:
        """What was put into a part."""
        return history.read(self._path(part, kind))
