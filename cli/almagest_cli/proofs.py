"""Sessions whose tokens are bound to a key of ours (DPoP, RFC 9449): copied without it, they are worthless."""

import base64
import hashlib
import time
import uuid
from collections.abc import Generator, Mapping
from typing import Any

import httpx
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEME = "DPoP"


class Prover:
    """A key of Ed25519, and the proofs that we hold it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "Prover":
        """With a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def of(cls, private_key: str) -> "Prover":
        """With a key as `private_key` wrote it.

        Raises:
            ValueError: it is none.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(base64.b64decode(private_key, validate=True)))

    @property
    def private_key(self) -> str:
        """The key, to be kept in a private file."""
        return base64.b64encode(self._key.private_bytes_raw()).decode()

    def proof(self, method: str, url: httpx.URL, access_token: str = "") -> str:
        """A proof for one request, and for the token that goes with it, if one does."""
        target = str(url.copy_with(query=None, fragment=None))
        claims: dict[str, Any] = {"jti": str(uuid.uuid4()), "htm": method, "htu": target, "iat": int(time.time())}
        if access_token:
            claims["ath"] = _encoded(hashlib.sha256(access_token.encode()).digest())
        public = {"kty": "OKP", "crv": "Ed25519", "x": _encoded(self._key.public_key().public_bytes_raw())}
        head = _json({"typ": "dpop+jwt", "alg": "Ed25519", "jwk": public})
        signed = f"{head}.{_json(claims)}"
        return f"{signed}.{_encoded(self._key.sign(signed.encode()))}"


class ProvenAuth(httpx.Auth):
    """Proves with each request that we hold the key of the session, if it is bound to one."""

    def __init__(self) -> None:
        self.prover: Prover | None = None

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Prove, then send."""
        if self.prover is not None:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            request.headers["DPoP"] = self.prover.proof(request.method, request.url, token if scheme == SCHEME else "")
        yield request


def _json(value: Mapping[str, Any]) -> str:
    return _encoded(orjson.dumps(value))


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
