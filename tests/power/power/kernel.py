"""The kernel's side of a file system in user space: the FUSE protocol over /dev/fuse, as much of it as Postgres uses.

Spoken here directly, because the bindings to libfuse need a library and its headers, which a machine that runs tests
need not have: with /dev/fuse and the right to mount, this needs nothing. The structures are those of
include/uapi/linux/fuse.h, protocol 7.31.
"""

import ctypes
import errno
import os
import select
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from power.disk import Disk, Node

DEVICE: Final = Path("/dev/fuse")

_MINOR: Final = 31
_MAX_WRITE: Final = 256 * 1024
_BUFFER: Final = _MAX_WRITE + 4096
_BIG_WRITES, _NO_OPEN, _NO_OPENDIR, _MAX_PAGES = 1 << 5, 1 << 17, 1 << 24, 1 << 22
_FOR_EVER: Final = 3600
_NOSUID_NODEV: Final = 2 | 4
_DETACH: Final = 2
_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE = 1, 2, 4, 8
_NO_REPLACE: Final = 1
_KEEP_SIZE: Final = 1

_in_header = struct.Struct("=IIQQIIII")
_out_header = struct.Struct("=IiQ")
_attr = struct.Struct("=QQQQQQIIIIIIIIII")
_entry = struct.Struct("=QQQQII")
_attr_out = struct.Struct("=QII")
_init_in = struct.Struct("=IIII")
_init_out = struct.Struct("=IIIIHHIIHHI28x")
_setattr = struct.Struct("=IIQQQQQQIIIIIIII")
_read = struct.Struct("=QQIIQII")
_fallocate = struct.Struct("=QQQII")
_dirent = struct.Struct("=QQII")
_statfs = struct.Struct("=QQQQQIIII24x")
_two = struct.Struct("=II")
_number = struct.Struct("=Q")

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """A request that is answered by an error number."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


class Mount:
    """A disk mounted at a directory, for as long as somebody serves it."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        if _libc.mount(b"almagest-power", os.fsencode(directory), b"fuse", _NOSUID_NODEV, options.encode()):
            number = ctypes.get_errno()
            os.close(self._device)
            raise OSError(number, f"cannot mount: {os.strerror(number)}")
        self._handlers: dict[int, Callable[[Node, memoryview], bytes | None]] = {
            1: self._lookup,
            3: self._getattr,
            4: self._setattr_,
            9: self._mkdir,
            10: self._unlink,
            11: self._rmdir,
            12: self._rename,
            15: self._read_,
            16: self._write,
            17: self._statfs_,
            18: self._nothing,
            20: self._fsync,
            25: self._nothing,
            28: self._readdir,
            29: self._nothing,
            30: self._fsync,
            35: self._create,
            43: self._fallocate_,
            45: self._rename2,
        }

    def fileno(self) -> int:
        """For `select`."""
        return self._device

    def serve(self) -> bool:
        """Answer the next request; False when the directory is no longer mounted."""
        try:
            request = os.read(self._device, _BUFFER)
        except OSError as error:
            return error.errno in {errno.ENOENT, errno.EINTR, errno.EAGAIN}
        size, opcode, unique, number, *_ = _in_header.unpack_from(request)
        body = memoryview(request)[_in_header.size : size]
        if opcode in {2, 36, 42}:
            # Forgetting and interrupting ask for no answer.
            return True
        try:
            if opcode == 26:
                answer, failure = self._init(body), 0
            else:
                handler = self._handlers.get(opcode)
                if handler is None:
                    raise Refused(errno.ENOSYS)  # noqa: TRY301 - one way to refuse
                node = self._disk.nodes.get(number)
                if node is None:
                    raise Refused(errno.ESTALE)  # noqa: TRY301
                answer, failure = handler(node, body) or b"", 0
        except Refused as refused:
            answer, failure = b"", -refused.number
        try:
            os.write(self._device, _out_header.pack(_out_header.size + len(answer), failure, unique) + answer)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the one who asked was killed
                raise
        return True

    def close(self) -> None:
        """Take it away, whoever still uses it: their requests fail, as on a disk that is gone."""
        _libc.umount2(os.fsencode(self._directory), _DETACH)
        os.close(self._device)

    def _init(self, body: memoryview) -> bytes:
        _, _, readahead, flags = _init_in.unpack_from(body)
        wanted = flags & (_BIG_WRITES | _NO_OPEN | _NO_OPENDIR | _MAX_PAGES)
        return _init_out.pack(7, _MINOR, readahead, wanted, 16, 12, _MAX_WRITE, 1, _MAX_WRITE // 4096, 0, 0)

    def _attributes(self, node: Node) -> bytes:
        size = len(node.data)
        links = 2 if node.is_directory else 1
        times = (node.mtime // 10**9,) * 3 + (node.mtime % 10**9,) * 3
        return _attr.pack(
            node.number, size, (size + 511) // 512, *times, node.mode, links, node.uid, node.gid, 0, 4096, 0
        )

    def _entry_of(self, node: Node) -> bytes:
        return _entry.pack(node.number, 0, _FOR_EVER, _FOR_EVER, 0, 0) + self._attributes(node)

    def _child(self, parent: Node, name: str) -> Node:
        number = parent.entries.get(name)
        if number is None:
            raise Refused(errno.ENOENT)
        return self._disk.nodes[number]

    def _lookup(self, node: Node, body: memoryview) -> bytes:
        return self._entry_of(self._child(node, _name(body)))

    def _getattr(self, node: Node, _: memoryview) -> bytes:
        return _attr_out.pack(_FOR_EVER, 0, 0) + self._attributes(node)

    def _setattr_(self, node: Node, body: memoryview) -> bytes:
        valid, _, _, size, _, _, _, _, _, _, _, mode, _, uid, gid, _ = _setattr.unpack_from(body)
        if valid & _SET_MODE:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        if valid & _SET_UID:
            node.uid = uid
        if valid & _SET_GID:
            node.gid = gid
        if valid & _SET_SIZE:
            self._disk.resize(node, size)
            node.mtime = time.time_ns()
        return self._getattr(node, body)

    def _mkdir(self, node: Node, body: memoryview) -> bytes:
        mode, _ = _two.unpack_from(body)
        return self._entry_of(self._made(node, _name(body[8:]), stat.S_IFDIR | stat.S_IMODE(mode)))

    def _create(self, node: Node, body: memoryview) -> bytes:
        _, mode = _two.unpack_from(body)
        made = self._made(node, _name(body[16:]), stat.S_IFREG | stat.S_IMODE(mode))
        return self._entry_of(made) + _number.pack(0) + _two.pack(0, 0)

    def _made(self, parent: Node, name: str, mode: int) -> Node:
        if name in parent.entries:
            raise Refused(errno.EEXIST)
        made = self._disk.create(parent, name, mode, parent.uid, parent.gid)
        made.mtime = time.time_ns()
        return made

    def _unlink(self, node: Node, body: memoryview) -> bytes:
        name = _name(body)
        self._child(node, name)
        self._disk.remove(node, name)
        return b""

    def _rmdir(self, node: Node, body: memoryview) -> bytes:
        name = _name(body)
        if self._child(node, name).entries:
            raise Refused(errno.ENOTEMPTY)
        self._disk.remove(node, name)
        return b""

    def _rename(self, node: Node, body: memoryview) -> bytes:
        (number,) = _number.unpack_from(body)
        return self._renamed(node, number, body[8:], 0)

    def _rename2(self, node: Node, body: memoryview) -> bytes:
        (number,) = _number.unpack_from(body)
        flags, _ = _two.unpack_from(body, 8)
        return self._renamed(node, number, body[16:], flags)

    def _renamed(self, node: Node, number: int, names: memoryview, flags: int) -> bytes:
        old, new, *_ = bytes(names).split(b"\0")
        target, before, after = self._disk.nodes[number], os.fsdecode(old), os.fsdecode(new)
        self._child(node, before)
        if flags & ~_NO_REPLACE:
            raise Refused(errno.EINVAL)
        if flags & _NO_REPLACE and after in target.entries:
            raise Refused(errno.EEXIST)
        self._disk.rename(node, before, target, after)
        return b""

    def _read_(self, node: Node, body: memoryview) -> bytes:
        _, offset, size, *_ = _read.unpack_from(body)
        return self._disk.read(node, offset, size)

    def _write(self, node: Node, body: memoryview) -> bytes:
        _, offset, size, *_ = _read.unpack_from(body)
        self._disk.write(node, offset, body[_read.size : _read.size + size])
        node.mtime = time.time_ns()
        return _two.pack(size, 0)

    def _fallocate_(self, node: Node, body: memoryview) -> bytes:
        _, offset, length, mode, _ = _fallocate.unpack_from(body)
        if mode & ~_KEEP_SIZE:
            raise Refused(errno.EOPNOTSUPP)
        if not mode and offset + length > len(node.data):
            self._disk.resize(node, offset + length)
        return b""

    def _fsync(self, node: Node, _: memoryview) -> bytes:
        self._disk.sync(node)
        return b""

    def _readdir(self, node: Node, body: memoryview) -> bytes:
        _, offset, size, *_ = _read.unpack_from(body)
        listed = bytearray()
        for at, (name, number) in enumerate(list(node.entries.items())[offset:], offset + 1):
            encoded = os.fsencode(name)
            kind = stat.S_IFMT(self._disk.nodes[number].mode) >> 12
            entry = _dirent.pack(number, at, len(encoded), kind) + encoded
            entry += bytes(-len(entry) % 8)
            if len(listed) + len(entry) > size:
                break
            listed += entry
        return bytes(listed)

    def _statfs_(self, _: Node, __: memoryview) -> bytes:
        return _statfs.pack(1 << 24, 1 << 23, 1 << 23, 1 << 20, 1 << 19, 4096, 255, 4096, 0)

    def _nothing(self, _: Node, __: memoryview) -> bytes:
        return b""


def _name(body: memoryview) -> str:
    return os.fsdecode(bytes(body).partition(b"\0")[0])


def wait(mount: Mount, *others: int) -> list[int]:
    """Which of the descriptors has something to say: the mount's, or another."""
    ready, _, _ = select.select([mount.fileno(), *others], [], [])
    return ready
