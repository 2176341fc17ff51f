"""The pages under docs/ lead somewhere: every link, every path that they name, and every decision in the table."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
ADRS = ROOT / "docs" / "adr"
_CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)\s]*)\)")
_PATH = re.compile(r"`((?:benchmarks|cli|docs|protos|services|tests|tools|helm|k8s|tilt)/[\w./-]*[\w/])(?:::\w+)?`")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _anchors(page: Path) -> set[str]:
    """What a link may name in a page, as GitHub makes it of the headings."""
    headings = _HEADING.findall(_CODE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _broken(page: Path) -> list[str]:
    """The links and paths of a page that lead nowhere."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    broken = [f"`{path}`" for path in _PATH.findall(text) if not (ROOT / path).exists()]
    for link in _LINK.findall(text):
        where, _, anchor = unquote(link).partition("#")
        target = (page.parent / where).resolve() if where else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_what_a_page_leads_to_exists(page: Path) -> None:
    """Links within the repository, and paths in it that are written as code."""
    assert not _broken(page)


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    """The test above can fail: for a file, a heading and a path that are not there."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n[a](#one) [b](#two) [c](gone.md) [d](page.md) `services/nothing.py` [e](https://example.org)\n"
    )
    assert _broken(page) == ["`services/nothing.py`", "#two", "gone.md"]


def test_every_decision_has_its_row() -> None:
    """The table of docs/adr/README.md has each decision, in order, under its own title."""
    rows = re.findall(
        r"^\| \[(\d{4})\]\(([^)]+)\) \| (.*) \|$", (ADRS / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    wanted: list[tuple[str, str, str]] = []
    for page in sorted(ADRS.glob("[0-9]*.md")):
        title = page.read_text(encoding="utf-8").splitlines()[0]
        wanted.append((page.name[:4], page.name, re.sub(r"^# \d+\. ", "", title)))
    assert rows == wanted
