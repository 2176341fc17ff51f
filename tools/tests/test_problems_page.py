"""The page of problems knows every reason of the code, and only those."""

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tool(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("problems_page")


@pytest.fixture(scope="module")
def whole(tool: ModuleType) -> Any:
    return tool.found_in(tool.ROOT)


@pytest.fixture
def found(whole: Any) -> Any:
    return copy.deepcopy(whole)


@pytest.fixture
def sentences() -> dict[str, Any]:
    return tomllib.loads((TOOLS / "problems.toml").read_text(encoding="utf-8"))


def test_the_statuses_are_those_of_the_gateway(tool, sentences, found):
    """From a table, from a raise with a reason, from a helper, from the door itself, and for two kinds of requests."""
    text = tool.page(found, sentences)
    for expected in (
        "## email-taken\n\n`EMAIL_TAKEN`, 409. ",
        "## database-slow\n\n`DATABASE_SLOW`, 504. ",
        "## token-expired\n\n`TOKEN_EXPIRED`, 401. ",
        "## headers-too-large\n\n`HEADERS_TOO_LARGE`, 431. ",
        "## limit-exceeded\n\n`LIMIT_EXCEEDED`, 422. ",
        "## product-not-found\n\n`PRODUCT_NOT_FOUND`, 404 or 412. ",
        "## internal\n\n`INTERNAL`, 500. ",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("kind", "reason"), [("problems", "EMAIL_TAKEN"), ("reports", "ROW_REFUSED"), ("inside", "UNKNOWN_SHARD")]
)
def test_a_reason_without_a_sentence_is_refused(tool, sentences, found, kind, reason):
    """Whoever adds a reason writes what to do about it."""
    fewer = copy.deepcopy(sentences)
    del fewer[kind][reason]
    with pytest.raises(SystemExit, match=f"no sentence about {reason}"):
        tool.page(found, fewer)


def test_a_reason_that_is_only_raised_somewhere_is_found(tool, sentences, found, tmp_path):
    """Not only the tables are looked at."""
    (tmp_path / "planted.py").write_text('raise Unavailable("Gone.", reason="MOON_HAS_SET")\n', encoding="utf-8")
    found.look_at_source(tmp_path)
    with pytest.raises(SystemExit, match="no sentence about MOON_HAS_SET"):
        tool.page(found, sentences)
    sentences["problems"]["MOON_HAS_SET"] = {"what": "The moon has set.", "do": "Wait."}
    assert "`MOON_HAS_SET`, 503. The moon has set." in tool.page(found, sentences)


def test_a_sentence_about_nothing_and_a_reason_that_no_client_sees_are_refused(tool, sentences, found):
    """The page does not outlive the code, nor promise what cannot come."""
    more = copy.deepcopy(sentences)
    more["problems"]["PAST_GLORY"] = {"what": "It was.", "do": "Remember."}
    with pytest.raises(SystemExit, match="PAST_GLORY, which the code does not know"):
        tool.page(found, more)
    sentences["problems"]["ROW_INVALID"] = {"what": "A row.", "do": "Look."}
    del sentences["reports"]["ROW_INVALID"]
    with pytest.raises(SystemExit, match="ROW_INVALID: no status"):
        tool.page(found, sentences)
