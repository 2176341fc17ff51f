"""Write docs/configuration.md from the settings classes, or with --check say whether it is up to date.

Read as source, not imported: the sentences stand as strings below the fields, where Python forgets them. A setting
without a sentence is refused.
"""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "configuration.md"
CHASSIS = ROOT / "services" / "chassis" / "chassis" / "settings.py"
SERVICES = ("gateway", "auth", "catalog-command", "catalog-query", "event-store", "worker")

INTRODUCTION = """# Configuration

What each process is told by its environment. This page is written by `make docs` from the settings classes; a wrong
value is refused at start, by name. Lists are JSON. `almagest up` sets what has no default.

"""


@dataclass(frozen=True)
class Setting:
    """One environment variable."""

    variable: str
    type: str
    default: str
    sentence: str


def settings_in(path: Path, class_name: str) -> list[Setting]:
    """The settings that a class declares itself."""
    module = ast.parse(path.read_text())
    declared = next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    found: list[Setting] = []
    for node, following in zip(declared.body, [*declared.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)):
            raise SystemExit(f"{path.relative_to(ROOT)}: {node.target.id} has no sentence below it")
        variable, default = _variable_and_default(node)
        sentence = " ".join(str(following.value.value).split())
        found.append(Setting(variable, ast.unparse(node.annotation), default, sentence))
    return found


def _variable_and_default(node: ast.AnnAssign) -> tuple[str, str]:
    name = node.target.id.upper() if isinstance(node.target, ast.Name) else ""
    variable, default = f"ALMAGEST_{name}", node.value
    if isinstance(default, ast.Call):
        keywords = {keyword.arg: keyword.value for keyword in default.keywords}
        alias = keywords.get("validation_alias")
        if isinstance(alias, ast.Constant):
            variable = str(alias.value)
        default = keywords.get("default") or (default.args[0] if default.args else None)
    if default is None:
        return variable, "required"
    text = ast.unparse(default)
    return variable, "none" if text == "None" else f"`{text}`"


def _table(settings: list[Setting]) -> str:
    rows: list[str] = []
    for setting in settings:
        escaped = setting.type.replace("|", "\\|")
        rows.append(f"| `{setting.variable}` | `{escaped}` | {setting.default} | {setting.sentence} |")
    return "\n".join(["| variable | type | default | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n\n"


def page() -> str:
    """The page as the code now stands."""
    text = INTRODUCTION
    text += "## Every process\n\n" + _table(settings_in(CHASSIS, "ServiceSettings"))
    text += "## Every process with databases\n\nauth, event-store, catalog-query and worker.\n\n"
    text += _table(settings_in(CHASSIS, "DatabaseSettings"))
    for service in SERVICES:
        path = ROOT / "services" / service / service.replace("-", "_") / "settings.py"
        own = settings_in(path, "Settings")
        text += f"## {service}\n\n" + (_table(own) if own else "Nothing of its own.\n\n")
    return text.rstrip() + "\n"


def main() -> None:
    """Write, or check."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        raise SystemExit("docs/configuration.md is out of date, run `make docs`")


if __name__ == "__main__":
    main()
