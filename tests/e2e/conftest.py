"""The same tests against the system of this machine, which they start, or against one that ALMAGEST_URL names."""

import pytest
from harness.outside import is_for_outside, outside_system
from harness.running import Reached

_LEFT_OUT = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def reached(request: pytest.FixtureRequest) -> Reached:
    """The system that ALMAGEST_URL names, or else one of our own."""
    return outside_system() or request.getfixturevalue("system")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Against a system that is not ours, leave out what must hold its processes; nothing is ever left out otherwise."""
    if outside_system() is None:
        return
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (kept if not is_of_here(config, item) or is_for_outside(item) else left_out).append(item)
    config.stash[_LEFT_OUT] = len(left_out)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def is_of_here(config: pytest.Config, item: pytest.Item) -> bool:
    """Whether the test is one of this directory."""
    return item.path.is_relative_to(config.rootpath / "tests" / "e2e")


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say which system is tested, and what of the tests is not about it."""
    target = outside_system()
    if target is None:
        return []
    left_out = config.stash.get(_LEFT_OUT, 0)
    return [
        f"Against {target.url}, named by ALMAGEST_URL.",
        f"{left_out} tests that kill, start or look into processes are not part of this run; `make test` runs them.",
    ]
