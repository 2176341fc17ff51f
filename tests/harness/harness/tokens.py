"""Transaction tokens as auth would sign them, and as an attacker would."""

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from joserfc import jws
from joserfc.jwk import KeySet, OKPKey

TRUST_DOMAIN = "almagest.internal"
ISSUER = f"spiffe://{TRUST_DOMAIN}/auth"

_SCOPES = {
    "viewer": ("catalog:read", "jobs:read"),
    "editor": ("catalog:read", "jobs:read", "catalog:write", "jobs:write"),
    "admin": (
        "catalog:read",
        "jobs:read",
        "catalog:write",
        "jobs:write",
        "users:read",
        "users:write",
        "audit:read",
        "projections:read",
        "projections:write",
    ),
}


class TransactionTokens:
    """Signs transaction tokens with a key made at run time.

    Attributes:
        jwks: the JSON Web Key Set, as bytes, that verifies them: what `AuthService.GetJwks` would answer.
    """

    def __init__(self) -> None:
        self._key = OKPKey.generate_key("Ed25519", {"alg": "Ed25519", "use": "sig", "kid": uuid.uuid4().hex})
        self.jwks: bytes = orjson.dumps(KeySet([self._key]).as_dict(private=False))

    def __call__(
        self,
        *,
        subject: str | None = None,
        roles: Iterable[str] = ("admin",),
        scopes: Iterable[str] | None = None,
        lifetime: float = 60,
        workload: str = "gateway",
        claims: Mapping[str, Any] | None = None,
        header: Mapping[str, Any] | None = None,
        key: OKPKey | None = None,
    ) -> str:
        """Sign a token.

        Args:
            subject: the person's user id; by default a new one.
            roles: their roles.
            scopes: what the token is good for; by default all that the roles allow.
            lifetime: seconds until it expires; below zero: it has expired.
            workload: who asked for it, and alone may show it.
            claims: claims put in place of the usual ones, to forge bad tokens; one that is None is left out.
            header: the same for header parameters.
            key: another signing key.
        """
        roles = tuple(roles)
        allowed = sorted({scope for role in roles for scope in _SCOPES[role]} if scopes is None else set(scopes))
        now = int(time.time())
        payload = {
            "iss": ISSUER,
            "aud": TRUST_DOMAIN,
            "sub": subject or str(uuid.uuid4()),
            "scope": " ".join(allowed),
            "roles": list(roles),
            "txn": str(uuid.uuid4()),
            "req_wl": f"spiffe://{TRUST_DOMAIN}/{workload}",
            "iat": now,
            "exp": int(now + lifetime),
        } | dict(claims or {})
        head = {"typ": "txntoken+jwt", "alg": "Ed25519", "kid": self._key.kid} | dict(header or {})
        return jws.serialize_compact(
            {name: value for name, value in head.items() if value is not None},
            orjson.dumps({name: value for name, value in payload.items() if value is not None}),
            key or self._key,
            algorithms=["Ed25519"],
        )

    @staticmethod
    def stranger() -> OKPKey:
        """A signing key that nobody trusts."""
        return OKPKey.generate_key("Ed25519", {"alg": "Ed25519", "use": "sig", "kid": uuid.uuid4().hex})
