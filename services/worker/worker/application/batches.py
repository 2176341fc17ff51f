"""From the bytes of a file to batches of rows, and from the results of a batch to counts and refusals."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from worker.application.rows import FileRefused, ImportRow, RowReader
from worker.domain.job import RefusedRow
from worker.domain.records import Record, RecordSplitter


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much travels in one call: rows, and their bytes as written in the file; and how long a record may be."""

    rows: int = 250
    bytes: int = 1024 * 1024
    record_bytes: int = 64 * 1024


@dataclass(slots=True)
class Batch:
    """Some consecutive rows. No SKU comes twice in it, so its rows may be decided, and tried again, in any order.

    `end` and `last_line` say where the file goes on behind it.
    """

    end: int
    last_line: int
    rows: list[ImportRow] = field(default_factory=list[ImportRow])
    refused: list[RefusedRow] = field(default_factory=list[RefusedRow])
    skus: set[str] = field(default_factory=set[str])
    size: int = 0


async def batches(  # noqa: C901 - the rules of one loop, better read in one place
    chunks: AsyncIterator[bytes], reader: RowReader, limits: BatchLimits, *, offset: int, lines: int, stop: bool
) -> AsyncGenerator[Batch]:
    """The batches of a file from a place on.

    Args:
        chunks: the bytes from `offset` on.
        reader: reads the records; its header, if the format has one, has been read when `offset` is not 0.
        limits: how large batches and records may be.
        offset: where the first batch begins.
        lines: how many lines stand before it.
        stop: a batch ends with the first row that is refused.

    Raises:
        FileRefused: The header is not right.
    """
    splitter = RecordSplitter(limit=limits.record_bytes, quoted=reader.quoted, offset=offset, lines=lines)
    header_due = reader.header and offset == 0
    batch = Batch(end=offset, last_line=lines)
    given = offset

    async def records() -> AsyncIterator[Record]:
        async for chunk in chunks:
            for record in splitter.feed(chunk):
                yield record
        for record in splitter.finish():
            yield record

    async for record in records():
        if header_due:
            header_due = False
            reader.read_header(record)
            batch.end, batch.last_line = record.end, record.last_line
            continue
        row = reader.read(record)
        if isinstance(row, ImportRow):
            if row.sku in batch.skus or batch.size + row.size > limits.bytes:
                yield batch
                given = batch.end
                batch = Batch(end=batch.end, last_line=batch.last_line)
            batch.rows.append(row)
            batch.skus.add(row.sku)
            batch.size += row.size
        elif row is not None:
            batch.refused.append(row)
        batch.end, batch.last_line = record.end, record.last_line
        if len(batch.rows) + len(batch.refused) >= limits.rows or (stop and batch.refused):
            yield batch
            given = batch.end
            batch = Batch(end=batch.end, last_line=batch.last_line)
    if header_due:
        raise FileRefused("CSV_HEADER_INVALID", "The file has no header line.")
    if batch.end > given:
        yield batch


async def read_header(chunks: AsyncIterator[bytes], reader: RowReader, limits: BatchLimits) -> None:
    """Let the reader take the header of a file that is gone on with somewhere behind it."""
    splitter = RecordSplitter(limit=limits.record_bytes, quoted=reader.quoted)
    async for chunk in chunks:
        for record in splitter.feed(chunk):
            reader.read_header(record)
            return
    for record in splitter.finish():
        reader.read_header(record)
        return
