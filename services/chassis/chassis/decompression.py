"""Unpacking gzip from strangers: as a stream, with bounds on what comes out.

A kilobyte of gzip can unpack to a megabyte, and a gigabyte that is nothing but zeros fits into one. So nothing is
unpacked that is not asked for: pieces of a bounded size, until the whole is larger than was agreed, or grows so much
faster than what comes in that it can only be meant to.
"""

import zlib
from collections.abc import AsyncIterator, Iterator

PIECE_BYTES = 256 * 1024
"""The largest piece that comes out at once."""
MAXIMUM_RATIO = 200
"""How many bytes one byte may become. CSV and JSON of real catalogs are packed 5 to 40 times."""
_UNWATCHED_BYTES = 1024 * 1024
_GZIP = 31
_MAGIC = b"\x1f\x8b"


class CompressionRefused(Exception):
    """What came is not unpacked."""


class NotGzip(CompressionRefused):
    """It is not gzip, not all of it, or not as it was packed."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"The file is not whole, valid gzip: {problem}.")


class UnpacksTooFar(CompressionRefused):
    """It becomes larger than is taken."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class Gunzip:
    """Unpacks one gzip file, which may have several members (RFC 1952, 2.2).

    Args:
        limit: the greatest size of the whole, unpacked.
        ratio: how many times as large as what came it may be, once it is larger than a megabyte.
    """

    def __init__(self, *, limit: int, ratio: int = MAXIMUM_RATIO) -> None:
        self._limit = limit
        self._ratio = ratio
        self._taken = 0
        self._given = 0
        self._member = zlib.decompressobj(_GZIP)

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """What the next bytes unpack to, in pieces.

        Raises:
            NotGzip, UnpacksTooFar: It is not unpacked any further.
        """
        self._taken += len(packed)
        while packed:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            piece = self._piece(packed)
            while piece:
                yield self._counted(piece)
                if self._member.eof:
                    break
                packed = self._member.unconsumed_tail
                # What fills a piece exactly may leave more inside.
                piece = self._piece(packed) if packed or len(piece) == PIECE_BYTES else b""
            packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def _piece(self, packed: bytes) -> bytes:
        try:
            return self._member.decompress(packed, PIECE_BYTES)
        except zlib.error as error:
            raise NotGzip(str(error)) from None

    def finish(self) -> None:
        """See that the end was the end.

        Raises:
            NotGzip: It was cut off.
        """
        if not self._member.eof:
            raise NotGzip("it was cut off")

    def _counted(self, piece: bytes) -> bytes:
        self._given += len(piece)
        if self._given > self._limit:
            raise UnpacksTooFar(f"Unpacked, the file is larger than {self._limit} bytes.")
        if self._given > _UNWATCHED_BYTES and self._given > self._taken * self._ratio:
            raise UnpacksTooFar(f"The file unpacks to more than {self._ratio} times its size.")
        return piece


async def gunzip(packed: AsyncIterator[bytes], *, limit: int, ratio: int = MAXIMUM_RATIO) -> AsyncIterator[bytes]:
    """A stream, unpacked.

    Raises:
        NotGzip, UnpacksTooFar: It is not unpacked any further.
    """
    unpacking = Gunzip(limit=limit, ratio=ratio)
    async for chunk in packed:
        for piece in unpacking.feed(chunk):
            yield piece
    unpacking.finish()


async def unpacked_if_gzip(chunks: AsyncIterator[bytes], *, limit: int) -> AsyncIterator[bytes]:
    """A stream of text, unpacked if it was packed, as its first two bytes say: no text in UTF-8 begins so.

    Raises:
        NotGzip, UnpacksTooFar: It is not unpacked any further.
    """
    head = b""
    async for chunk in chunks:
        head += chunk
        if len(head) >= len(_MAGIC):
            break
    source = _after(head, chunks)
    async for piece in gunzip(source, limit=limit) if head.startswith(_MAGIC) else source:
        yield piece


async def _after(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if head:
        yield head
    async for chunk in rest:
        yield chunk
