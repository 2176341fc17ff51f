"""The public certificate and its key as they were when they were found to belong together.

Files are replaced one after the other, and a server that opens them by name, one after the other and at a time of its
own, may find halves of two pairs: Granian's worker does not survive that. So a server is given names of copies in
memory, which nobody replaces.
"""

import contextlib
import os
import ssl
from collections.abc import Generator
from pathlib import Path


class Pair:
    """A certificate and its key, in memory where the system can (Linux), else the files themselves."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read both.

        Raises:
            OSError: they cannot be read, or do not belong together (`ssl.SSLError`).
        """
        with contextlib.ExitStack() as stack:
            self.certificate, self.key = (stack.enter_context(_in_memory(file)) for file in (certificate, key))
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
            self._open = stack.pop_all()

    def close(self) -> None:
        """Forget them. Whoever has read them keeps what was read."""
        self._open.close()


@contextlib.contextmanager
def _in_memory(file: Path) -> Generator[str]:
    if not hasattr(os, "memfd_create"):
        yield str(file)
        return
    descriptor = os.memfd_create(file.name)
    try:
        with open(descriptor, "wb", closefd=False) as copy:
            copy.write(file.read_bytes())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
