"""The connections that this process has accepted, whichever library has them: some give no way to end one."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

_DESCRIPTORS = (Path("/proc/self/fd"), Path("/dev/fd"))


def accepted(port: int) -> Iterator[socket.socket]:
    """Those that came to a port, and the socket that listens there, each open while it is looked at."""
    directory = next((place for place in _DESCRIPTORS if place.is_dir()), None)
    for entry in list(directory.iterdir()) if directory is not None else ():
        try:
            number = int(entry.name)
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(number))
        except (OSError, ValueError):
            continue
        with closing(copy):
            try:
                ours = copy.getsockname()
            except OSError:
                continue
            if isinstance(ours, tuple) and ours[1] == port:
                yield copy


def peer_of(connection: socket.socket) -> tuple[str, int] | None:
    """Host and port of who has connected; None: nobody has."""
    try:
        name = connection.getpeername()
    except OSError:
        return None
    # A socket that takes both kinds of addresses shows those of IPv4 as a part of IPv6.
    if not isinstance(name, tuple):
        return None
    host, port, *_ = cast("tuple[Any, ...]", name)
    return str(host).removeprefix("::ffff:"), int(port)
