"""Keeps the identities of a running system young: `python -m almagest_cli.local.renewal STATE`.

Certificates live a day, a laptop runs for weeks, and `almagest up` has long returned by then. So this small process
goes round once a minute, by the wall clock: a machine that slept past half of a certificate's life has a new one
within a minute of waking. It also rotates the authority itself when that is due, and ends rotations that were begun and
not ended, by whomever.
"""

import sys
import time
from datetime import timedelta
from pathlib import Path

from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.layout import WORKLOADS, Places
from almagest_cli.local.rotation import Rotation

_INTERVAL = timedelta(minutes=1)
_STEPS = timedelta(seconds=0.5)


def main() -> None:
    """Renew and rotate what is due, for ever."""
    places = Places(Path(sys.argv[1]))
    authority = LocalAuthority(places.authority)
    rotation = Rotation(authority, places)
    while True:
        try:
            under_way = _round(authority, rotation)
        except OSError as error:
            # A full disk, for instance: what is there is good for half of its life.
            _say(f"nothing could be renewed: {error}")
            under_way = False
        lifetimes = authority.lifetimes
        interval = min(_INTERVAL, lifetimes.leaf / 20, lifetimes.web / 20, lifetimes.authority / 20)
        time.sleep((min(interval, _STEPS) if under_way else interval).total_seconds())


def _round(authority: LocalAuthority, rotation: Rotation) -> bool:
    for name in authority.renew(WORKLOADS):
        _say(f"renewed {name}")
    if rotation.is_due():
        rotation.begin()
        _say("authority: published")
    step = rotation.advance()
    if step is not None:
        _say(f"authority: {step or 'rotated'}")
    return bool(authority.trust.step)


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
