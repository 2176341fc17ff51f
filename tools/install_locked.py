"""Install requirements with what they need in turn, each at the pin of constraints.txt and with its hash compared.

pip compares hashes only when every requirement that it is given is pinned with them; constraints choose versions, but
prove nothing about what is downloaded. So pip is asked first what it would install, by constraints without hashes, and
is then given exactly those pins, with theirs.

usage: install_locked.py PYTHON CONSTRAINTS REQUIREMENTS
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ \\;]+)")

_CONTINUED = " \\"


def pins(constraints: str) -> dict[str, str]:
    """From each pinned name to its lines, hashes included."""
    found: dict[str, str] = {}
    name = None
    for line in constraints.splitlines(keepends=True):
        match = _PIN.match(line)
        if match:
            name = normal(match["name"])
            found[name] = ""
        if name is not None and not line.startswith("#"):
            found[name] += line
    return found


def normal(name: str) -> str:
    """A distribution's name, in the one spelling of many."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(python: str, constraints: str, requirements: str) -> None:
    """Install into the environment of an interpreter, with the pip of this one."""
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--only-binary", ":all:"]
    with tempfile.TemporaryDirectory() as directory:
        report, versions, locked = (Path(directory) / name for name in ("report.json", "versions.txt", "locked.txt"))
        pinned = pins(Path(constraints).read_text(encoding="utf-8"))
        versions.write_text("".join(f"{lines.splitlines()[0].rstrip(_CONTINUED)}\n" for lines in pinned.values()))
        ask = ["--dry-run", "--ignore-installed", "--quiet", f"--report={report}"]
        subprocess.run([*pip, *ask, f"--constraint={versions}", f"--requirement={requirements}"], check=True)
        wanted = sorted(normal(one["metadata"]["name"]) for one in json.loads(report.read_bytes())["install"])
        if missing := set(wanted) - pinned.keys():
            raise SystemExit(f"{constraints} does not pin {', '.join(sorted(missing))}")
        locked.write_text("".join(pinned[name] for name in wanted), encoding="utf-8")
        subprocess.run([*pip, "--no-deps", "--require-hashes", f"--requirement={locked}"], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
