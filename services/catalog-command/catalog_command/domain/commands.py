"""What can be asked of a product. A command is made of checked values only, so a decision never meets a wrong one."""

from dataclasses import dataclass

from catalog_command.domain.description import Description
from catalog_command.domain.money import Money


@dataclass(frozen=True, slots=True)
class CreateProduct:
    """Bring a product into being."""

    product_id: str
    sku: str
    description: Description


@dataclass(frozen=True, slots=True)
class DescribeProduct:
    """Replace its description."""

    description: Description


@dataclass(frozen=True, slots=True)
class PutProduct:
    """Create it, or replace its description when it exists."""

    product_id: str
    sku: str
    description: Description


@dataclass(frozen=True, slots=True)
class SetPrice:
    """Set its price."""

    price: Money


@dataclass(frozen=True, slots=True)
class PublishProduct:
    """Let the public see it."""


@dataclass(frozen=True, slots=True)
class UnpublishProduct:
    """Hide it from the public."""


@dataclass(frozen=True, slots=True)
class DiscontinueProduct:
    """End it."""

    reason: str


ProductCommand = (
    CreateProduct | DescribeProduct | PutProduct | SetPrice | PublishProduct | UnpublishProduct | DiscontinueProduct
)
