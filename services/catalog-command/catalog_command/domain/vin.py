"""Vehicle Identification Numbers (ISO 3779).

The check digit in the ninth place is a rule of North America (49 CFR 565.15) and of China. European makers put what
they like there, so it is offered for information and never a reason to refuse.
"""

import re

from catalog_command.domain.errors import InvalidValue

_VIN = re.compile(r"[A-HJ-NPR-Z0-9]{17}", re.ASCII)
_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_VALUES = {str(digit): digit for digit in range(10)} | dict(
    zip("ABCDEFGHJKLMNPRSTUVWXYZ", (1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 7, 9, 2, 3, 4, 5, 6, 7, 8, 9), strict=True)
)


def vin(text: str) -> str:
    """A VIN in capital letters, or nothing.

    Raises:
        InvalidValue: It is none.
    """
    if not text:
        return text
    capital = text.upper()
    if _VIN.fullmatch(capital) is None:
        raise InvalidValue("must be 17 letters and digits without I, O and Q, or empty")
    return capital


def has_check_digit(valid_vin: str) -> bool:
    """Whether the ninth place is the check digit of the rest."""
    remainder = sum(_VALUES[letter] * weight for letter, weight in zip(valid_vin, _WEIGHTS, strict=True)) % 11
    return valid_vin[8] == ("X" if remainder == 10 else str(remainder))  # noqa: PLR2004 - the X of the rule stands for ten
