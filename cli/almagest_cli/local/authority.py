"""The certificate authority of one machine.

It does on a laptop what cert-manager does on Kubernetes: each workload gets a directory with `tls.crt`, `tls.key` and
`ca.crt`, naming it by one SPIFFE URI and by the DNS name that is its image, because stock gRPC clients verify only
DNS names. Certificates are short-lived here too, so that rotation is exercised every day and not for the first time
in production.
"""

import contextlib
import fcntl
import ipaddress
from collections.abc import Generator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from almagest_cli.local.daemons import write_private
from almagest_cli.local.trust import Lifetimes, Trust, backdated, key_pem, pem, usage

TRUST_DOMAIN = "almagest.internal"
WEB_HOSTS = ("localhost", "127.0.0.1", "::1")


class LocalAuthority:
    """A certificate authority whose keys and certificates live below `directory`; made once, found again later.

    Several processes may work on one directory. So what it trusts and signs with (`trust`) is read anew for each act,
    and acts that look first and write then hold a lock.
    """

    def __init__(
        self, directory: Path, *, trust_domain: str = TRUST_DOMAIN, lifetimes: Lifetimes | None = None
    ) -> None:
        self.directory = directory.absolute()
        self.trust_domain = trust_domain
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.alone():
            self.lifetimes = Lifetimes.kept(self.directory, lifetimes)
            self.trust = Trust.found(self.directory, self.lifetimes.authority)
            self.publish()

    @property
    def certificate_file(self) -> Path:
        """What a client must trust."""
        return self.directory / "ca.crt"

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate of the authority that signs now."""
        return self.trust.signer()[1]

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """Nobody else changes anything here meanwhile. Not to be nested."""
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def publish(self) -> None:
        """Write what is to be trusted wherever it is read: for clients, and beside each certificate."""
        bundle = self.trust.bundle()
        wanted = [
            self.certificate_file,
            *self.directory.glob("identities/*/ca.crt"),
            *self.directory.glob("web/ca.crt"),
        ]
        for file in wanted:
            if not file.exists() or file.read_bytes() != bundle:
                write_private(file, bundle)

    def renew(self, workloads: Iterable[str], *, all_now: bool = False) -> list[str]:
        """Issue anew what is due: in the second half of its life, or signed by an authority that is on its way out;
        answers the names.
        """
        with self.alone():
            self.trust.refresh()
            self.publish()
            due = [name for name in workloads if all_now or not self._is_young(self.identity(name))]
            for name in due:
                self.issue(name)
            web = self.directory / "web"
            if (web / "tls.crt").exists() and (all_now or not self._is_young(web)):
                self._issue_web(web, _names(web))
                due.append("web")
        return due

    def identity(self, service: str) -> Path:
        """The directory of the service's identity, whether or not it was issued."""
        return self.directory / "identities" / service

    def issue(
        self,
        service: str,
        *,
        lifetime: timedelta | None = None,
        directory: Path | None = None,
        uris: Sequence[str] | None = None,
        dns_names: Sequence[str] | None = None,
        not_before: datetime | None = None,
    ) -> Path:
        """Issue the service a new key and certificate, and answer the directory that holds them.

        Args:
            service: the SPIFFE path.
            lifetime: of the certificate, from now, instead of the usual one; it never outlives its authority.
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
        self.trust.refresh()
        lasting = self.lifetimes.leaf if lifetime is None else lifetime
        self._issue(where, role, names=names, usages=usages, lifetime=lasting, not_before=not_before)
        return where

    def ensure(self, service: str, *, lifetime: timedelta | None = None) -> Path:
        """The service's identity: the present one in the first half of its life, otherwise a new one."""
        where = self.identity(service)
        with self.alone():
            self.trust.refresh()
            return where if self._is_young(where) else self.issue(service, lifetime=lifetime)

    def issue_web(self, hosts: Iterable[str] = WEB_HOSTS) -> Path:
        """The certificate that the gateway shows to the world, for these host names and addresses; the present one
        while it will do.
        """
        wanted = [_host(host) for host in hosts]
        where = self.directory / "web"
        with self.alone():
            self.trust.refresh()
            if not self._is_young(where, names=wanted):
                self._issue_web(where, wanted)
        return where

    def _issue_web(self, where: Path, names: Sequence[x509.GeneralName]) -> None:
        usages = (ExtendedKeyUsageOID.SERVER_AUTH,)
        self._issue(where, "gateway", names=names, usages=usages, lifetime=self.lifetimes.web)

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
        signing, signer = self.trust.signer()
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        public = key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(signer.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - backdated(lifetime))
            .not_valid_after(min(now + lifetime, signer.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(signing, hashes.SHA256())
        where.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Whoever watches these files takes up a pair only when key and certificate belong together, so the order does
        # not matter.
        write_private(where / "ca.crt", self.trust.bundle())
        write_private(where / "tls.key", key_pem(key))
        write_private(where / "tls.crt", pem(certificate))

    def _is_young(self, where: Path, *, names: Sequence[x509.GeneralName] | None = None) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate((where / "tls.crt").read_bytes())
            key = serialization.load_pem_private_key((where / "tls.key").read_bytes(), password=None)
        except (OSError, ValueError):
            return False
        born, ends, now = certificate.not_valid_before_utc, certificate.not_valid_after_utc, datetime.now(UTC)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return (
            born <= now < born + (ends - born) / 2
            and key.public_key() == certificate.public_key()
            and self.trust.keeps(certificate)
            and (names is None or set(found) == set(names))
        )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _names(where: Path) -> Sequence[x509.GeneralName]:
    certificate = x509.load_pem_x509_certificate((where / "tls.crt").read_bytes())
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
