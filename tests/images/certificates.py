"""What cert-manager would put into the Secrets of Certificates, made from the rendered objects alone."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..helm.rendering import Document

_UNITS: Final = {"h": "hours", "m": "minutes", "s": "seconds"}
_EXTENDED: Final = {"server auth": ExtendedKeyUsageOID.SERVER_AUTH, "client auth": ExtendedKeyUsageOID.CLIENT_AUTH}
_KEY_USAGES: Final = {"digital signature", "cert sign", "crl sign"}


class Certificates:
    """Issuers and Certificates, and the Secrets that come of them.

    Attributes:
        secrets: by name, as cert-manager writes them: `tls.crt`, `tls.key`, `ca.crt`.
    """

    def __init__(self) -> None:
        self._issuers: dict[str, Document] = {}
        self._wanted: dict[str, Document] = {}
        self.secrets: dict[str, dict[str, bytes]] = {}

    def apply(self, document: Document) -> None:
        """Take an Issuer or a Certificate."""
        name, spec = document["metadata"]["name"], document["spec"]
        if document["kind"] == "Issuer":
            self._issuers[name] = spec
        else:
            self._wanted[spec["secretName"]] = spec

    def issue(self) -> None:
        """Issue what has not been."""
        for secret in self._wanted:
            self._ensure(secret)

    def renew(self, secret: str) -> None:
        """Issue it again, with another key."""
        self.secrets.pop(secret)
        self._ensure(secret)

    def _ensure(self, secret: str) -> Mapping[str, bytes]:
        if secret not in self.secrets:
            self.secrets[secret] = self._issued(self._wanted[secret])
        return self.secrets[secret]

    def _issued(self, spec: Document) -> dict[str, bytes]:
        wanted = spec["privateKey"]
        if (wanted["algorithm"], wanted["size"]) != ("ECDSA", 256):
            raise ValueError(f"a key that is not made here: {wanted}")
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self._issuers[spec["issuerRef"]["name"]]
        signing: Any = key
        signer: x509.Certificate | None = None
        if "ca" in issuer:
            authority = self._ensure(issuer["ca"]["secretName"])
            signing = serialization.load_pem_private_key(authority["tls.key"], None)
            signer = x509.load_pem_x509_certificate(authority["tls.crt"])
        certificate = _certificate(spec, key.public_key(), signer).sign(signing, hashes.SHA256())
        encoding = wanted.get("encoding", "PKCS1")
        formats = {
            "PKCS1": serialization.PrivateFormat.TraditionalOpenSSL,
            "PKCS8": serialization.PrivateFormat.PKCS8,
        }
        return {
            "tls.crt": certificate.public_bytes(serialization.Encoding.PEM),
            "tls.key": key.private_bytes(
                serialization.Encoding.PEM,
                formats[encoding],
                serialization.NoEncryption(),
            ),
            "ca.crt": (signer or certificate).public_bytes(serialization.Encoding.PEM),
        }


def _certificate(
    spec: Document, key: ec.EllipticCurvePublicKey, signer: x509.Certificate | None
) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spec["commonName"])])
    now = datetime.now(UTC)
    until = now + _duration(spec["duration"])
    usages = set(spec["usages"])
    if unknown := usages - _KEY_USAGES - _EXTENDED.keys():
        raise ValueError(f"usages that are not known here: {unknown}")
    authority = bool(spec.get("isCA"))
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(signer.subject if signer else name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(min(until, signer.not_valid_after_utc) if signer else until)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(_key_usage(usages), critical=True)
    )
    if authority:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    if signer:
        identifier = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    if extended := [_EXTENDED[usage] for usage in spec["usages"] if usage in _EXTENDED]:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    names = [x509.DNSName(one) for one in spec.get("dnsNames", [])]
    if others := [*names, *(x509.UniformResourceIdentifier(one) for one in spec.get("uris", []))]:
        builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
    return builder


def _key_usage(usages: set[str]) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="digital signature" in usages,
        key_cert_sign="cert sign" in usages,
        crl_sign="crl sign" in usages,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _duration(text: str) -> timedelta:
    return timedelta(**{_UNITS[unit]: int(number) for number, unit in re.findall(r"(\d+)([hms])", text)})
