"""The process that serves the file system; told by lines of JSON on its standard input, and answering on its output.

It is a process of its own, because whoever uses a file system waits for who serves it: a program that does both can wait
for itself.
"""

import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from power.disk import Disk
from power.kernel import Mount, wait


def serve(source: Path, directory: Path) -> None:
    """Serve a copy of a directory at another one, until there is nobody to tell us anything."""
    disk = Disk.of(source)
    mount = Mount(disk, directory)
    told = sys.stdin.buffer
    _say({"mounted": True})
    try:
        while True:
            ready = wait(mount, told.fileno())
            if mount.fileno() in ready and not mount.serve():
                return
            if told.fileno() not in ready:
                continue
            line = told.readline()
            if not line:
                return
            word: dict[str, Any] = orjson.loads(line)
            # Whoever had a file open sees it no more; then the machine is without power, then it is on again.
            mount.close()
            disk.cut(random.Random(word["seed"]), word["survives"])  # noqa: S311 - to be repeated
            mount = Mount(disk, directory)
            _say(asdict(disk.losses))
    finally:
        mount.close()


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
