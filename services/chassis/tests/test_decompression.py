"""Gzip from strangers is unpacked whole, or refused before it hurts."""

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Sequence

import pytest
from chassis.decompression import PIECE_BYTES, Gunzip, NotGzip, UnpacksTooFar, gunzip, unpacked_if_gzip
from hypothesis import given
from hypothesis import strategies as st

LARGE = 1 << 40


async def _stream(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(members=st.lists(st.binary(max_size=3000), min_size=1, max_size=4), size=st.integers(1, 700))
def test_what_was_packed_comes_out_however_it_is_cut(members: list[bytes], size: int) -> None:
    """Several members in one file are one text."""
    packed = b"".join(gzip.compress(member) for member in members)
    unpacking = Gunzip(limit=LARGE)
    out = b"".join(piece for chunk in _cut(packed, size) for piece in unpacking.feed(chunk))
    unpacking.finish()
    assert out == b"".join(members)


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
async def test_pieces_are_never_larger_than_agreed_and_lose_nothing(size: int) -> None:
    """Also where the end of the text is the end of a piece."""
    text = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    for members in (1, 3):
        packed = gzip.compress(text) * members
        pieces = [piece async for piece in gunzip(_stream([packed]), limit=LARGE, ratio=10_000)]
        assert b"".join(pieces) == text * members
        assert max(map(len, pieces)) <= PIECE_BYTES


async def test_a_bomb_is_refused_by_its_ratio_in_little_memory() -> None:
    """A gigabyte of zeros in a megabyte of gzip is given up after some hundred kilobytes, in less memory than ten pieces."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packer.compress(bytes(1 << 20)) for _ in range(1024)] + [packer.flush()])
    tracemalloc.start()
    try:
        taken = 0
        with pytest.raises(UnpacksTooFar, match="200 times"):
            async for piece in gunzip(_stream([bomb]), limit=LARGE):
                taken += len(piece)
        assert tracemalloc.get_traced_memory()[1] < 10 * PIECE_BYTES + len(bomb)
    finally:
        tracemalloc.stop()
    assert taken <= 200 * len(bomb)
    taken = 0
    with pytest.raises(UnpacksTooFar, match="200 times"):
        async for piece in gunzip(_stream(_cut(bomb, 1000)), limit=LARGE):
            taken += len(piece)
    assert taken < 2 << 20


async def test_the_limit_holds_for_what_unpacks_modestly() -> None:
    """The size of the whole counts, not of what came."""
    text = b"volvo-v60,car,Volvo V60\n" * 1000
    assert b"".join([piece async for piece in gunzip(_stream([gzip.compress(text)]), limit=len(text))]) == text
    with pytest.raises(UnpacksTooFar, match=f"larger than {len(text) - 1} bytes"):
        async for _ in gunzip(_stream([gzip.compress(text)]), limit=len(text) - 1):
            pass


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"sku,kind\n",
        gzip.compress(b"a,b\n" * 100)[:-1],
        gzip.compress(b"a,b\n" * 100)[:-8] + b"\0" * 8,
        gzip.compress(b"a,b\n" * 100) + b"trailing",
        zlib.compress(b"a,b\n" * 100),
    ],
    ids=["nothing", "text", "cut off", "another sum", "something behind it", "deflate"],
)
async def test_what_is_not_gzip_is_refused(broken: bytes) -> None:
    """Nothing is made of it by guessing."""
    with pytest.raises(NotGzip):
        async for _ in gunzip(_stream([broken]), limit=LARGE):
            pass


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
async def test_text_passes_and_gzip_is_noticed(size: int) -> None:
    """By the first two bytes, however they come."""
    text = b"sku,kind,name\nvolvo,car,Volvo\n"
    for sent in (text, gzip.compress(text), b"", b"\x1f"):
        out = b"".join([piece async for piece in unpacked_if_gzip(_stream(_cut(sent, size)), limit=LARGE)])
        assert out == (text if len(sent) > 1 else sent)
