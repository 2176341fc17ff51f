"""What a disk keeps when its power is cut."""

import random
import stat

import pytest
from power.disk import PAGE, ROOT, Disk


@pytest.fixture
def disk():
    return Disk()


def made(disk, name, content=b"", *, parent=None):
    node = disk.create(parent or disk.nodes[ROOT], name, stat.S_IFREG | 0o600, 0, 0)
    disk.write(node, 0, content)
    return node


def directory(disk, name):
    return disk.create(disk.nodes[ROOT], name, stat.S_IFDIR | 0o700, 0, 0)


def cut(disk, survives=0.0, seed=1):
    disk.cut(random.Random(seed), survives)  # noqa: S311 - to be repeated
    return disk.nodes[ROOT]


def test_what_was_synced_is_kept_with_its_name_and_the_way_to_it(disk):
    """A file in a new directory needs no sync of the directory."""
    below = directory(disk, "below")
    disk.sync(made(disk, "file", b"content", parent=below))
    root = cut(disk)
    below = disk.nodes[root.entries["below"]]
    assert bytes(disk.nodes[below.entries["file"]].data) == b"content"


def test_what_was_not_synced_is_gone(disk):
    """A file that nobody synced, and what was written to a synced one since."""
    made(disk, "never", b"content")
    node = made(disk, "file", b"old" * PAGE)
    disk.sync(node)
    disk.write(node, PAGE, b"new")
    disk.write(node, 3 * PAGE, b"longer" * PAGE)
    assert disk.read(node, PAGE, 3) == b"new"
    root = cut(disk)
    assert list(root.entries) == ["file"]
    assert bytes(disk.nodes[root.entries["file"]].data) == b"old" * PAGE
    assert disk.losses.pages > 0


def test_a_page_that_was_not_synced_survives_by_chance(disk):
    """Some do and some do not, each whole."""
    node = made(disk, "file", bytes(100 * PAGE))
    disk.sync(node)
    disk.write(node, 0, b"x" * 100 * PAGE)
    root = cut(disk, survives=0.5)
    data = bytes(disk.nodes[root.entries["file"]].data)
    pages = {data[at : at + PAGE] for at in range(0, len(data), PAGE)}
    assert pages == {bytes(PAGE), b"x" * PAGE}


@pytest.mark.parametrize("by", ["file", "directory", "nothing"])
def test_a_change_of_names_is_kept_by_a_sync_of_the_file_or_of_the_directory(disk, by):
    """Otherwise the old file is found under its old name, and what was replaced is there again."""
    root = disk.nodes[ROOT]
    new, old = made(disk, "new", b"new"), made(disk, "target", b"old")
    disk.sync(new)
    disk.sync(old)
    disk.rename(root, "new", root, "target")
    if by != "nothing":
        disk.sync(new if by == "file" else root)
    names = {name: bytes(disk.nodes[number].data) for name, number in cut(disk).entries.items()}
    assert names == ({"new": b"new", "target": b"old"} if by == "nothing" else {"target": b"new"})


def test_a_removal_that_was_not_synced_is_undone(disk):
    """With what the file held."""
    root = disk.nodes[ROOT]
    disk.sync(made(disk, "file", b"content"))
    disk.remove(root, "file")
    assert "file" not in root.entries
    assert bytes(disk.nodes[cut(disk).entries["file"]].data) == b"content"


def test_a_file_that_became_shorter_is_as_long_as_before_unless_synced(disk):
    """And its end is what it was."""
    node = made(disk, "file", b"x" * 2 * PAGE)
    disk.sync(node)
    disk.resize(node, 10)
    assert len(disk.nodes[cut(disk).entries["file"]].data) == 2 * PAGE
    node = disk.nodes[disk.nodes[ROOT].entries["file"]]
    disk.resize(node, 10)
    disk.sync(node)
    assert len(disk.nodes[cut(disk).entries["file"]].data) == 10
