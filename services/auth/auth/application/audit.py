"""What the use cases say of themselves, in the transaction of the act: both are there, or neither is."""

from typing import Protocol
from uuid import UUID

from auth.domain.audit import Entry, Event


class Audit(Protocol):
    """Where the audit is kept."""

    async def entry(self, event: Event, *, of: UUID, **origin: str) -> Entry:
        """What is to be written, in the transaction of the act, about a subject. Who acts, and from where, is that of
        the present call; `origin` is what else is known of it. Not to be called inside a transaction.
        """
        ...

    async def record(self, event: Event, *, of: UUID, **origin: str) -> None:
        """Write it in a transaction of its own: for what was only tried."""
        ...
