"""The local certificate authority: what it issues, judged by an X.509 verifier and by real TLS."""

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from almagest_cli.local.authority import LocalAuthority
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store


def leaf(directory) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / "tls.crt").read_bytes())


def names(certificate):
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def handshake(server, client, *, host) -> tuple[str, x509.Certificate | None]:
    """One real TLS connection over loopback; answers the protocol, and the client's certificate as the server saw it."""
    seen: list[bytes | None] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                try:
                    with server.wrap_socket(connection, server_side=True) as secured:
                        seen.append(secured.getpeercert(binary_form=True))
                        secured.sendall(b"done")
                except (ssl.SSLError, OSError):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as connection,
                client.wrap_socket(connection, server_hostname=host) as secured,
            ):
                assert secured.recv(4) == b"done"
                version = secured.version() or ""
        finally:
            thread.join()
    return version, x509.load_der_x509_certificate(seen[0]) if seen[0] else None


def server_context(directory, trusted) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    context.load_verify_locations(trusted)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(directory, trusted) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trusted)
    if directory:
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    return context


def test_a_workload_has_one_spiffe_uri_and_the_dns_name_that_is_its_image(tmp_path):
    """The names are those that every service checks, the key is PKCS#8 and private, the chain verifies."""
    authority = LocalAuthority(tmp_path / "ca")
    where = authority.issue("event-store")
    certificate = leaf(where)
    assert names(certificate).get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://almagest.internal/event-store"
    ]
    assert names(certificate).get_values_for_type(x509.DNSName) == ["event-store.almagest.internal"]
    assert (where / "tls.key").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert stat.S_IMODE((where / "tls.key").stat().st_mode) == 0o600
    bundle = x509.load_pem_x509_certificates((where / "ca.crt").read_bytes())
    verifier = PolicyBuilder().store(Store(bundle)).build_server_verifier(x509.DNSName("event-store.almagest.internal"))
    assert verifier.verify(certificate, [])
    assert PolicyBuilder().store(Store(bundle)).build_client_verifier().verify(certificate, [])


def test_two_workloads_prove_themselves_to_each_other_by_tls(tmp_path):
    """A real mutual handshake succeeds, and the server sees the client's SPIFFE id."""
    authority = LocalAuthority(tmp_path / "ca")
    server, client = authority.issue("event-store"), authority.issue("gateway")
    version, seen = handshake(
        server_context(server, server / "ca.crt"),
        client_context(client, client / "ca.crt"),
        host="event-store.almagest.internal",
    )
    assert version == "TLSv1.3"
    assert seen is not None
    assert names(seen).get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://almagest.internal/gateway"]


def test_a_certificate_of_another_authority_is_refused_by_tls(tmp_path):
    """Two authorities do not trust each other's workloads, in either direction."""
    ours, theirs = LocalAuthority(tmp_path / "ours"), LocalAuthority(tmp_path / "theirs")
    server, stranger = ours.issue("event-store"), theirs.issue("gateway")
    with pytest.raises(ssl.SSLError):
        handshake(
            server_context(server, server / "ca.crt"),
            client_context(stranger, server / "ca.crt"),
            host="event-store.almagest.internal",
        )
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(
            server_context(stranger, server / "ca.crt"),
            client_context(None, server / "ca.crt"),
            host="gateway.almagest.internal",
        )


def test_the_web_certificate_serves_localhost_by_name_and_address_but_no_workload(tmp_path):
    """The gateway's public certificate is for hosts, and is no identity between services."""
    authority = LocalAuthority(tmp_path / "ca")
    where = authority.issue_web()
    certificate = leaf(where)
    assert names(certificate).get_values_for_type(x509.DNSName) == ["localhost"]
    assert names(certificate).get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1"), ip_address("::1")]
    assert not names(certificate).get_values_for_type(x509.UniformResourceIdentifier)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(where / "tls.crt", where / "tls.key")
    for host in ("localhost", "127.0.0.1"):
        assert handshake(context, client_context(None, authority.certificate_file), host=host)[0] == "TLSv1.3"
    assert authority.issue_web() == where
    assert leaf(where) == certificate
    authority.issue_web(["localhost", "shop.test"])
    assert leaf(where) != certificate


def test_the_authority_is_found_again_and_its_key_is_private(tmp_path):
    """Opening the directory again gives the same authority, so what trusted it still does."""
    first = LocalAuthority(tmp_path / "ca").certificate
    assert LocalAuthority(tmp_path / "ca").certificate == first
    (key,) = (tmp_path / "ca").glob("authorities/*/ca.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.unlink()
    assert LocalAuthority(tmp_path / "ca").certificate != first


def test_an_identity_is_kept_in_the_first_half_of_its_life_and_renewed_after(tmp_path):
    """Renewal happens before half-life is over, and also when the authority changed."""
    authority = LocalAuthority(tmp_path / "ca")
    young = leaf(authority.ensure("worker"))
    assert leaf(authority.ensure("worker")) == young
    assert young.not_valid_after_utc - datetime.now(UTC) > timedelta(hours=23)
    old = leaf(
        authority.issue("worker", lifetime=timedelta(hours=11), not_before=datetime.now(UTC) - timedelta(hours=13))
    )
    fresh = leaf(authority.ensure("worker"))
    assert fresh != old
    next((tmp_path / "ca").glob("authorities/*/ca.key")).unlink()
    assert leaf(LocalAuthority(tmp_path / "ca").ensure("worker")).issuer != fresh.issuer


def test_what_must_be_refused_can_be_issued_for_tests(tmp_path):
    """Foreign and missing names, for the tests of those who refuse them."""
    authority = LocalAuthority(tmp_path / "ca")
    foreign = leaf(authority.issue("worker", directory=tmp_path / "foreign", uris=["spiffe://other.example/worker"]))
    assert names(foreign).get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://other.example/worker"]
    nameless = authority.issue("worker", directory=tmp_path / "nameless", uris=[], dns_names=[])
    assert serialization.load_pem_private_key((nameless / "tls.key").read_bytes(), None)
    with pytest.raises(x509.ExtensionNotFound):
        names(leaf(nameless))
