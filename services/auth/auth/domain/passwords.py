"""What a new password must be like.

Length is most of it. What is left are passwords that are long and yet among the first that anybody tries: those of the
lists that attackers work through, which an adapter knows, and those that this module sees: a person's own words, the
words of this system, and few characters again and again (NIST SP 800-63B, 3.1.1.2; ASVS 6.1.2, 6.2.11). Nothing is
asked of kinds of characters: such rules make worse passwords. A password that was good when it was chosen stays good,
so nothing of this is asked at log-in.
"""

import re
import unicodedata
from collections.abc import Iterable

from auth.domain.concealed import Password

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 128
OF_THIS_SYSTEM = frozenset(
    {"almagest", "catalog", "gateway", "product", "editor", "viewer", "admin", "password", "passwort", "welcome"}
)
"""Words that suggest themselves to whoever has to think of a password here."""
_FEWEST_CHARACTERS = 5
_FEWEST_LEFT = 8
_FEW = f"must have {_FEWEST_CHARACTERS} different characters"
_OWN = (
    "must be more than names, the e-mail address, or words of this system: "
    f"{_FEWEST_LEFT} characters besides, of which {_FEWEST_CHARACTERS} differ"
)
_SHORTEST_WORD = 3


def acceptable_password(text: str) -> Password:
    """The password, normalised so that it is the same from every keyboard (NIST SP 800-63B, 3.1.1.2).

    Raises:
        ValueError: it is too short or too long.
    """
    password = unicodedata.normalize("NFKC", text)
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ValueError(f"must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    return Password(password)


def new_password(text: str, *, own: Iterable[str]) -> Password:
    """A password that somebody is to have from now on.

    Args:
        text: as it was typed.
        own: what anybody knows of the person: their names, their e-mail address.

    Raises:
        ValueError: it is too short or too long, or too easy to think of.
    """
    password = acceptable_password(text)
    folded = _folded(password.reveal())
    if len(set(folded)) < _FEWEST_CHARACTERS:
        raise ValueError(_FEW)
    words = OF_THIS_SYSTEM.union(*(_words(each) for each in own))
    # The longest first, so that what is left of one is not taken for part of another.
    for word in sorted(words, key=len, reverse=True):
        folded = folded.replace(word, " ")
    left = "".join(folded.split())
    if len(left) < _FEWEST_LEFT or len(set(left)) < _FEWEST_CHARACTERS:
        raise ValueError(_OWN)
    return password


def _words(text: str) -> set[str]:
    """The parts of a name or an address that are long enough to be recognised."""
    return {word for word in re.split(r"[\W_]+", _folded(text)) if len(word) >= _SHORTEST_WORD}


def _folded(text: str) -> str:
    """Without case and accents, as somebody who guesses would write it."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))
