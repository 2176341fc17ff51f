"""Where an identity comes from: a protocol, so that services know no vendor."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from chassis.identity.spiffe import SpiffeId


@dataclass(frozen=True, slots=True)
class Identity:
    """An X.509-SVID: what proves who this process is, and whom it believes. PEM throughout."""

    spiffe_id: SpiffeId
    certificate_chain: bytes
    private_key: bytes = field(repr=False)
    trust_bundle: bytes
    not_before: datetime
    not_after: datetime
    serial: int
    issuer: str = ""
    """The common name of the authority that signed it."""


class IdentitySource(Protocol):
    """Gives the present identity, and tells when another takes its place."""

    def current(self) -> Identity:
        """The identity as of now."""
        ...

    def refresh(self) -> bool:
        """Look now whether there is another; answers whether there was."""
        ...

    def subscribe(self, callback: Callable[[Identity], None]) -> Callable[[], None]:
        """Have each later identity told to `callback`, on the event loop. Answers what ends it."""
        ...


class WatchedIdentity(IdentitySource, Protocol):
    """A source that looks after itself."""

    async def watch(self, interval: float) -> None:
        """Take up what changes, within about `interval` seconds; never returns."""
        ...

    def close(self) -> None:
        """Take up nothing any more."""
        ...
