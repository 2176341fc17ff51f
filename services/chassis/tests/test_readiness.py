"""What readiness promises."""

import pytest
from chassis.http import Readiness


@pytest.mark.parametrize("once", [False, True])
async def test_a_probe_that_fails_later_decides_unless_it_is_asked_only_once(*, once: bool) -> None:
    """Until a probe has passed, it decides in both cases; draining always does."""
    away = True

    async def probe() -> None:
        if away:
            raise OSError("refused")

    readiness = Readiness({"database": probe}, once=once)
    readiness.serving = True
    assert await readiness.check() == (False, {"database": "failed"})
    away = False
    assert await readiness.check() == (True, {"database": "ok"})
    away = True
    assert await readiness.check() == (once, {"database": "failed"})
    readiness.serving = False
    assert not (await readiness.check())[0]
