"""What docs/reliability.md says of tests is true: each test that it names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = sorted(
    set(re.findall(r"`([\w./-]+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")))
)


def test_the_page_names_tests():
    """It would hold of an empty page, too."""
    assert len(NAMED) > 50


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[f"{Path(file).stem} {name}" for file, name in NAMED])
def test_a_test_that_the_page_names_exists(file: str, name: str) -> None:
    """A guarantee whose test was renamed or deleted is noticed."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions
