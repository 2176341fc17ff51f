"""What docs/reliability.md and docs/security.md say of tests is true: each test that they name is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    page: set(re.findall(r"`([\w./-]+\.py)::(\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8")))
    for page in ("reliability.md", "security.md")
}
NAMED = sorted(set[tuple[str, str]]().union(*PAGES.values()))


def test_the_pages_name_tests():
    """It would hold of empty pages, too."""
    assert all(len(named) > 50 for named in PAGES.values())


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[f"{Path(file).stem} {name}" for file, name in NAMED])
def test_a_test_that_the_page_names_exists(file: str, name: str) -> None:
    """A guarantee whose test was renamed or deleted is noticed."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions
