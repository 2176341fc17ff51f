"""Archives in a directory: one file per partition, in compressed blocks that can be read alone.

A file is a magic word, blocks, an index and a trailer. A block is what a reader takes at once, about 500 events or
256 KiB, compressed by zstandard; beneath the compression it is a number of events, then for each its origin and the
length of its metadata, then the events as readers get them, so that nothing is encoded again. The index is JSON: per
block the first position, the number of events, where it is, how long, and the beginning of its SHA-256. The trailer
says where the index is, and its SHA-256. So one position costs the trailer, the index (which is remembered) and one
block; where the events of a stream are, the database knows.
"""

import asyncio
import json
import os
import struct
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from sys import intern
from typing import Any, BinaryIO, Final, NamedTuple
from uuid import UUID, uuid4

import zstandard

from event_store.adapters.encoding import decoded, extent
from event_store.application.archives import Archived, Written
from event_store.application.pages import Original, Stored
from event_store.domain.chain import StoredEvent
from event_store.domain.errors import ArchiveUnreadable
from event_store.domain.stream import category_of

_MAGIC: Final = b"ALMAGLOG"
_VERSION: Final = 1
_SUFFIX: Final = ".events"
_PARTIAL: Final = ".partial"
_DIGEST_BYTES: Final = 16
_REMEMBERED_INDEXES: Final = 16
_REMEMBERED_PIECES: Final = 16
_MAXIMUM_BLOCK_BYTES: Final = 256 * 1024 * 1024
_CHUNK: Final = 1024 * 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_count = struct.Struct(">I")
_columns = struct.Struct(">qI")
_trailer = struct.Struct(">QI32s8s")


class _Block(NamedTuple):
    first: int
    events: int
    offset: int
    length: int
    digest: str


class ArchiveFiles:
    """The files of one shard. What was read last is remembered, a few blocks of it."""

    def __init__(self, directory: Path, shard: int) -> None:
        self._directory = directory / f"shard-{shard}"
        self._indexes: OrderedDict[str, Sequence[_Block]] = OrderedDict()
        self._pieces: OrderedDict[tuple[str, int], Sequence[Archived]] = OrderedDict()

    @staticmethod
    def name_of(first: int, last: int) -> str:
        """What the file of a range of positions is called."""
        return f"{first:016d}-{last:016d}{_SUFFIX}"

    async def write(self, name: str, pieces: AsyncIterator[Sequence[Archived]]) -> Written:
        """Make a file; see `archives.Archives`. It has its name only when all of it is on the disk."""
        partial = self._directory / f"{name}.{uuid4()}{_PARTIAL}"
        file = await asyncio.to_thread(self._create, partial)
        try:
            writing = _Writing(file)
            async for piece in pieces:
                await asyncio.to_thread(writing.add, piece)
            written = await asyncio.to_thread(writing.end)
        finally:
            file.close()
        await asyncio.to_thread(self._put, partial, name)
        self._forget(name)
        return written

    def _create(self, partial: Path) -> BinaryIO:
        self._directory.mkdir(parents=True, exist_ok=True)
        return partial.open("xb")

    def _put(self, partial: Path, name: str) -> None:
        partial.replace(self._directory / name)
        # The name is as durable as the directory, and the directory as its own name.
        for directory in (self._directory, self._directory.parent):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _forget(self, name: str) -> None:
        self._indexes.pop(name, None)
        for key in [key for key in self._pieces if key[0] == name]:
            del self._pieces[key]

    async def piece(self, name: str, position: int) -> Sequence[Archived]:
        """The block of a file that holds a position; see `archives.Archives`."""
        index = self._indexes.get(name)
        if index is None:
            index = _remember(self._indexes, name, await asyncio.to_thread(self._index, name), _REMEMBERED_INDEXES)
        at = bisect_right(index, position, key=lambda block: block.first) - 1
        if at < 0 or position >= index[at].first + index[at].events:
            raise ArchiveUnreadable(name, f"does not hold position {position}")
        known = self._pieces.get((name, at))
        if known is not None:
            self._pieces.move_to_end((name, at))
            return known
        piece = await asyncio.to_thread(self._block, name, index[at])
        return _remember(self._pieces, (name, at), piece, _REMEMBERED_PIECES)

    def _index(self, name: str) -> Sequence[_Block]:
        try:
            with (self._directory / name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < len(_MAGIC) + _trailer.size:
                    raise ArchiveUnreadable(name, "is too short")
                file.seek(size - _trailer.size)
                offset, length, digest, magic = _trailer.unpack(file.read(_trailer.size))
                if magic != _MAGIC or offset + length + _trailer.size != size:
                    raise ArchiveUnreadable(name, "does not end as an archive does")
                file.seek(offset)
                content = file.read(length)
        except OSError as error:
            raise _unreadable(name, error) from error
        if sha256(content).digest() != digest:
            raise ArchiveUnreadable(name, "has an index that was changed")
        index = json.loads(content)
        if index["version"] != _VERSION:
            raise ArchiveUnreadable(name, f"is of version {index['version']}, which this release does not know")
        return [_Block(*block) for block in index["blocks"]]

    async def blocks(self) -> AsyncIterator[tuple[int, bytes]]:
        """All that the files of the shard hold, decompressed, block by block, each with how long it is in its file."""
        for name in await asyncio.to_thread(self.names):
            for block in await asyncio.to_thread(self._index, name):
                yield block.length, await asyncio.to_thread(self._raw, name, block)

    def names(self) -> Sequence[str]:
        """The files of the shard."""
        if not self._directory.is_dir():
            return ()
        return sorted(path.name for path in self._directory.iterdir() if path.suffix == _SUFFIX)

    def size(self) -> int:
        """How many bytes the files of the shard have."""
        return sum((self._directory / name).stat().st_size for name in self.names())

    def _block(self, name: str, block: _Block) -> Sequence[Archived]:
        return _decoded(self._raw(name, block))

    def _raw(self, name: str, block: _Block) -> bytes:
        try:
            with (self._directory / name).open("rb") as file:
                file.seek(block.offset)
                content = file.read(block.length)
        except OSError as error:
            raise _unreadable(name, error) from error
        if sha256(content).hexdigest()[: 2 * _DIGEST_BYTES] != block.digest:
            raise ArchiveUnreadable(name, f"was changed between positions {block.first} and {_last(block)}")
        return zstandard.ZstdDecompressor().decompress(content, max_output_size=_MAXIMUM_BLOCK_BYTES)

    async def check(self, name: str, written: Written) -> None:
        """See that a file is still what was written; see `archives.Archives`."""
        if await asyncio.to_thread(self._found, name) != written:
            raise ArchiveUnreadable(name, "is not what was written")

    def _found(self, name: str) -> Written:
        digest, size = sha256(), 0
        try:
            with (self._directory / name).open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
        except OSError as error:
            raise _unreadable(name, error) from error
        return Written(size, digest.digest())

    async def tidy(self, known: Collection[str]) -> None:
        """Remove the files that are not known; see `archives.Archives`."""
        await asyncio.to_thread(self._tidy, frozenset(known))

    def _tidy(self, known: frozenset[str]) -> None:
        if not self._directory.is_dir():
            return
        for path in self._directory.iterdir():
            if path.suffix in (_SUFFIX, _PARTIAL) and path.name not in known:
                with suppress(FileNotFoundError):
                    path.unlink()

    @staticmethod
    def stored(event: Archived) -> StoredEvent:
        """An event with all its columns; see `archives.Archives`."""
        encoded = event.event.encoded
        recorded = decoded(encoded)
        original = event.event.original or (None, None)
        at = recorded.recorded_at
        return StoredEvent(
            position=recorded.position,
            origin=event.origin,
            revision=recorded.revision,
            stream=recorded.stream,
            bucket=recorded.bucket,
            category=event.event.category,
            type=recorded.type,
            event_id=UUID(recorded.event_id),
            recorded_at=_EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000),
            payload=recorded.payload,
            metadata=encoded[len(encoded) - event.metadata_bytes :],
            hash=recorded.hash,
            original_shard=original[0],
            original_position=original[1],
        )


