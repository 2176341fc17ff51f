"""The query service grows and shrinks while it is asked."""

import asyncio

import pytest
from storm.load import Load

from .release import HTTP_PORT, Object, Release, total, until

pytestmark = pytest.mark.timeout(1200)
_SERVICE = "catalog-query"
_SHARED_SECONDS = 420
"""Callers keep their connections for as long as `identity.connectionSeconds`, then look who is there."""
_METRICS = f"""
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:{HTTP_PORT}/metrics", timeout=5).read().decode())
"""


def served(release: Release, pod: Object) -> float:
    """How many reads a pod has answered so far."""
    metrics = release.python(pod, _METRICS)
    return total(metrics, "almagest_rpc_total", 'role="server"', "CatalogQueryService", 'code="OK"')


async def test_new_pods_of_the_query_service_get_their_share_and_leave_unnoticed(release: Release, load: Load) -> None:
    """From what there is to three pods, each of which answers reads, and back: no request fails."""
    before = release.replicas(_SERVICE)

    def grow_and_shrink() -> None:
        release.scale(_SERVICE, 3)
        pods = release.pods(_SERVICE)
        assert len(pods) == 3
        at_first = {pod["metadata"]["name"]: served(release, pod) for pod in pods}
        until(
            lambda: {pod["metadata"]["name"]: served(release, pod) - at_first[pod["metadata"]["name"]] for pod in pods},
            lambda answered: min(answered.values()) > 20,
            within=_SHARED_SECONDS,
            every=5,
        )
        release.scale(_SERVICE, before)

    try:
        await load.run_while(asyncio.to_thread(grow_and_shrink))
    finally:
        release.scale(_SERVICE, before)
    assert not load.failures, load.failures[:20]
