"""Build the images of the services, and say how large they are.

The engine is `CONTAINER_ENGINE`, or the first of docker and podman that is there. Configuration of pip on this machine
(an index, an authority) reaches the builds as secrets, so no image holds any of it.

usage: images.py [--base IMAGE] [--target prod|dev] [--tag TAG] [SERVICE ...]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("auth", "catalog-command", "catalog-query", "event-store", "gateway", "worker")
BASE = "python:3.11-slim-bookworm"


def version(service: str) -> str:
    """The version that a service says it is."""
    return str(tomllib.loads((ROOT / f"services/{service}/pyproject.toml").read_text())["project"]["version"])


def build(
    engine: str,
    service: str,
    *,
    tag: str,
    base: str = BASE,
    target: str = "prod",
    environment: Mapping[str, str] = os.environ,
    secrets: Sequence[str] = (),
) -> None:
    """Build the image of one service.

    Args:
        engine: docker or podman.
        service: as its directory is called.
        tag: what the image is called.
        base: what it is built on.
        target: `prod` or `dev`.
        environment: of the engine.
        secrets: further arguments; see `of_pip`.
    """
    command = [engine, "build", f"--file={ROOT / 'services/Dockerfile'}", f"--target={target}", f"--tag={tag}"]
    told = {"BASE": base, "SERVICE": service, "VERSION": version(service), "REVISION": _revision()}
    command += [f"--build-arg={name}={value}" for name, value in told.items()]
    if Path(engine).name == "podman":
        # The other format knows no HEALTHCHECK.
        command.append("--format=docker")
    subprocess.run([*command, *secrets, str(ROOT)], env=dict(environment), check=True)


def of_pip(directory: Path, *, engine: str) -> list[str]:
    """What hands pip's configuration on this machine to a build.

    Args:
        directory: where the files of it may be written; they are needed for as long as the build takes.
        engine: docker or podman; only the latter can show a build an index that is a directory.
    """
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = dict(line.replace(":env:.", "global.", 1).split("=", 1) for line in said.splitlines())
    settings = {
        name: found[f"global.{name}"].strip("'\"")
        for name in ("index-url", "extra-index-url", "find-links", "trusted-host")
        if f"global.{name}" in found
    }
    words: list[str] = []
    if settings:
        configuration = ConfigParser(interpolation=None)
        configuration["global"] = settings
        file = directory / "pip.conf"
        with file.open("w", encoding="utf-8") as written:
            configuration.write(written)
        words.append(f"--secret=id=pip.conf,src={file}")
    if authority := found.get("global.cert", "").strip("'\""):
        words.append(f"--secret=id=ca.crt,src={authority}")
    if Path(engine).name == "podman":
        paths = {urlsplit(word).path for value in settings.values() for word in value.split()}
        here = [path for path in sorted(paths) if path.startswith("/") and Path(path).is_dir() and path != "/"]
        local = [path for value in settings.values() for path in here if path in value]
        words += [f"--volume={path}:{path}:ro" for path in dict.fromkeys(_roots(local))]
        words.append("--network=host")
    return words


def _roots(paths: Sequence[str]) -> list[str]:
    """Of an index that is a directory, its files lie beside it."""
    return [str(Path(path).parent) if Path(path).name == "simple" else path for path in paths]


def _revision() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    said = subprocess.run([git, "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, check=False)
    return said.stdout.decode().strip() or "unknown"


def main() -> None:
    """Build what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("services", nargs="*", default=SERVICES, metavar="SERVICE")
    parser.add_argument("--base", default=BASE, help=f"what they are built on; {BASE} unless given")
    parser.add_argument("--target", choices=("prod", "dev"), default="prod")
    parser.add_argument("--tag", help="instead of the service's version")
    arguments = parser.parse_args()
    engine = os.environ.get("CONTAINER_ENGINE") or next(filter(shutil.which, ("docker", "podman")), None)
    if engine is None:
        raise SystemExit("Neither docker nor podman is here: `apt-get install podman`, for one.")
    with tempfile.TemporaryDirectory() as directory:
        secrets = of_pip(Path(directory), engine=engine) if find_spec("pip") else []
        for service in arguments.services:
            tag = f"almagest/{service}:{arguments.tag or version(service)}"
            build(engine, service, tag=tag, base=arguments.base, target=arguments.target, secrets=secrets)
            said = subprocess.run([engine, "inspect", "--format={{.Size}}", tag], capture_output=True, check=True)
            print(f"{tag} {int(said.stdout) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
