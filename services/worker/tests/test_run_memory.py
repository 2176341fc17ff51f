"""How much memory an attempt at an import needs."""

import asyncio
import tracemalloc
import uuid
from collections.abc import Sequence

import orjson
from almagest.catalog.v1 import command_pb2
from worker.adapters.redis import Signals

from .memory import CHUNK, MemoryCatalog, Run, car, ndjson


class GeneratedFile:
    """A large file that exists only a chunk at a time: rows of 40 kilobytes."""

    chunk_bytes = 256 * 1024

    def __init__(self, rows: int) -> None:
        text = "x" * 40_000
        self.row = len(orjson.dumps(car(f"{0:08d}") | {"text": text})) + 1
        self.size = rows * self.row
        self._text = text

    async def chunk(self, job_id: uuid.UUID, number: int) -> bytes | None:
        start, end = number * self.chunk_bytes, min((number + 1) * self.chunk_bytes, self.size)
        if start >= end:
            return None
        first = start // self.row
        rows = [car(f"{index:08d}") | {"text": self._text} for index in range(first, end // self.row + 1)]
        return ndjson(rows)[start - first * self.row :][: end - start]


class DigestCatalog(MemoryCatalog):
    """Remembers digests only, to be no part of what is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    async def execute(
        self, items: Sequence[command_pb2.CommandItem], *, timeout: float
    ) -> Sequence[command_pb2.CommandResult]:
        await asyncio.sleep(0)
        self.seen += len(items)
        executed = command_pb2.Executed(created=True, changed=True)
        return [command_pb2.CommandResult(executed=executed) for _ in items]


async def test_memory_does_not_grow_with_the_file() -> None:
    """200 megabytes pass through a few megabytes, in long rows and in one that never ends."""
    file = GeneratedFile(5000)
    assert file.size > 200_000_000
    run = Run(b"", file=file, size=file.size)
    run.catalog = DigestCatalog()
    tracemalloc.start()
    try:
        progress = await run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (progress.rows_created, run.catalog.seen) == (5000, 5000)
    assert peak < 24 * 1024 * 1024


async def test_a_line_that_never_ends_needs_no_memory() -> None:
    """A hundred megabytes without a line break are one refused row."""

    class Endless:
        chunk_bytes = CHUNK

        async def chunk(self, job_id: uuid.UUID, number: int) -> bytes | None:
            return b"x" * CHUNK if number < 1600 else None

    run = Run(b"", file=Endless(), size=CHUNK * 1600)
    tracemalloc.start()
    try:
        progress = await run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (progress.rows_refused, [row.problem.reason for row in run.ledger.refused]) == (1, ["ROW_TOO_LONG"])
    assert peak < 4 * 1024 * 1024


def test_listening_leaves_nothing_behind() -> None:
    """A process that is watched for years does not remember every job that anybody ever watched."""
    signals = Signals(None, None, worker="w", blocking_seconds=1.0)  # pyright: ignore[reportArgumentType]
    job_id = uuid.uuid4()
    with signals.listen(job_id) as first, signals.listen(job_id) as second:
        signals.announce(job_id)
        assert first.is_set()
        assert second.is_set()
    assert not signals._listeners
