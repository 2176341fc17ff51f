"""Words, as the search knows them: the same rule for what is stored and for what is asked.

Postgres' own parser would split `F-150` into `f` and `-150`, keep `x-trail` and its parts, and see numbers, hosts and
paths in part names; what is asked with its last word unfinished would then often not match what is stored. So the words
are made here and handed to Postgres as a ready `tsvector` and `tsquery`; otherwise the rule is that of its `simple`
configuration: no stemming, no stop words, no language.
"""

import re
import unicodedata
from typing import Final

LONGEST_WORD: Final = 64
"""Characters; what is longer is cut, on both sides."""

MOST_POSITIONS: Final = 2_000
"""Words of one document that are indexed: Postgres takes positions up to 16,383, a text has 10,000 characters."""

_WORD: Final = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The words of a text, in order: runs of letters and digits, without case and accents."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.casefold())
        text = "".join(character for character in decomposed if not unicodedata.combining(character))
    return [word[:LONGEST_WORD] for word in _WORD.findall(text.casefold())]


def vector(*, important: str, other: str) -> str:
    """A Postgres `tsvector` in its text form: words of `important` with weight A, words of `other` with the default
    weight.
    """
    places: dict[str, str] = {}
    position = 0
    for weight, text in (("A", important), ("", other)):
        for word in words(text):
            position += 1
            if position > MOST_POSITIONS:
                break
            place = f"{position}{weight}"
            places[word] = f"{places[word]},{place}" if word in places else place
    return " ".join([f"'{word}':{place}" for word, place in places.items()])


def query(text: str) -> str:
    """A Postgres `tsquery` in its text form: every word, the last one as the beginning of a word. Empty when the
    text has no word.
    """
    found = list(dict.fromkeys(words(text)))
    return " & ".join([*(f"'{word}'" for word in found[:-1]), *(f"'{word}':*" for word in found[-1:])])
