"""Who is at the other end of a connection, from the certificate that TLS has verified.

TLS proves an identity at the handshake only: a connection outlives the certificate it was opened with. So the
certificate is looked at again on each call. Reading it takes 100 microseconds, so what it says is remembered by its
bytes.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509

from chassis.errors import Unauthenticated
from chassis.identity.certificate import InvalidIdentity, spiffe_id_of
from chassis.identity.denials import DenyList
from chassis.identity.spiffe import SpiffeId

_CACHE_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Peer:
    """A workload at the other end, and until when its certificate proves it."""

    spiffe_id: SpiffeId
    serial: int
    expires_at: float


class Peers:
    """Reads peers from the authentication context of calls."""

    def __init__(self, denials: DenyList) -> None:
        self._denials = denials
        self._by_certificate: dict[bytes, Peer] = {}

    def identify(self, auth_context: Mapping[str, Iterable[bytes]]) -> Peer:
        """The caller.

        Raises:
            Unauthenticated: There is no certificate, it is not that of one workload, it has expired, or it is denied.
        """
        peer = self._of(auth_context)
        if peer.expires_at <= time.time():
            raise expired()
        if self._denials.denies(peer.spiffe_id, peer.serial):
            raise denied()
        return peer

    def name(self, auth_context: Mapping[str, Iterable[bytes]]) -> str:
        """The SPIFFE id of a caller, whether it is still believed or not; empty: it has none."""
        try:
            return str(self._of(auth_context).spiffe_id)
        except Unauthenticated:
            return ""

    def _of(self, auth_context: Mapping[str, Iterable[bytes]]) -> Peer:
        certificate = next(iter(auth_context.get("x509_pem_cert", ())), None)
        if certificate is None:
            raise Unauthenticated("The caller has shown no certificate.", reason="CALLER_UNKNOWN")
        peer = self._by_certificate.get(certificate)
        if peer is None:
            peer = _read(certificate)
            if len(self._by_certificate) >= _CACHE_SIZE:
                self._by_certificate.clear()
            self._by_certificate[certificate] = peer
        return peer


def expired() -> Unauthenticated:
    """What a caller is told whose certificate is good no more."""
    return Unauthenticated("The certificate of the caller has expired since it connected.", reason="CALLER_EXPIRED")


def denied() -> Unauthenticated:
    """What a caller is told who stands on the deny list."""
    return Unauthenticated("The calling workload is denied.", reason="CALLER_DENIED")


def _read(pem: bytes) -> Peer:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        spiffe_id = spiffe_id_of(certificate)
    except (InvalidIdentity, ValueError) as error:
        raise Unauthenticated(
            "The certificate of the caller is not that of one workload.", reason="CALLER_INVALID"
        ) from error
    return Peer(spiffe_id, certificate.serial_number, certificate.not_valid_after_utc.timestamp())
