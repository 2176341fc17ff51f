"""The certificate authority of one machine.

It does on a laptop what cert-manager does on Kubernetes: each workload gets a directory with `tls.crt`, `tls.key` and
`ca.crt`, naming it by one SPIFFE URI and by the DNS name that is its image, because stock gRPC clients verify only
DNS names. Certificates are short-lived here too, so that rotation is exercised every day and not for the first time
in production.
"""

import ipaddress
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from almagest_cli.local.daemons import write_private

TRUST_DOMAIN = "almagest.internal"
LEAF_LIFETIME = timedelta(hours=24)
WEB_LIFETIME = timedelta(days=397)
"""The longest that browsers accept. The public certificate is not rotated while the gateway runs."""
WEB_HOSTS = ("localhost", "127.0.0.1", "::1")

_AUTHORITY_LIFETIME = timedelta(days=3650)
_CLOCK_SKEW = timedelta(minutes=5)


class LocalAuthority:
    """A certificate authority whose key and certificates live below `directory`; made once, found again later."""

    def __init__(self, directory: Path, *, trust_domain: str = TRUST_DOMAIN) -> None:
        self.directory = directory.absolute()
        self.trust_domain = trust_domain
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key, self._certificate = self._load() or self._make()

    @property
    def certificate_file(self) -> Path:
        """What a client must trust."""
        return self.directory / "ca.crt"

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return self._certificate

    def identity(self, service: str) -> Path:
        """The directory of the service's identity, whether or not it was issued."""
        return self.directory / "identities" / service

    def issue(
        self,
        service: str,
        *,
        lifetime: timedelta = LEAF_LIFETIME,
        directory: Path | None = None,
        uris: Sequence[str] | None = None,
        dns_names: Sequence[str] | None = None,
        not_before: datetime | None = None,
    ) -> Path:
        """Issue the service a new key and certificate, and answer the directory that holds them.

        Args:
            service: the SPIFFE path.
            lifetime: of the certificate, from now.
            directory: instead of the usual one.
            uris: other URI names than the one SPIFFE id, for tests of what must be refused.
            dns_names: other DNS names, likewise.
            not_before: another beginning, likewise.
        """
        where = directory or self.identity(service)
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(uri)
            for uri in ([f"spiffe://{self.trust_domain}/{service}"] if uris is None else uris)
        ]
        names += [
            x509.DNSName(name) for name in ([f"{service}.{self.trust_domain}"] if dns_names is None else dns_names)
        ]
        usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        # The common name is the service's role in Postgres, which looks at nothing else (`clientcert=verify-full`).
        role = service.replace("-", "_")
        self._issue(where, role, names=names, usages=usages, lifetime=lifetime, not_before=not_before)
        return where

    def ensure(self, service: str, *, lifetime: timedelta = LEAF_LIFETIME) -> Path:
        """The service's identity: the present one in the first half of its life, otherwise a new one."""
        where = self.identity(service)
        return where if self._is_young(where) else self.issue(service, lifetime=lifetime)

    def issue_web(self, hosts: Iterable[str] = WEB_HOSTS, *, lifetime: timedelta = WEB_LIFETIME) -> Path:
        """The certificate that the gateway shows to the world, for these host names and addresses; the present one
        while it will do.
        """
        wanted = [_host(host) for host in hosts]
        where = self.directory / "web"
        if not self._is_young(where, names=wanted):
            self._issue(where, "gateway", names=wanted, usages=(ExtendedKeyUsageOID.SERVER_AUTH,), lifetime=lifetime)
        return where

    def _issue(
        self,
        where: Path,
        common_name: str,
        *,
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        lifetime: timedelta,
        not_before: datetime | None = None,
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        public = key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self._certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - _CLOCK_SKEW)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        where.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Whoever watches these files takes up a pair only when key and certificate belong together, so the order does
        # not matter.
        write_private(where / "ca.crt", _pem(self._certificate))
        write_private(where / "tls.key", _key_pem(key))
        write_private(where / "tls.crt", _pem(certificate))

    def _is_young(self, where: Path, *, names: Sequence[x509.GeneralName] | None = None) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate((where / "tls.crt").read_bytes())
            key = serialization.load_pem_private_key((where / "tls.key").read_bytes(), password=None)
            bundle = (where / "ca.crt").read_bytes()
        except (OSError, ValueError):
            return False
        born, ends, now = certificate.not_valid_before_utc, certificate.not_valid_after_utc, datetime.now(UTC)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return (
            born <= now < born + (ends - born) / 2
            and key.public_key() == certificate.public_key()
            and bundle == _pem(self._certificate)
            and (names is None or set(found) == set(names))
        )

    def _load(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
        try:
            key = serialization.load_pem_private_key((self.directory / "ca.key").read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            return None
        if certificate.not_valid_after_utc < datetime.now(UTC) + WEB_LIFETIME:
            return None
        return key, certificate

    def _make(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        # The name is new each time: a client that trusts an earlier authority of the same name would report a bad
        # signature, not a stranger.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Almagest local authority {secrets.token_hex(4)}")])
        public = key.public_key()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + _AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(self.directory / "ca.key", _key_pem(key))
        write_private(self.certificate_file, _pem(certificate))
        return key, certificate


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
