"""What this process is told by its environment."""

from chassis.settings import ServiceSettings
from pydantic import Field


class Settings(ServiceSettings):
    """Settings of catalog-command, which owns no database."""

    maximum_items: int = Field(default=256, ge=1)
    """The most items of one request."""
    known_products: int = Field(default=20_000, ge=1)
    """How many products' states are remembered, at about one kilobyte each."""
    appends_in_flight: int = Field(default=2, ge=1)
    """How many append calls run at once; what comes meanwhile travels together in the next."""
