"""SPIFFE ids, and what makes a set of files an identity."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chassis.identity.certificate import InvalidIdentity
from chassis.identity.files import FileIdentitySource
from chassis.identity.spiffe import SpiffeId

Issue = Callable[..., Path]


def test_an_id_and_its_dns_name_say_the_same() -> None:
    """Parsing and printing are inverse; the DNS name is the image of the id."""
    spiffe_id = SpiffeId.parse("spiffe://almagest.internal/event-store")
    assert str(spiffe_id) == "spiffe://almagest.internal/event-store"
    assert (spiffe_id.service, spiffe_id.dns_name) == ("event-store", "event-store.almagest.internal")
    assert SpiffeId.of("event-store", "almagest.internal") == spiffe_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe://almagest.internal",
        "spiffe://almagest.internal/",
        "spiffe://almagest.internal/a/b",
        "spiffe://almagest.internal/a.b",
        "spiffe://almagest.internal/A",
        "spiffe://almagest.internal/a?x=1",
        "spiffe://almagest.internal/a#b",
        "spiffe://Almagest.internal/a",
        "spiffe://almagest.internal:1/a",
        "spiffe://user@almagest.internal/a",
        "spiffe:///a",
        "SPIFFE://almagest.internal/a",
        "https://almagest.internal/a",
        "spiffe://almagest.internal/a\n",
    ],
)
def test_what_only_looks_like_an_id_is_none(text: str) -> None:
    """One trust domain, one segment that is a DNS label, nothing else."""
    with pytest.raises(ValueError, match="SPIFFE"):
        SpiffeId.parse(text)


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        ({"uris": []}, "0 URI names"),
        ({"uris": ["spiffe://almagest.internal/a", "spiffe://almagest.internal/b"]}, "2 URI names"),
        ({"uris": ["spiffe://elsewhere.example/gateway"]}, "trust domain"),
        ({"uris": ["spiffe://almagest.internal/worker"]}, "not the identity of gateway"),
        ({"dns": ["localhost"]}, "lacks the DNS name"),
        ({"ca": True}, "authority"),
        ({"lifetime": -10}, "expired"),
    ],
)
def test_a_wrong_certificate_keeps_the_process_from_starting(issue: Issue, odd: dict[str, Any], problem: str) -> None:
    """Each rule of an SVID, found at start and named."""
    with pytest.raises(InvalidIdentity, match=problem):
        FileIdentitySource(issue("gateway", **odd), "almagest.internal", service="gateway")


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt"])
def test_missing_or_broken_files_keep_the_process_from_starting(issue: Issue, name: str) -> None:
    """The missing file is named."""
    directory = issue("gateway")
    (directory / name).write_bytes(b"not PEM")
    with pytest.raises(InvalidIdentity, match="cannot be read"):
        FileIdentitySource(directory, "almagest.internal")
    (directory / name).unlink()
    with pytest.raises(InvalidIdentity, match=name):
        FileIdentitySource(directory, "almagest.internal")


def test_a_foreign_key_is_refused_and_no_key_is_printed(issue: Issue) -> None:
    """The key must belong to the certificate; an identity in a log shows no key."""
    directory, other = issue("gateway"), issue("gateway")
    assert "PRIVATE" not in repr(FileIdentitySource(directory, "almagest.internal").current())
    (directory / "tls.key").write_bytes((other / "tls.key").read_bytes())
    with pytest.raises(InvalidIdentity, match="does not belong"):
        FileIdentitySource(directory, "almagest.internal")
