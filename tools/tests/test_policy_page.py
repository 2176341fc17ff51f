"""The page of policies says what the services start with, and is refused when it would lie."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from chassis.policy import Person, Rule, methods_of
from google.protobuf import descriptor_pool

TOOLS = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tool(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("policy_page")


def test_every_rpc_of_every_service_has_its_line(tool: ModuleType) -> None:
    """What the protos define and a service serves stands on the page, with who may call it."""
    text = tool.page(tool.policies())
    pool = descriptor_pool.Default()
    served = {path.lstrip("/").partition("/")[0] for policy in tool.policies().values() for path in policy}
    for name in served:
        section = text.partition(f"`{name}`\n")[2].partition("\n`")[0]
        for method in methods_of(pool.FindServiceByName(name)):
            assert f"| {method.rpartition('/')[2]} | " in section, method


def test_a_row_says_who_may_call_for_whom(tool: ModuleType) -> None:
    """One column a workload, everybody where all may, the person and the scopes."""
    rule = Rule(callers=frozenset({"worker"}), person=Person.REQUIRED, scopes=frozenset({"b:read", "a:read"}))
    row = next(line for line in tool.page({"auth": {"/x.Y/Z": rule}}).splitlines() if line.startswith("| Z |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:8] == ["", "", "", "", "", "yes", ""]
    assert cells[8:] == ["required", "`a:read`, `b:read`", "the caller"]
    assert "| Check | yes | yes | yes | yes | yes | yes | yes | none |" in tool.page({})


def test_a_rule_for_a_caller_that_there_is_not_is_refused(tool: ModuleType) -> None:
    """A misspelt caller is nobody, and its rule was meant for somebody."""
    with pytest.raises(SystemExit, match="catalogue-query"):
        tool.page({"auth": {"/x.Y/Z": Rule(callers=frozenset({"catalogue-query"}))}})
