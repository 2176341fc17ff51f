"""Global Trade Item Numbers (GS1 General Specifications, section 7.9: the check digit)."""

import re

from catalog_command.domain.errors import InvalidValue

_GTIN = re.compile(r"[0-9]{8}|[0-9]{12,14}", re.ASCII)


def check_digit(digits: str) -> int:
    """The check digit that follows some digits: weights 3 and 1 by turns, from the right."""
    total = sum(int(digit) * (1 if index % 2 else 3) for index, digit in enumerate(reversed(digits)))
    return -total % 10


def gtin(text: str) -> str:
    """A GTIN-8, -12, -13 or -14, or nothing.

    Raises:
        InvalidValue: It is none, or its check digit is wrong.
    """
    if not text:
        return text
    if _GTIN.fullmatch(text) is None:
        raise InvalidValue("must be 8, 12, 13 or 14 digits, or empty")
    expected = check_digit(text[:-1])
    if int(text[-1]) != expected:
        raise InvalidValue(f"must end in its check digit, which is {expected}")
    return text
