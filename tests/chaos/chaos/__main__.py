"""`python -m chaos run` runs the system under faults and checks what its clients saw; `python -m chaos check DIRECTORY`
checks a kept history again.
"""

import argparse
import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from chaos import network
from chaos.check import check
from chaos.run import Plan, run_and_report, say


def main(arguments: list[str]) -> int:
    """Run what the arguments say; 0: all holds."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run a system under faults, and check")
    running.add_argument("--seconds", type=float, default=180)
    running.add_argument("--seed", type=int, default=None, help="of every choice; by default one of its own")
    running.add_argument("--directory", type=Path, default=None, help="where the history goes")
    running.add_argument("--rate", type=float, default=700, help="direct operations a second")
    running.add_argument("--people-rate", type=float, default=40, help="operations a second at the door")
    running.add_argument("--faults", type=float, default=1.0, help="faults a second; 0 for none")
    running.add_argument("--no-moves", action="store_true", help="leave every bucket on its shard")
    running.add_argument("--keep", action="store_true", help="keep the history also when all holds")
    checking = commands.add_parser("check", help="check a kept history")
    checking.add_argument("directory", type=Path)
    asked = parser.parse_args(arguments)
    if asked.command == "check":
        began = time.monotonic()
        found = check(asked.directory)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        say(f"{found.report()}\nChecked in {time.monotonic() - began:.0f} s with {peak} MiB")
        return 0 if found.hold else 1
    network.enter(arguments)
    if network.inside():
        network.prepare()
    seed = random.SystemRandom().randrange(1 << 32) if asked.seed is None else asked.seed
    directory = asked.directory or Path(tempfile.mkdtemp(prefix="almagest-chaos-history-"))
    plan = Plan(
        seconds=asked.seconds,
        seed=seed,
        directory=directory.absolute(),
        rate=asked.rate,
        people_rate=asked.people_rate,
        faults=asked.faults,
        own_network=network.inside(),
        moves=not asked.no_moves,
    )
    holds = uvloop.run(run_and_report(plan))
    if holds and not asked.keep and asked.directory is None:
        shutil.rmtree(plan.directory)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
