"""Volumes of a pod as a kubelet lays them out: whose files are, how they are written, and how they change.

Files of Secrets and ConfigMaps are links to links, of which one is exchanged when they change, so that a reader sees
either all that was or all that is. They belong to root; the pod's `fsGroup` may read them.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from ..helm.rendering import Document

_DEFAULT_MODE: Final = 0o644
_READ: Final = 0o440
_DIRECTORY: Final = 0o2110

Data = Mapping[str, bytes]
"""What an object holds, by key."""


class Sources(NamedTuple):
    """Where the data of objects is found, by name."""

    secret: Callable[[str], Data]
    config_map: Callable[[str], Data]


class File(NamedTuple):
    """One file of a volume."""

    content: bytes
    mode: int


def files_of(volume: Document, sources: Sources) -> dict[str, File] | None:
    """The files of a volume by their paths, or None when it is empty at first.

    Raises:
        LookupError: an object or a key is missing: a kubelet does not start such a pod.
        ValueError: a kind of volume that is not known here.
    """
    match volume:
        case {"secret": {"secretName": name, **rest}}:
            return _chosen(sources.secret(name), rest)
        case {"configMap": {"name": name, **rest}}:
            return _chosen(sources.config_map(name), rest)
        case {"projected": {"sources": parts, **rest}}:
            mode = rest.get("defaultMode", _DEFAULT_MODE)
            files: dict[str, File] = {}
            for part in parts:
                match part:
                    case {"secret": {"name": name, **chosen}}:
                        files |= _chosen(sources.secret(name), {"defaultMode": mode, **chosen})
                    case {"configMap": {"name": name, **chosen}}:
                        files |= _chosen(sources.config_map(name), {"defaultMode": mode, **chosen})
                    case _:
                        raise ValueError(f"a source that is not known here: {part}")
            return files
        case {"emptyDir": _}:
            return None
        case _:
            raise ValueError(f"a volume that is not known here: {volume}")


def _chosen(data: Data, said: Document) -> dict[str, File]:
    mode = said.get("defaultMode", _DEFAULT_MODE)
    items = said.get("items", [{"key": key, "path": key} for key in data])
    return {item["path"]: File(data[item["key"]], item.get("mode", mode)) for item in items}


class Volume:
    """A directory of this machine that containers see.

    Args:
        directory: where it is.
        group: `fsGroup` of the pod.
    """

    def __init__(self, directory: Path, *, group: int) -> None:
        self.directory, self._group = directory, group
        self._versions, self._shown = itertools.count(), dict[str, File]()
        directory.mkdir(parents=True)
        os.chown(directory, 0, group)

    def open(self) -> None:
        """Let the pod write."""
        self.directory.chmod(0o2777)

    def write(self, files: Mapping[str, File]) -> None:
        """Show these, all at once, instead of what was there, unless they are the same."""
        if files == self._shown:
            return
        self._shown = dict(files)
        self.directory.chmod(0o755 | _DIRECTORY | _READ)
        version = self.directory / f"..{next(self._versions)}"
        version.mkdir()
        for path, (content, mode) in files.items():
            file = version / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(mode | _READ)
            first = Path(path).parts[0]
            if not (link := self.directory / first).is_symlink():
                link.symlink_to(Path("..data") / first)
        for place in (version, *version.rglob("*")):
            os.chown(place, 0, self._group)
            if place.is_dir():
                place.chmod(0o755 | _DIRECTORY | _READ)
        before = self.directory / "..data"
        old = before.readlink() if before.is_symlink() else None
        fresh = self.directory / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.rename(before)
        if old is not None:
            for place in sorted((self.directory / old).rglob("*"), reverse=True):
                place.rmdir() if place.is_dir() else place.unlink()
            (self.directory / old).rmdir()