class _Writing:
    """A file that is being written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = sha256()
        self._size = 0
        self._blocks: list[_Block] = []
        self._compressor = zstandard.ZstdCompressor(level=9)
        self._put(_MAGIC)

    def _put(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._size += len(content)

    def add(self, piece: Sequence[Archived]) -> None:
        raw = b"".join(
            (
                _count.pack(len(piece)),
                *(_columns.pack(event.origin, event.metadata_bytes) for event in piece),
                *(event.event.encoded for event in piece),
            )
        )
        content = self._compressor.compress(raw)
        digest = sha256(content).hexdigest()[: 2 * _DIGEST_BYTES]
        self._blocks.append(_Block(piece[0].event.position, len(piece), self._size, len(content), digest))
        self._put(content)

    def end(self) -> Written:
        index = json.dumps({"version": _VERSION, "blocks": self._blocks}, separators=(",", ":")).encode()
        offset = self._size
        self._put(index)
        self._put(_trailer.pack(offset, len(index), sha256(index).digest(), _MAGIC))
        self._file.flush()
        os.fsync(self._file.fileno())
        return Written(self._size, self._digest.digest())


def _last(block: _Block) -> int:
    return block.first + block.events - 1


def _unreadable(name: str, error: OSError) -> ArchiveUnreadable:
    detail = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
    return ArchiveUnreadable(name, detail)


def _remember(memory: "OrderedDict[Any, Any]", key: Any, value: Any, most: int) -> Any:
    memory[key] = value
    while len(memory) > most:
        memory.popitem(last=False)
    return value


def _decoded(raw: bytes) -> Sequence[Archived]:
    (count,) = _count.unpack_from(raw)
    at = _count.size + count * _columns.size
    events: list[Archived] = []
    for number in range(count):
        origin, metadata_bytes = _columns.unpack_from(raw, _count.size + number * _columns.size)
        _, end = extent(raw, at)
        encoded = raw[at:end]
        at = end
        recorded = decoded(encoded)
        original = None
        if recorded.HasField("original"):
            original = Original(recorded.original.shard, recorded.original.position)
        stored = Stored(
            recorded.position,
            intern(category_of(recorded.stream) or ""),
            intern(recorded.type),
            recorded.bucket,
            original,
            encoded,
        )
        events.append(Archived(stored, origin, metadata_bytes))
    return events
