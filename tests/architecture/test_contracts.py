"""The import contracts can fail: each one is broken once, in a copy of the tree, and must be named by the linter.

An architecture test that asserts on the wrong package holds for ever and guards nothing; that has happened in a well-known showcase, in five modules.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}
# For each contract: the module that goes wrong, and the import that it must not have.
SABOTAGE = {
    "services": ("services/catalog-query/catalog_query/bootstrap.py", "import event_store.settings"),
    "chassis": ("services/chassis/chassis/buckets.py", "import almagest.catalog.v1.query_pb2"),
    "language": ("services/catalog-events/catalog_events/language.py", "import chassis.errors"),
    "domain": ("services/catalog-command/catalog_command/domain/product.py", "import asyncpg"),
    "application": (
        "services/catalog-command/catalog_command/application/__init__.py",
        "import catalog_command.adapters.event_store",
    ),
    "projections": ("services/catalog-query/catalog_query/projections/product.py", "import asyncpg"),
    "door": ("services/gateway/gateway/settings.py", "import chassis.database.pool"),
    "composition": ("services/worker/worker/entrypoints/__init__.py", "import worker.bootstrap"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for directory in ("protos/gen", "services", "cli"):
        shutil.copytree(
            ROOT / directory, copy / directory, ignore=shutil.ignore_patterns("__pycache__", "tests", "*.egg-info")
        )
    return copy


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run the linter over a tree, which must be found before the installed one."""
    sources = [tree / "protos" / "gen", tree / "cli", *sorted((tree / "services").iterdir())]
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources)), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tree_as_it_stands_keeps_every_contract(tree: Path) -> None:
    """Without sabotage the copy passes, so that the failures below are due to the sabotage."""
    result = lint(tree)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_contract_is_broken_once() -> None:
    """A contract without its sabotage here might be one that cannot fail."""
    assert SABOTAGE.keys() == CONTRACTS.keys()


@pytest.mark.parametrize("contract", sorted(SABOTAGE))
def test_a_planted_import_breaks_its_contract(tree: Path, contract: str) -> None:
    """The linter fails, and says which sentence no longer holds."""
    path, planted = SABOTAGE[contract]
    module = tree / path
    original = module.read_text()
    module.write_text(f"{original}\n{planted}\n")
    try:
        result = lint(tree)
    finally:
        module.write_text(original)
    assert result.returncode != 0
    assert f"{CONTRACTS[contract]} BROKEN" in result.stdout
