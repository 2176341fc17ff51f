"""Keeps the identities of a running system young: `python -m almagest_cli.local.renewal DIRECTORY SERVICE...`.

Certificates live a day, a laptop runs for weeks, and `almagest up` has long returned by then. So this small process
goes round once a minute, by the wall clock: a machine that slept past half of a certificate's life has a new one
within a minute of waking.
"""

import sys
import time
from pathlib import Path

from almagest_cli.local.authority import LocalAuthority

INTERVAL_SECONDS = 60.0


def main() -> None:
    """Renew what is due, for ever."""
    authority = LocalAuthority(Path(sys.argv[1]))
    while True:
        for service in sys.argv[2:]:
            authority.ensure(service)
        time.sleep(INTERVAL_SECONDS)


if __name__ == "__main__":
    main()
