"""Print the third-party requirements of the workspace, one per line, from the `pyproject.toml` files that state them.

pip refuses editable installs and hashes in one call. So the pinned third-party packages are installed first, with
hashes, and our own distributions after them without dependencies. This lists the former: for `make` (all
distributions), for an image (one service and what it stands on) and for pinning (`make constraints`). With `--own` it
lists the directories of the latter. In an image's context there is only a part of the tree: what is absent is needed by
nobody there.

usage: requirements.py [--own] [--group NAME ...] [DISTRIBUTION-DIRECTORY ...]
"""

import argparse
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = (
    "protos/gen",
    "services/chassis",
    "services/catalog-events",
    "services/event-store",
    "services/catalog-command",
    "services/catalog-query",
    "services/auth",
    "services/worker",
    "services/gateway",
    "cli",
    "tests/harness",
    "tests/chaos",
    "tests/power",
    "tests/storm",
)

_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[(?P<extras>[^]]*)\])?")


def project(directory: str) -> dict[str, Any]:
    """The `[project]` table of a distribution of ours."""
    return tomllib.loads((ROOT / directory / "pyproject.toml").read_text())["project"]


def needed(directories: tuple[str, ...], *, every_extra: bool = False) -> tuple[set[str], list[str]]:
    """What the distributions need that is not ours, and the directories of what is, the given ones first; our own names
    and extras are followed to their `pyproject.toml`.
    """
    here = [directory for directory in DISTRIBUTIONS if (ROOT / directory / "pyproject.toml").exists()]
    ours = {str(project(directory)["name"]): directory for directory in here}
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()

    def visit(directory: str, extras: frozenset[str]) -> None:
        if (directory, extras) in seen:
            return
        seen.add((directory, extras))
        table = project(directory)
        optional: dict[str, list[str]] = table.get("optional-dependencies", {})
        required: list[str] = list(table.get("dependencies", []))
        for extra in optional if every_extra else extras:
            required += optional[extra]
        for requirement in required:
            match = _REQUIREMENT.match(requirement)
            if match is None:
                raise SystemExit(f"{directory}/pyproject.toml: cannot read the requirement {requirement!r}")
            if match["name"] in ours:
                visit(ours[match["name"]], frozenset(filter(None, (match["extras"] or "").split(","))))
            else:
                found.add(requirement)

    for directory in directories:
        visit(directory, frozenset())
    return found, list(
        dict.fromkeys([*directories, *(directory for directory, _ in sorted(seen, key=lambda one: one[0]))])
    )


def main() -> None:
    """Print the requirements that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="*", help="distributions of ours; none: no distribution, only the groups")
    parser.add_argument("--all", action="store_true", help="every distribution of ours")
    parser.add_argument("--extras", action="store_true", help="with every optional extra")
    parser.add_argument("--own", action="store_true", help="not third parties': the directories of our distributions")
    parser.add_argument("--group", action="append", default=[], help="a dependency group of the root pyproject.toml")
    arguments = parser.parse_args()
    directories = DISTRIBUTIONS if arguments.all else tuple(arguments.directories)
    requirements, own = needed(directories, every_extra=arguments.extras)
    for group in arguments.group:
        groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
        requirements |= set(groups[group])
    print("\n".join(own if arguments.own else sorted(requirements)))


if __name__ == "__main__":
    main()
