"""What the pages for operators tell to type exists: commands, their options, make targets, and the pages they lead to."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from almagest_cli.__main__ import application

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs/operations").rglob("*.md")), ROOT / "docs/external-servers.md"]
ALMAGEST: Any = typer.main.get_command(application())
RUNBOOKS = ROOT / "docs/operations/runbooks"
_FENCED = re.compile(r"^ *```\w*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`", re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")


def commands(text: str) -> Iterator[list[str]]:
    """The words of everything that is to be typed."""
    lines = [line for block in _FENCED.findall(text) for line in block.splitlines()]
    lines += [one.replace("\n", " ") for one in _INLINE.findall(_FENCED.sub("", text))]
    for line in lines:
        said = line.partition(" # ")[0].strip().rstrip("&").replace("...", "ARGUMENT").replace("…", "")
        if said.startswith(("almagest ", "make ", "python -m ")):
            yield shlex.split(said)


def problem(words: list[str]) -> str | None:
    """What is wrong with a command."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return None if words[1] in targets else f"no make target {words[1]}"
    if words[0] == "python":
        module = words[2].replace(".", "/")
        package = next(iter(ROOT.glob(f"services/*/{module}/__main__.py")), None)
        if package is None:
            others = [*ROOT.glob(f"services/*/{module}.py"), *ROOT.glob(f"tests/*/{module}/__main__.py")]
            return None if words[2].startswith("<") or others else f"no service {words[2]}"
        known = {"migrate", "serve", *re.findall(r'"([a-z-]+)":', package.read_text(encoding="utf-8"))}
        return None if len(words) < 4 or words[3] in known else f"no command {words[3]} of {words[2]}"
    return _problem_of_ours(words[1:])


def _problem_of_ours(words: list[str]) -> str | None:
    command = ALMAGEST
    while words and hasattr(command, "commands"):
        found = command.commands.get(words[0])
        if found is None:
            return None if words[0] in {"ARGUMENT", "--help"} else f"no command {words[0]}"
        command, words = found, words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in {*options, "--help"}]
    return f"no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_tells_to_type_exists(page: Path) -> None:
    """Also its options; and what it links to is there."""
    text = page.read_text(encoding="utf-8")
    wrong = {" ".join(words): said for words in commands(text) if (said := problem(words))}
    assert wrong == {}
    away = [target for target, _ in _LINK.findall(text) if target and not (page.parent / target).exists()]
    assert away == []


def test_each_alert_has_its_runbook() -> None:
    """And each page is in the table."""
    rules = (ROOT / "helm/almagest/templates/monitoring.yaml").read_text(encoding="utf-8")
    alerts = set(re.findall(r"alert: (\w+)", rules))
    assert len(alerts) > 5
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert {page for page in pages if page.startswith("Almagest")} == alerts
    assert {Path(target).stem for target, _ in _LINK.findall((RUNBOOKS / "README.md").read_text())} == pages


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("almagest backup mend x", "no command mend"),
        ("almagest log move --buckets 0-7 --into 2", "no option --into"),
        ("python -m event_store cat", "no command cat of event_store"),
        ("python -m events migrate", "no service events"),
        ("make nothing", "no make target nothing"),
    ],
)
def test_what_does_not_exist_is_found(line: str, said: str) -> None:
    """The test can fail."""
    [words] = commands(f"```\n{line}\n```")
    assert problem(words) == said
