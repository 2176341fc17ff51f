"""Another revision of the release, and back, while people work. Needs a release that helm installed: k8s/install.sh."""

import asyncio
import json
import time

import pytest
from storm.load import Load

from .release import CHART, ROLLOUT_SECONDS, SERVICES, Release

pytestmark = [pytest.mark.timeout(2400), pytest.mark.of_helm]


def revision(release: Release) -> int:
    return json.loads(release.helm("status", release.name, "--output", "json"))["version"]


async def test_an_upgrade_and_the_way_back_are_noticed_by_nobody(release: Release, load: Load) -> None:
    """Every pod is replaced by one of the new revision, migrations included, and by one of the old again; also where a
    service has one pod, as a new one is ready before the old one ends.
    """
    first = revision(release)
    waiting = ("--wait", "--timeout", f"{ROLLOUT_SECONDS * 2}s")
    changed = json.dumps({"almagest.internal/upgraded": str(int(time.time()))})
    values = (
        "--reuse-values",
        "--set-json", f"componentDefaults.podAnnotations={changed}",
        "--set", "migrations.upgrade=hook",
    )  # fmt: skip
    before = set(release.lives())

    def there_and_back() -> None:
        release.helm("upgrade", release.name, str(CHART), *values, *waiting)
        for service in SERVICES:
            release.await_rollout(service)
        assert not before & set(release.lives())
        release.helm("rollback", release.name, str(first), *waiting)
        for service in SERVICES:
            release.await_rollout(service)

    await load.run_while(asyncio.to_thread(there_and_back))
    assert revision(release) == first + 2
    assert not load.failures, load.failures[:20]


def test_the_releases_own_tests_pass(release: Release) -> None:
    """`helm test`, as an operator types it."""
    release.helm("test", release.name, "--timeout", f"{ROLLOUT_SECONDS}s")
