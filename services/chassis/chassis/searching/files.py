"""Every byte of files, in pieces that overlap."""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path

from chassis.searching.needles import Found, Needles

_PIECE = 4 * 1024 * 1024


async def search_files(store: str, paths: Iterable[Path], needles: Needles) -> AsyncGenerator[Found]:
    """Search files, and directories with all that is below them, and tell how far it is, in bytes. Each file counts
    once.
    """
    files = await asyncio.to_thread(_files, paths)
    found = Found(store, total=sum(size for _, size in files))
    yield found
    findings, mentions = needles.patterns()
    overlap = needles.longest
    for path, size in files:
        position, has = 0, ""
        while position < size and has != "finding":
            piece = await asyncio.to_thread(_piece, path, max(0, position - overlap), _PIECE + overlap)
            if findings.search(piece):
                has = "finding"
            elif mentions.search(piece):
                has = "mention"
            position += _PIECE
            found.searched += max(0, min(_PIECE, size - position + _PIECE))
            yield found
        # What was not looked at after a finding, and what grew meanwhile.
        found.searched += max(0, size - max(position, 0))
        found.findings += has == "finding"
        found.mentions += has == "mention"
    found.searched = found.total
    yield found


def _files(paths: Iterable[Path]) -> list[tuple[Path, int]]:
    """What is there, with its size. What is rotated away meanwhile is not: `os.walk` goes on where `rglob` fails."""
    files: list[tuple[Path, int]] = []
    for path in chain.from_iterable(map(_below, paths)):
        with suppress(FileNotFoundError):
            found = path.stat()
            if stat.S_ISREG(found.st_mode):
                files.append((path, found.st_size))
    return files


def _below(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(Path(parent, name) for parent, _, names in os.walk(path) for name in names)


def _piece(path: Path, offset: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    except FileNotFoundError:
        # Rotated away since it was listed.
        return b""
