"""The identity in use, and who must be told of another: what every source has in common."""

import hashlib
from collections.abc import Callable

import structlog
from prometheus_client import Counter, Gauge

from chassis.identity.source import Identity

_logger = structlog.stdlib.get_logger(__name__)
_expiry = Gauge("almagest_identity_expiry_timestamp_seconds", "When the certificate in use expires.")
_info = Gauge(
    "almagest_identity_info",
    "1 for the certificate in use: the SHA-256 of the trust bundle, who signed it, its serial number in hexadecimal.",
    ("bundle", "issuer", "serial"),
)
_rotations = Counter("almagest_identity_rotations_total", "Certificates taken into use after the first.")
refusals = Counter("almagest_identity_refusals_total", "Changed certificates that were not taken into use.")


class PresentIdentity:
    """Holds the identity in use."""

    def __init__(self, identity: Identity) -> None:
        self._current = identity
        self._subscribers: list[Callable[[Identity], None]] = []
        self._show()

    def current(self) -> Identity:
        """The identity as of now."""
        return self._current

    def refresh(self) -> bool:
        """Nothing to look at: others are told to us."""
        return False

    def subscribe(self, callback: Callable[[Identity], None]) -> Callable[[], None]:
        """Have each later identity told to `callback`, on the event loop. Answers what ends it."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback) if callback in self._subscribers else None

    def take(self, identity: Identity) -> bool:
        """Take an identity into use, on the event loop; answers whether it was another one."""
        if identity == self._current:
            return False
        self._current = identity
        self._show()
        _rotations.inc()
        _logger.info("identity rotated", spiffe_id=str(identity.spiffe_id), not_after=identity.not_after.isoformat())
        for callback in list(self._subscribers):
            callback(identity)
        return True

    def _show(self) -> None:
        identity = self._current
        _expiry.set(identity.not_after.timestamp())
        _info.clear()
        bundle = hashlib.sha256(identity.trust_bundle).hexdigest()
        _info.labels(bundle, identity.issuer, f"{identity.serial:x}").set(1)
