"""`python -m power`: a series of power cuts, and what came of it."""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

import structlog

from power.cuts import Outcome, Series
from power.machine import Machine, reason_against


async def series(cuts: int, seed: int, *, fsync: bool) -> Outcome:
    """Cut the power of a new machine so often."""
    with tempfile.TemporaryDirectory(prefix="almagest-power-") as directory:
        async with Machine(Path(directory), fsync=fsync) as machine:
            return await Series(machine, seed=seed).run(cuts)


def main(arguments: list[str]) -> int:
    """0: nothing was lost (with `--no-fsync`: something was, as must be)."""
    parser = argparse.ArgumentParser(prog="python -m power", description=__doc__)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--no-fsync", action="store_true", help="Postgres believes that it need not sync")
    asked = parser.parse_args(arguments)
    if (against := reason_against()) is not None:
        sys.stdout.write(f"{against}\n")
        return 2
    seed = random.SystemRandom().randrange(1 << 32) if asked.seed is None else asked.seed
    # A database that dies is no news here.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    began = time.monotonic()
    outcome = asyncio.run(series(asked.cuts, seed, fsync=not asked.no_fsync))
    sys.stdout.write(
        f"{outcome.cuts} power cuts in {time.monotonic() - began:.0f} s, seed {seed}: {outcome.in_recovery} of them during "
        f"recovery, {outcome.checkpoints} checkpoints; {outcome.pages:,} unsynced pages and {outcome.names:,} unsynced "
        f"names lost.\n{outcome.acknowledged:,} appends acknowledged; "
        f"{len(outcome.wrong):,} findings\n" + "".join(f"  {text}\n" for text in outcome.wrong[:10])
    )
    return int(bool(outcome.wrong) is not asked.no_fsync)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
