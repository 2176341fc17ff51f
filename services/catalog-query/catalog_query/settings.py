"""Settings of catalog-query."""

from chassis.settings import DatabaseSettings
from pydantic import Field


class Settings(DatabaseSettings):
    """What catalog-query is told by its environment, beyond what every service is."""

    projection_batch_events: int = Field(default=1_000, ge=1)
    """Events that are put into one transaction, about."""
    projection_cached_documents: int = Field(default=4_000, ge=0)
    """Folded documents that each projector remembers."""
    projection_lease_seconds: float = Field(default=6.0, gt=0)
    """For how long a silent replica is taken to be alive by those that wait to take over."""
    projection_look_seconds: float = Field(default=1.0, gt=0)
    """How often to look which generations there are, which of them is read, and how the log is cut."""
    rebuild_batch_events: int = Field(default=20_000, ge=1)
    """The same as `projection_batch_events`, while a generation is filled that nobody reads yet, or what is read is
    more than five such steps behind the log.
    """
    rebuild_cached_documents: int = Field(default=50_000, ge=0)
    """The same as `projection_cached_documents`, for products and versions each, while the steps are large."""
    drift_products_a_second: float = Field(default=1.0, ge=0)
    """Products whose rows or versions each replica compares with the log, drawn at random, for ever; 0: none."""
    maximum_wait_seconds: float = Field(default=10.0, gt=0)
    """The longest that a read waits for a consistency token, however much time it has."""
    page_bytes: int = Field(default=2 * 1024 * 1024, ge=64 * 1024)
    """A page ends early when it grows beyond this."""
    search_connections: int = Field(default=4, ge=1)
    """Connections per shard for lists and searches, beside those of `pool_size` for reads by id and the projection."""
    changes_cached_products: int = Field(default=10_000, ge=200)
    """Products that the end of the change feed remembers, so that what an event changed need not be looked up."""
    changes_retained: int = Field(default=4_000, ge=1)
    """Changes that are kept ready for those who follow the change feed; who is further behind reads the log."""
    changes_retained_bytes: int = Field(default=8 * 1024 * 1024, ge=64 * 1024)
    """Bytes of such changes."""
    versions_cached_products: int = Field(default=2_000, ge=0)
    """Products whose latest version each projector of versions remembers."""
