"""What makes a certificate the SVID of one workload (SPIFFE X509-SVID, sections 2 to 5)."""

import ssl

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from chassis.identity.spiffe import SpiffeId


class InvalidIdentity(Exception):
    """A certificate, key or bundle that does not prove who a workload is."""


def spiffe_id_of(certificate: x509.Certificate) -> SpiffeId:
    """The id that a leaf certificate proves, once TLS has verified its chain.

    Raises:
        InvalidIdentity: It has not exactly one URI SAN, or that is no id, or it is not a leaf.
    """
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = alternative.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise InvalidIdentity("the certificate has no subject alternative names that can be read") from error
    if len(uris) != 1:
        raise InvalidIdentity(f"the certificate has {len(uris)} URI names instead of exactly one")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except ValueError as error:
        raise InvalidIdentity(f"the URI name of the certificate is not one of ours: {error}") from error
    _require_leaf(certificate)
    return spiffe_id


_HALF = {"KEY_VALUES_MISMATCH", "NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", None}


def is_half_written(error: ssl.SSLError) -> bool:
    """Whether files could not be loaded because they are just being replaced: a key without its certificate, or half a
    file. Who meets this reads them again a moment later.
    """
    return not isinstance(error, ssl.SSLCertVerificationError) and error.reason in _HALF


def _require_leaf(certificate: x509.Certificate) -> None:
    try:
        extensions = list(certificate.extensions)
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError) as error:
        raise InvalidIdentity("the extensions of the certificate cannot be read") from error
    for extension in extensions:
        if extension.oid == ExtensionOID.BASIC_CONSTRAINTS and isinstance(extension.value, x509.BasicConstraints):
            if extension.value.ca:
                raise InvalidIdentity("the certificate is that of an authority, not of a workload")
        elif (
            extension.oid == ExtensionOID.KEY_USAGE
            and isinstance(extension.value, x509.KeyUsage)
            and (extension.value.key_cert_sign or extension.value.crl_sign)
        ):
            raise InvalidIdentity("the key of the certificate may sign certificates, as no workload's may")
