"""The chart, rendered by helm as it would be for a cluster. `make helm-test` installs what that takes."""

import tarfile
from pathlib import Path

import pytest

from .rendering import CHART, HELM, RELEASED, Rendered, render

# Without helm there is nothing to look at here: `make unit` leaves it to `make helm-test`.
collect_ignore_glob = [] if HELM.exists() else ["test_*.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--golden`: take what is rendered now for what is to be rendered. `--earlier-chart`: upgrade from that one."""
    parser.addoption("--golden", action="store_true", default=False, help="renew the golden renders of the chart")
    parser.addoption("--earlier-chart", type=Path, default=None, help="the chart to upgrade from; else the released")


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden renders are written instead of compared."""
    return bool(request.config.getoption("--golden"))


@pytest.fixture(scope="session")
def earlier_chart(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart that is upgraded from, as a directory."""
    given: Path | None = request.config.getoption("--earlier-chart")
    if given is not None:
        return given
    unpacked = tmp_path_factory.mktemp("released")
    with tarfile.open(RELEASED) as archive:
        archive.extractall(unpacked, filter="data")
    return unpacked / CHART.name


@pytest.fixture(scope="session")
def directory() -> Path:
    """Where golden renders are."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session", params=["default", "dev", "small", "large", "external"])
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """Each of the values files, the values without any, and servers and certificates of one's own."""
    return render(str(request.param))
