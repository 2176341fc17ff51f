"""Lost power on real Postgres: what was acknowledged stays, and it would be seen if it did not."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from power.cuts import Outcome, Series
from power.machine import Machine, reason_against

pytestmark = [
    pytest.mark.skipif(reason_against() is not None, reason=str(reason_against())),
    pytest.mark.xdist_group("power"),
    pytest.mark.timeout(300),
]


@pytest.fixture(autouse=True)
def nothing_stays_mounted() -> Iterator[None]:
    """Whatever happens, nothing of ours is mounted afterwards."""
    yield
    mounted = [line for line in Path("/proc/mounts").read_text().splitlines() if line.startswith("almagest-power ")]
    assert [line for line in mounted if f"-{os.getpid()}/" in line] == []


async def cut(directory: Path, cuts: int, *, fsync: bool, seed: int) -> Outcome:
    async with Machine(directory / f"machine-{os.getpid()}", fsync=fsync) as machine:
        return await Series(machine, seed=seed).run(cuts)


async def test_no_acknowledged_append_is_lost_when_the_power_is(tmp_path: Path) -> None:
    """After each cut every acknowledged append is where it was answered to be, positions are gapless, the chain is whole."""
    outcome = await cut(tmp_path, 4, fsync=True, seed=7)
    assert outcome.wrong == []
    assert outcome.cuts == 4
    assert outcome.acknowledged > 100
    assert outcome.pages > 0, "nothing was lost that was not synced: this has tested nothing"


async def test_without_fsync_the_same_loss_is_seen(tmp_path: Path) -> None:
    """So the test above can fail."""
    outcome = await cut(tmp_path, 8, fsync=False, seed=7)
    assert outcome.wrong, f"{outcome.cuts} cuts without fsync, and nothing lost"
