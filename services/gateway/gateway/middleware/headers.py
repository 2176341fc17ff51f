"""What keeps browsers and caches from misusing an answer: one policy for each kind of answer, in this table only.

Nearly everything that the door says is data for programs, which no browser may run, frame or embed. The one page that
is there for people runs what carries the nonce of its own answer, which is made anew for each, and nothing else.
"""

import secrets
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

Headers = Sequence[tuple[bytes, bytes]]

_NONCE: Final = "almagest.nonce"
_ALWAYS: Final[Headers] = (
    (b"x-content-type-options", b"nosniff"),
    # Two years: what lists of HTTPS-only sites ask for, and more than ASVS does.
    (b"strict-transport-security", b"max-age=63072000; includeSubDomains"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Granian would say its name.
    (b"server", b""),
)
DATA: Final[Headers] = (
    (
        b"content-security-policy",
        b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
    ),
)
"""Whatever is no page: JSON, problems, streams, metrics, and the parts of the page."""
_PAGE: Final = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_TOO: Final[Headers] = (
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_NO_STORE: Final = (b"cache-control", b"no-store")


def nonce_of(scope: MutableMapping[str, Any]) -> str:
    """Make the answer to a request a page. Its scripts and styles must carry this nonce of 128 random bits."""
    nonce = secrets.token_urlsafe(16)
    scope[_NONCE] = nonce
    return nonce


def guarded(scope: MutableMapping[str, Any], headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with those that its kind asks for. Nothing is kept by caches unless the answer says so;
    of a page, nothing whatever it says.
    """
    nonce = scope.get(_NONCE)
    if nonce is not None:
        kept = [header for header in headers if header[0] != _NO_STORE[0]]
        policy = (b"content-security-policy", _PAGE.format(nonce=nonce).encode())
        return [*kept, *_ALWAYS, *_PAGE_TOO, policy, _NO_STORE]
    guard = [*headers, *_ALWAYS, *DATA]
    if not any(name == _NO_STORE[0] for name, _ in headers):
        guard.append(_NO_STORE)
    return guard
