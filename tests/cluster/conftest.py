"""Tests of a release on a cluster, which they disturb: only `make cluster-test` runs them, on the current context.

They are not collected otherwise, as there is no cluster to run them on; tests/tilt looks whether what they name is in
the chart.
"""

import os
from collections.abc import Iterator

import pytest
from harness.door import Door
from harness.outside import outside_system
from harness.running import Reached
from storm.load import Load

from .release import SERVICES, Release

collect_ignore_glob = [] if os.environ.get("ALMAGEST_CLUSTER") else ["test_*.py"]
_REQUESTS_PER_SECOND = 40.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and say so, what is about releases of helm when Tilt made this one."""
    if collect_ignore_glob or release_of_environment().is_of_helm():
        return
    about_helm = [item for item in items if item.get_closest_marker("of_helm")]
    config.hook.pytest_deselected(items=about_helm)
    items[:] = [item for item in items if item not in about_helm]


def pytest_report_collectionfinish() -> str:
    """Say what is tested, where there is a cluster."""
    if collect_ignore_glob:
        return ""
    release = release_of_environment()
    left_out = "" if release.is_of_helm() else "; it is none of helm's, whose upgrades are not part of this run"
    return f"Release {release.name} in namespace {release.namespace}{left_out}."


def release_of_environment() -> Release:
    """NAMESPACE and RELEASE, as for k8s/with-cluster.sh."""
    return Release(os.environ.get("NAMESPACE", "almagest"), os.environ.get("RELEASE", "almagest"))


@pytest.fixture(scope="session")
def release() -> Release:
    return release_of_environment()


@pytest.fixture(scope="session")
def reached() -> Reached:
    """The release's door, as k8s/with-cluster.sh tells it."""
    system = outside_system()
    if system is None:
        raise pytest.UsageError("Nobody said where the door is: run this by `make cluster-test`.")
    return system


@pytest.fixture(scope="module")
def door(reached: Reached) -> Iterator[Door]:
    with Door.to(reached) as door:
        yield door


@pytest.fixture(scope="module")
def two_of_each(release: Release) -> Iterator[None]:
    """At least two pods of every service, so that one may be away; afterwards as many as before."""
    before = {service: release.replicas(service) for service in SERVICES}
    for service, replicas in before.items():
        release.scale(service, max(2, replicas))
    yield
    for service, replicas in before.items():
        release.scale(service, replicas)


@pytest.fixture
def load(reached: Reached) -> Load:
    """People who work at the door, and note whatever is not answered as it should be."""
    return Load(
        reached.url, reached.ca, email=reached.admin_email, password=reached.admin_password, rate=_REQUESTS_PER_SECOND
    )
