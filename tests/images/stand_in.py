"""A stand-in for the base of our images, where no registry of images can be reached: a small Debian of this machine's
release, with this machine's Python at /usr/local. That is how `python:3.11-slim-bookworm` is made, too.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAME = "localhost/almagest-base:stand-in"
_UNUSED = ("doc", "man", "info", "locale", "lintian")


def tarball(target: Path) -> None:
    """Write the root file system of the stand-in."""
    python = Path(sys.base_prefix)
    with tempfile.TemporaryDirectory() as directory:
        prefix = Path(directory) / "usr/local"
        library = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
        skip = shutil.ignore_patterns(
            "test", "tests", "site-packages", "config-*", "__pycache__", "idlelib", "tkinter", "_tkinter*", "*.a"
        )
        shutil.copytree(python / library, prefix / library, symlinks=True, ignore=skip)
        for shared in (python / "lib").glob("libpython*.so*"):
            shutil.copy2(shared, prefix / "lib" / shared.name, follow_symlinks=False)
        (prefix / library / "site-packages").mkdir()
        program = prefix / "bin" / Path(sys.executable).resolve().name
        program.parent.mkdir()
        shutil.copy2(Path(sys.executable).resolve(), program)
        for name in ("python", "python3"):
            (program.parent / name).symlink_to(program.name)
        packages = {"ca-certificates", *_packages([program, *prefix.rglob("*.so*")])}
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(sorted(packages))}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _UNUSED]
        command += [f"--customize-hook=copy-in {prefix} /usr", '--customize-hook=rm -rf "$1"/var/lib/apt/lists/*']
        command += ['--customize-hook=rm -rf "$1"/var/cache/apt/*.bin', '--customize-hook=chroot "$1" ldconfig']
        subprocess.run([*command, _release(), str(target)], check=True)


def _release() -> str:
    facts = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return facts["VERSION_CODENAME"].strip('"')


def _packages(programs: list[Path]) -> set[str]:
    """Debian's packages with the libraries that these are linked with."""
    linked = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    found: set[str] = set()
    for library in {Path(path).resolve() for path in re.findall(r"=> (/(?:usr/)?lib/\S+)", linked)}:
        for path in (library, Path("/") / library.relative_to("/usr")):
            said = subprocess.run(["dpkg", "-S", path], capture_output=True, text=True, check=False).stdout
            if ":" in said:
                found.add(said.split(":")[0])
                break
    return found
