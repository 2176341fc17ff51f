"""A network of our own, in which packets can be lost in one direction.

Root may have a network namespace: the whole run moves there, nobody else's network is touched, and a routing rule there
drops what goes to a port, or what comes from it, between any two processes. No firewall program is needed.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

_INSIDE: Final = "ALMAGEST_CHAOS_NAMESPACE"
_FIRST: Final = 10


def inside() -> bool:
    """Whether we are in a network namespace of our own."""
    return bool(os.environ.get(_INSIDE))


def enter(arguments: Sequence[str]) -> None:
    """Go on in a network namespace of our own, as a new run of this program, where this machine lets us."""
    if inside():
        return
    if os.geteuid() != 0 or subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:
        return
    os.environ[_INSIDE] = str(os.getpid())
    # The exec keeps our pid, so whoever waits for us still does.
    os.execvp("unshare", ["unshare", "--net", sys.executable, "-P", "-m", "chaos", *arguments])  # noqa: S606


def prepare() -> None:
    """Bring up the loopback of the namespace, and let rules come before the addresses of its own."""
    _ip("link", "set", "lo", "up")
    _ip("rule", "add", "pref", "100", "table", "local")
    _ip("rule", "del", "pref", "0")


def drop(port: int, *, coming: bool, number: int) -> None:
    """Lose all packets that come from a TCP port (else: that go to it)."""
    side = "sport" if coming else "dport"
    _ip("rule", "add", "pref", str(_FIRST + number), "ipproto", "tcp", side, str(port), "blackhole")


def heal(number: int) -> None:
    """End the loss that has this number."""
    _ip("rule", "del", "pref", str(_FIRST + number))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
