"""A disk with a volatile cache: what was written is seen at once, and is kept when the power goes only if it was synced.

Syncing a file keeps its content and its names, and the directories that lead to it, as ext4 and XFS do (POSIX promises
less for the names; nobody ships such a file system). Syncing a directory keeps its entries. Everything else, renames and
removals included, may be as before after a power cut: each page of 4 KiB that was written but not synced is there or not,
by chance.
"""

import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PAGE: Final = 4096
ROOT: Final = 1


@dataclass(eq=False)
class Node:
    """A file or a directory, as it is seen and as it is kept.

    Attributes:
        number: the inode.
        mode: kind and permissions. They are kept at once, as nothing here depends on them.
        data: the content of a file as it is seen.
        kept: the content that survives.
        dirty: the pages in which the two differ.
        entries: the names of a directory as they are seen.
        kept_entries: the names that survive.
    """

    number: int
    mode: int
    uid: int
    gid: int
    data: bytearray = field(default_factory=bytearray)
    kept: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set[int])
    entries: dict[str, int] = field(default_factory=dict[str, int])
    kept_entries: dict[str, int] = field(default_factory=dict[str, int])
    mtime: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)


@dataclass
class Losses:
    """What power cuts took away."""

    cuts: int = 0
    pages: int = 0
    names: int = 0


class Disk:
    """All nodes. Not safe for threads."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {ROOT: Node(ROOT, stat.S_IFDIR | 0o755, 0, 0)}
        self.losses = Losses()
        self._next = ROOT + 1
        self._renamed: set[int] = set()

    @classmethod
    def of(cls, directory: Path) -> "Disk":
        """A disk on which everything below a directory is, and is kept."""
        disk = cls()
        disk._take(directory, disk.nodes[ROOT])
        disk.sync_all()
        return disk

    def _take(self, path: Path, node: Node) -> None:
        told = path.stat()
        node.mode, node.uid, node.gid = told.st_mode, told.st_uid, told.st_gid
        if not node.is_directory:
            node.data[:] = path.read_bytes()
            self._mark(node, 0, len(node.data))
            return
        for child in path.iterdir():
            self._take(child, self.create(node, child.name, child.stat().st_mode, 0, 0))

    def create(self, parent: Node, name: str, mode: int, uid: int, gid: int) -> Node:
        """A new file or directory."""
        node = Node(self._next, mode, uid, gid)
        self._next += 1
        self.nodes[node.number] = node
        parent.entries[name] = node.number
        self._renamed.add(node.number)
        return node

    def remove(self, parent: Node, name: str) -> None:
        """Take a name away."""
        self._renamed.add(parent.entries.pop(name))

    def rename(self, parent: Node, name: str, target: Node, to: str) -> None:
        """Give a node another name, in place of whoever had it."""
        number = parent.entries.pop(name)
        target.entries[to] = number
        self._renamed.add(number)

    def read(self, node: Node, offset: int, size: int) -> bytes:
        """What is seen there."""
        return bytes(memoryview(node.data)[offset : offset + size])

    def write(self, node: Node, offset: int, data: bytes | memoryview) -> None:
        """Write; seen at once."""
        end = offset + len(data)
        if offset > len(node.data):
            self.resize(node, offset)
        node.data[offset:end] = data
        self._mark(node, offset, end)

    def resize(self, node: Node, size: int) -> None:
        """Cut off, or lengthen by zeros."""
        before = len(node.data)
        if size < before:
            del node.data[size:]
            self._mark(node, size, before)
        elif size > before:
            node.data.extend(bytes(size - before))
            self._mark(node, before, size)

    def _mark(self, node: Node, begin: int, end: int) -> None:
        node.dirty.update(range(begin // PAGE, (max(end, begin + 1) + PAGE - 1) // PAGE))

    def sync(self, node: Node) -> None:
        """Keep a file, and how it is found; or a directory's entries."""
        self._keep_pages(node, node.dirty, len(node.data))
        node.dirty.clear()
        if node.is_directory:
            node.kept_entries = dict(node.entries)
        self._keep_names(node)

    def _keep_pages(self, node: Node, pages: set[int], size: int) -> None:
        kept, data = node.kept, node.data
        if len(kept) > size:
            del kept[size:]
        elif len(kept) < size:
            kept.extend(bytes(size - len(kept)))
        for page in pages:
            begin, end = page * PAGE, min(page * PAGE + PAGE, size)
            if begin < end:
                kept[begin:end] = data[begin:end]

    def _keep_names(self, node: Node) -> None:
        """Keep the names that lead to a node, and forget those that no longer do."""
        if node.number not in self._renamed:
            return
        self._renamed.discard(node.number)
        for parent in self.nodes.values():
            if not parent.is_directory:
                continue
            changed = False
            for name in [name for name, number in parent.kept_entries.items() if number == node.number]:
                if parent.entries.get(name) != node.number:
                    del parent.kept_entries[name]
            for name, number in parent.entries.items():
                if number == node.number and parent.kept_entries.get(name) != number:
                    parent.kept_entries[name] = number
                    changed = True
            if changed and parent.number != ROOT:
                self._keep_names(parent)

    def sync_all(self) -> None:
        """Keep everything, as a clean shutdown of the machine does."""
        for node in self.nodes.values():
            self._keep_pages(node, node.dirty, len(node.data))
            node.dirty.clear()
            node.kept_entries = dict(node.entries)
        self._renamed.clear()

    def cut(self, chance: random.Random, survives: float) -> None:
        """Lose power: of the pages that were not synced, each survives with this probability; of names none does."""
        self.losses.cuts += 1
        for node in self.nodes.values():
            if node.is_directory:
                self.losses.names += len(node.entries.items() ^ node.kept_entries.items())
                node.entries = dict(node.kept_entries)
                continue
            if not node.dirty:
                continue
            lucky = {page for page in sorted(node.dirty) if chance.random() < survives}
            self.losses.pages += len(node.dirty) - len(lucky)
            size = len(node.kept)
            if lucky:
                # The size is kept up to the last page that was.
                size = max(size, min(len(node.data), (max(lucky) + 1) * PAGE))
                node.data.extend(bytes(max(0, size - len(node.data))))
                self._keep_pages(node, lucky, size)
            node.data = bytearray(node.kept)
            node.dirty.clear()
        self._renamed.clear()
        reachable = set(self._reachable(self.nodes[ROOT]))
        self.nodes = {number: node for number, node in self.nodes.items() if number in reachable}

    def _reachable(self, node: Node) -> Iterator[int]:
        yield node.number
        for number in node.entries.values():
            yield from self._reachable(self.nodes[number])
