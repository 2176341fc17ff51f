"""The chart, rendered by helm as it would be for a cluster. `make helm-test` installs what that takes."""

from pathlib import Path

import pytest

from .rendering import HELM, Rendered, render

# Without helm there is nothing to look at here: `make unit` leaves it to `make helm-test`.
collect_ignore_glob = [] if HELM.exists() else ["test_*.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--golden`: take what is rendered now for what is to be rendered."""
    parser.addoption("--golden", action="store_true", default=False, help="renew the golden renders of the chart")


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden renders are written instead of compared."""
    return bool(request.config.getoption("--golden"))


@pytest.fixture(scope="session")
def directory() -> Path:
    """Where golden renders are."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session", params=["default", "dev", "small", "large", "external"])
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """Each of the values files, the values without any, and servers and certificates of one's own."""
    return render(str(request.param))
