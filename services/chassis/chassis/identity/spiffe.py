"""SPIFFE ids, and their one-to-one images as DNS names.

gRPC for Python verifies only DNS and IP names of a server, never its URI SAN. So each certificate carries both, and the
DNS name says the same as the id: `spiffe://almagest.internal/event-store` is `event-store.almagest.internal`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_TRUST_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_SERVICE = re.compile(_LABEL)


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """The id of a workload. The path is one segment that is also a DNS label, so that the image is unambiguous."""

    trust_domain: str
    path: str

    def __post_init__(self) -> None:
        if not _TRUST_DOMAIN.fullmatch(self.trust_domain):
            raise ValueError("the trust domain of a SPIFFE id is a lower-case DNS name")
        if not (self.path.startswith("/") and _SERVICE.fullmatch(self.path[1:])):
            raise ValueError("the path of a SPIFFE id is one segment, a lower-case DNS label")

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """The id that a URI says.

        Raises:
            ValueError: The URI is not the id of a workload of ours in form.
        """
        scheme, separator, rest = text.partition("://")
        trust_domain, slash, path = rest.partition("/")
        if scheme != "spiffe" or not separator or not slash:
            raise ValueError("a SPIFFE id is spiffe://<trust domain>/<service>")
        return cls(trust_domain, "/" + path)

    @classmethod
    def of(cls, service: str, trust_domain: str) -> SpiffeId:
        """The id of a service."""
        return cls(trust_domain, "/" + service)

    @property
    def service(self) -> str:
        """The service's name."""
        return self.path[1:]

    @property
    def dns_name(self) -> str:
        """The DNS name that says the same."""
        return f"{self.service}.{self.trust_domain}"

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"
