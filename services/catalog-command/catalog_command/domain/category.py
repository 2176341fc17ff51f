"""Where a product is filed: a path such as `vehicles/suv`."""

import re

from catalog_command.domain.errors import InvalidValue

MAXIMUM_LENGTH = 200
MAXIMUM_DEPTH = 8

_SLUG = "[a-z0-9]+(?:-[a-z0-9]+)*"
_PATH = re.compile(f"{_SLUG}(?:/{_SLUG})*", re.ASCII)


def category(text: str) -> str:
    """A category path, or nothing: a product may be filed later.

    Raises:
        InvalidValue: It is none.
    """
    if not text:
        return text
    if len(text) > MAXIMUM_LENGTH or text.count("/") >= MAXIMUM_DEPTH or _PATH.fullmatch(text) is None:
        raise InvalidValue(
            f"must be up to {MAXIMUM_DEPTH} lower-case names of letters, digits and single hyphens, joined by '/', "
            f"together at most {MAXIMUM_LENGTH} characters, for example vehicles/suv; or empty"
        )
    return text
