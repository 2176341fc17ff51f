"""From `make up` to ready on a warm cache, and what the six services weigh when nobody asks them anything."""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from almagest_cli.local.layout import SERVICES
from almagest_cli.local.system import System

RUNS = 3
SETTLE_SECONDS = 5
_MIB = 2**20


def main() -> None:
    """Start a system from nothing, then again on its data, a few times."""
    first, again, weights = [], [], {}
    for _ in range(RUNS):
        state = Path(tempfile.mkdtemp(prefix="almagest-startup-"))
        try:
            first.append(_seconds_to_ready(state))
            again.append(_seconds_to_ready(state, weights))
        finally:
            System(state).reset()
            shutil.rmtree(state, ignore_errors=True)
    print(f"ready, first start (certificates, initdb, migrations, admin): {statistics.median(first):5.1f} s")
    print(f"ready, on existing data:                                      {statistics.median(again):5.1f} s")
    total = sum(weights.values())
    for name, weight in sorted(weights.items(), key=lambda item: -item[1]):
        print(f"  {name:16} {weight / _MIB:6.0f} MiB")
    print(f"resident memory of the six services, idle (shared pages per process): {total / _MIB:5.0f} MiB")


def _seconds_to_ready(state: Path, weights: dict[str, float] | None = None) -> float:
    system = System(state)
    began = time.monotonic()
    try:
        system.up()
        took = time.monotonic() - began
        if weights is not None:
            time.sleep(SETTLE_SECONDS)
            weights.update({row.name: _weight(system, row.name) for row in SERVICES})
    finally:
        system.down()
    return took


def _weight(system: System, name: str) -> float:
    process = system.daemons()[name].process()
    if process is None:
        raise RuntimeError(f"{name} does not run")
    family = [process, *process.children(recursive=True)]
    return float(sum(psutil.Process(member.pid).memory_info().rss for member in family))
