"""Keeps the identities of a running system young: `python -m almagest_cli.local.renewal STATE`.

Certificates live a day, a laptop runs for weeks, and `almagest up` has long returned by then. So this small process
goes round once a minute, by the wall clock: a machine that slept past half of a certificate's life has a new one
within a minute of waking. It also rotates the authority itself when that is due, and ends rotations that were begun and
not ended, by whomever.

The two do not wait for each other: a rotation asks every process what it trusts, and one that is busy takes its time to
answer, while the certificates of all others grow old.
"""

import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.layout import WORKLOADS, Places
from almagest_cli.local.rotation import Rotation
from almagest_cli.local.trust import Lifetimes

_INTERVAL = timedelta(minutes=1)
_STEPS = timedelta(seconds=0.5)


def main() -> None:
    """Renew and rotate what is due, for ever."""
    places = Places(Path(sys.argv[1]))
    threading.Thread(target=_rotate, args=(places,), name="rotation", daemon=True).start()
    authority = LocalAuthority(places.authority)

    def renew() -> None:
        for name in authority.renew(WORKLOADS):
            _say(f"renewed {name}")

    interval = _interval(authority.lifetimes)
    while True:
        _try(renew, "nothing could be renewed")
        time.sleep(interval.total_seconds())


def _rotate(places: Places) -> None:
    authority = LocalAuthority(places.authority)
    rotation = Rotation(authority, places)

    def advance() -> None:
        if rotation.is_due():
            rotation.begin()
            _say("authority: published")
        step = rotation.advance()
        if step is not None:
            _say(f"authority: {step or 'rotated'}")

    interval = _interval(authority.lifetimes)
    while True:
        _try(advance, "the authority could not be rotated")
        time.sleep((min(interval, _STEPS) if authority.trust.step else interval).total_seconds())


def _interval(lifetimes: Lifetimes) -> timedelta:
    return min(_INTERVAL, lifetimes.leaf / 20, lifetimes.web / 20, lifetimes.authority / 20)


def _try(work: Callable[[], None], otherwise: str) -> None:
    try:
        work()
    except OSError as error:
        # A full disk, for instance: what is there is good for half of its life.
        _say(f"{otherwise}: {error}")


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
