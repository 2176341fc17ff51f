"""An identity read from the files that cert-manager, SPIRE's helper or the local authority writes, and read again when
they change.

The three files are not replaced in one step by every writer. So a new set is taken only when it is whole: the key
belongs to the certificate and all rules hold. Until then the old identity stays in use, which is right as long as it
has not expired, and is said in the log and in a metric when it is not.
"""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from chassis.identity.certificate import InvalidIdentity, spiffe_id_of
from chassis.identity.present import PresentIdentity, refusals
from chassis.identity.source import Identity

_logger = structlog.stdlib.get_logger(__name__)

_FILES = ("tls.crt", "tls.key", "ca.crt")
_Signature = tuple[tuple[int, int, int], ...]


class FileIdentitySource(PresentIdentity):
    """The identity in a directory of `tls.crt` (leaf first), `tls.key` (PKCS#8) and `ca.crt`."""

    def __init__(self, directory: Path, trust_domain: str, *, service: str | None = None) -> None:
        """Read the directory, for `service` when given: another one's certificate is refused.

        Raises:
            InvalidIdentity: The files are missing, or do not hold a valid identity of the trust domain.
        """
        self.directory = directory
        self._trust_domain = trust_domain
        self._service = service
        self._seen = self._signature()
        self._refused: _Signature | None = None
        super().__init__(self._read())

    async def watch(self, interval: float = 1.0) -> None:
        """Look every `interval` seconds whether the files have changed; never returns."""
        while True:
            await asyncio.sleep(interval)
            self.refresh()

    def refresh(self) -> bool:
        """Take the files into use if they have changed and are whole; answers whether they were."""
        signature = self._signature()
        if signature == self._seen:
            return False
        try:
            identity = self._read()
        except InvalidIdentity as error:
            # The signature is not taken for seen: a half-written set is looked at again until it is whole. One that is
            # still the same at the next look is not just being written.
            if signature == self._refused:
                refusals.inc()
                _logger.warning("changed identity files are not used", problem=str(error))
            self._refused = signature
            return False
        self._seen = signature
        return self.take(identity)

    def close(self) -> None:
        """Nothing to end: files are read by whoever watches."""

    def _signature(self) -> _Signature:
        try:
            return tuple(
                (status.st_ino, status.st_mtime_ns, status.st_size)
                for status in ((self.directory / name).stat() for name in _FILES)
            )
        except OSError:
            return ()

    def _read(self) -> Identity:
        try:
            chain, key, bundle = ((self.directory / name).read_bytes() for name in _FILES)
        except OSError as error:
            raise InvalidIdentity(f"{error.filename}: {error.strerror}") from error
        return read_identity(chain, key, bundle, trust_domain=self._trust_domain, service=self._service)


def read_identity(
    chain: bytes, key: bytes, bundle: bytes, *, trust_domain: str, service: str | None = None
) -> Identity:
    """The identity that a chain, a key and a bundle (PEM) make together.

    Raises:
        InvalidIdentity: They do not.
    """
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        private_key = serialization.load_pem_private_key(key, password=None)
        x509.load_pem_x509_certificates(bundle)
    except (ValueError, TypeError) as error:
        raise InvalidIdentity("the certificate, the key or the bundle cannot be read") from error
    spiffe_id = spiffe_id_of(leaf)
    if spiffe_id.trust_domain != trust_domain:
        raise InvalidIdentity(f"{spiffe_id} is not of the trust domain {trust_domain}")
    if service is not None and spiffe_id.service != service:
        raise InvalidIdentity(f"{spiffe_id} is not the identity of {service}")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    if spiffe_id.dns_name not in names:
        raise InvalidIdentity(
            f"the certificate of {spiffe_id} lacks the DNS name {spiffe_id.dns_name}, and gRPC for Python verifies "
            f"servers by DNS names only. cert-manager: dnsNames; SPIRE: -dns {spiffe_id.dns_name} on the entry"
        )
    if private_key.public_key() != leaf.public_key():
        raise InvalidIdentity("the key does not belong to the certificate")
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        raise InvalidIdentity(f"the certificate of {spiffe_id} expired at {leaf.not_valid_after_utc.isoformat()}")
    return Identity(
        spiffe_id=spiffe_id,
        certificate_chain=chain,
        private_key=key,
        trust_bundle=bundle,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        serial=leaf.serial_number,
        issuer=str(common[0].value) if (common := leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)) else "",
    )
