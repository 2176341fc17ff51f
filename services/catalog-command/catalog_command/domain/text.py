"""Words of people, made comparable.

Text is normalised to NFC when it comes in, so that the same word typed on two keyboards is one word: for the check
whether anything changed, for search, and for whoever reads the log in ten years. White space around a line is cut
off, since spreadsheets leave it there and nobody means it. Control characters are refused rather than dropped: they
come from a broken export, and the person should hear of it. So are the marks that reverse the direction of what
follows (Unicode TR 36), with which a name can be made to show as another.
"""

import re
import unicodedata

from catalog_command.domain.errors import InvalidValue

_NOT_IN_PROSE = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff"
_REFUSED_IN_PROSE = re.compile(f"[{_NOT_IN_PROSE}]")
_REFUSED_IN_LINE = re.compile(f"[{_NOT_IN_PROSE}\t\n\u2028\u2029]")


def line(text: str, *, minimum: int = 0, maximum: int) -> str:
    """A single line of `minimum` to `maximum` characters.

    Raises:
        InvalidValue: It is shorter or longer, or has control characters.
    """
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFC", text)
        if _REFUSED_IN_LINE.search(text):
            raise InvalidValue("must be one line, without control characters")
    text = text.strip()
    if not minimum <= len(text) <= maximum:
        raise InvalidValue(
            f"must have {minimum} to {maximum} characters" if minimum else f"must have at most {maximum} characters"
        )
    return text


def prose(text: str, *, maximum: int) -> str:
    """A text of at most `maximum` characters, in which tabs and line breaks are welcome; a break is one line feed.

    Raises:
        InvalidValue: It is longer, or has other control characters.
    """
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFC", text.replace("\r\n", "\n"))
        if _REFUSED_IN_PROSE.search(text):
            raise InvalidValue("must not have control characters other than tabs and line breaks")
    if len(text) > maximum:
        raise InvalidValue(f"must have at most {maximum} characters")
    return text
