"""What the catalog refuses, by name."""

from collections.abc import Sequence

Violation = tuple[str, str]
"""The path of a wrong field, and what is wrong with it and would be right."""


class InvalidValue(ValueError):
    """One value is not what it should be; the message says what would be right."""


class DomainError(Exception):
    """A command that the domain refuses, whatever else the system does.

    Attributes:
        command: which command of the item was refused, from 0; None when it is not one of them alone.
    """

    command: int | None = None


class InvalidCommand(DomainError):
    """The command is wrong in itself, in whatever state the product is."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        more = len(self.violations) - 1
        first = ": ".join(filter(None, self.violations[0]))
        super().__init__(first + (f" (and {more} more)" if more else ""))


class ProductNotFound(DomainError):
    """There is no such product."""

    def __init__(self) -> None:
        super().__init__("There is no product with this id.")


class ProductAlreadyExists(DomainError):
    """A creation met another product with the same SKU."""

    def __init__(self, sku: str) -> None:
        self.sku = sku
        super().__init__(f"A product with the SKU {sku} exists and is described differently.")


class ProductDiscontinued(DomainError):
    """Nothing about a discontinued product changes any more."""

    def __init__(self) -> None:
        super().__init__("The product is discontinued; nothing about it can change.")


class KindChanged(DomainError):
    """A description would turn a product into another kind."""

    def __init__(self, *, kind: str, asked: str) -> None:
        self.kind = kind
        self.asked = asked
        super().__init__(f"The product is of the kind {kind}, which never changes; asked was {asked}.")


class PriceMissing(DomainError):
    """A product without a price was to be published."""

    def __init__(self) -> None:
        super().__init__("The product has no price; set one before it is published.")
