"""Stock keeping units: the natural key of a product, and where its id comes from."""

import re
import uuid

from catalog_command.domain.errors import InvalidValue

NAMESPACE = uuid.UUID("6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11")
"""The namespace of product ids. It is part of the storage format."""

_SKU = re.compile(r"[A-Za-z0-9._/-]{1,64}", re.ASCII)


def sku(text: str) -> str:
    """A SKU, as it is: case counts.

    Raises:
        InvalidValue: It is none.
    """
    if _SKU.fullmatch(text) is None:
        raise InvalidValue("must be 1 to 64 characters out of letters, digits, '.', '_', '-' and '/'")
    return text


def product_id(valid_sku: str) -> uuid.UUID:
    """The id of the product with a SKU. One stream per SKU makes its uniqueness a revision check."""
    return uuid.uuid5(NAMESPACE, valid_sku)
