"""Images built by podman, and the system made of them. Only `make images-test` runs these tests: they need root, and
programs that are installed for nothing else.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from almagest_cli.local.layout import SERVICES

from . import bundled
from .contained import Contained, contained
from .engine import PACKAGES, Engine, missing
from .stand_in import NAME, tarball

ROOT = Path(__file__).resolve().parents[2]
# The root, since packages called `tests` are looked for anew when the path changes, and there are others.
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

STATE = os.environ.get("ALMAGEST_IMAGES", "")
"""Where images and containers are kept; nothing is collected without."""
collect_ignore_glob = [] if STATE else ["test_*.py"]
if not os.environ.get("ALMAGEST_IMAGES_FROM"):
    # There is nothing to come from.
    collect_ignore_glob.append("test_upgrading.py")


def pytest_report_collectionfinish() -> str:
    """Say where the images are."""
    return f"Images and containers are below {STATE}." if STATE else ""


@pytest.fixture(scope="session")
def engine() -> Engine:
    if lacking := missing():
        packages = " ".join(PACKAGES)
        raise pytest.UsageError(
            f"{', '.join(lacking)}: missing. As root: apt-get install -y --no-install-recommends {packages}"
        )
    return Engine(Path(STATE).absolute())


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    """The stand-in, made once for as long as the directory is kept."""
    if not engine("images", "--quiet", NAME):
        file = Path(STATE).absolute() / "base.tar"
        tarball(file)
        engine("import", file, NAME)
        file.unlink()
    return NAME


@pytest.fixture(scope="session")
def images(engine: Engine, base: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The image of each service, built now."""
    from images import build, of_pip  # noqa: PLC0415 - a program of tools/

    secrets = of_pip(tmp_path_factory.mktemp("pip"), engine="podman")
    tags = {row.name: f"localhost/almagest/{row.name}:tested" for row in SERVICES}
    for name, tag in tags.items():
        build("podman", name, tag=tag, base=base, environment=engine.environment, secrets=secrets)
    return tags


@pytest.fixture(scope="session")
def servers(engine: Engine, base: str) -> Mapping[str, str]:
    """What stands for the images of the bundled servers."""
    return bundled.build(engine, base)


@pytest.fixture(scope="session")
def developing(engine: Engine, base: str, images: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of catalog-command, which needs the least, for development."""
    from images import build, of_pip  # noqa: PLC0415 - a program of tools/

    secrets = of_pip(tmp_path_factory.mktemp("pip"), engine="podman")
    tag = "localhost/almagest/catalog-command:developing"
    build(
        "podman",
        "catalog-command",
        tag=tag,
        base=base,
        target="dev",
        environment=engine.environment,
        secrets=secrets,
    )
    return tag


@pytest.fixture(scope="session")
def system(engine: Engine, images: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contained]:
    """Six containers, on a Postgres and a Redis that take nobody without TLS and a certificate."""
    with contained(engine, images, tmp_path_factory.mktemp("contained")) as running:
        yield running
