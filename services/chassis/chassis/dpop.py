"""Proofs that a client holds a key, one for each request (DPoP, RFC 9449).

A bearer token is worth as much to a thief as to its owner. One that is bound to a key is worth nothing without a fresh
signature of that key over the method and target of the request, and over the token itself.
"""

import base64
import hashlib
import hmac
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit

import orjson
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey

TYPE: Final = "dpop+jwt"
ALGORITHMS: Final = ("ES256", "Ed25519")
WINDOW_SECONDS: Final = 60.0
"""How old a proof may be, and how far ahead of us the clock of who made it."""
_LONGEST: Final = 4096
_LONGEST_ID: Final = 200
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})


class ProofInvalid(Exception):
    """The proof proves nothing. The message says why, to who made it."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a valid proof proves, if it has not come before."""

    thumbprint: str
    """Of the key, by RFC 7638."""
    id: str
    issued_at: float


def verified(proof: str, *, method: str, url: str, access_token: str | None, now: float) -> Proof:
    """Verify a proof for a request.

    Args:
        proof: The content of the `DPoP` header.
        method: The method of the request.
        url: Its target, without query and fragment.
        access_token: The token that comes with it; None where one is asked for.
        now: Seconds since the epoch.

    Raises:
        ProofInvalid
    """
    if len(proof) > _LONGEST or not proof.isascii():
        raise ProofInvalid("The proof is too long, or no JWT.")
    try:
        header = cast("Mapping[str, Any]", orjson.loads(_decoded(proof.split(".", maxsplit=1)[0])))
        algorithm, jwk = header.get("alg"), header.get("jwk")
    except (ValueError, AttributeError) as error:
        raise ProofInvalid("The proof is no JWT.") from error
    if header.get("typ") != TYPE or algorithm not in ALGORITHMS:
        raise ProofInvalid(f"The proof must be a {TYPE}, signed with {' or '.join(ALGORITHMS)}.")
    if not isinstance(jwk, dict) or _PRIVATE & cast("dict[str, Any]", jwk).keys():
        raise ProofInvalid("The proof must bring its public key, and no private one.")
    key = _key(cast("dict[str, Any]", jwk), str(algorithm))
    try:
        claims = jwt.decode(proof, key, algorithms=[str(algorithm)]).claims
    except (JoseError, ValueError, TypeError) as error:
        raise ProofInvalid("The signature of the proof is wrong.") from error
    return _checked(claims, key.thumbprint(), method=method, url=url, access_token=access_token, now=now)


def _checked(
    claims: Mapping[str, Any], thumbprint: str, *, method: str, url: str, access_token: str | None, now: float
) -> Proof:
    identifier, issued, target = claims.get("jti"), claims.get("iat"), claims.get("htu")
    if not isinstance(identifier, str) or not 0 < len(identifier) <= _LONGEST_ID:
        raise ProofInvalid("The proof has no usable jti.")
    if isinstance(issued, bool) or not isinstance(issued, int | float) or abs(now - issued) > WINDOW_SECONDS:
        raise ProofInvalid("The proof was not made just now. Compare your clock with the Date header.")
    if claims.get("htm") != method:
        raise ProofInvalid("The proof is for another method.")
    if not isinstance(target, str) or not _same(target, url):
        raise ProofInvalid("The proof is for another target.")
    if access_token is not None:
        hashed = claims.get("ath")
        if not isinstance(hashed, str) or not hmac.compare_digest(hashed.encode(), token_hash(access_token).encode()):
            raise ProofInvalid("The proof is for another access token.")
    return Proof(thumbprint, identifier, float(issued))


def token_hash(access_token: str) -> str:
    """What a proof says of the access token that it comes with."""
    return base64.urlsafe_b64encode(hashlib.sha256(access_token.encode()).digest()).rstrip(b"=").decode()


class Prover:
    """Makes proofs: the client's half."""

    def __init__(self, key: OKPKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "Prover":
        """With a new key."""
        return cls(OKPKey.generate_key("Ed25519"))

    @property
    def thumbprint(self) -> str:
        """The name of the key."""
        return self._key.thumbprint()

    def proof(self, *, method: str, url: str, access_token: str | None = None, **claims: Any) -> str:
        """A proof for one request."""
        said: dict[str, Any] = {"jti": str(uuid.uuid4()), "htm": method, "htu": url, "iat": int(time.time())}
        if access_token is not None:
            said["ath"] = token_hash(access_token)
        header = {"typ": TYPE, "alg": "Ed25519", "jwk": self._key.as_dict(private=False)}
        return jwt.encode(header, said | claims, self._key, algorithms=["Ed25519"])


def _key(jwk: dict[str, Any], algorithm: str) -> OKPKey | ECKey:
    wanted = ("EC", "P-256") if algorithm == "ES256" else ("OKP", "Ed25519")
    if (jwk.get("kty"), jwk.get("crv")) != wanted:
        raise ProofInvalid("The key of the proof is not one for its algorithm.")
    try:
        return ECKey.import_key(jwk) if algorithm == "ES256" else OKPKey.import_key(jwk)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise ProofInvalid("The key of the proof is none.") from error


def _same(left: str, right: str) -> bool:
    """Whether two URLs are the same, but for query, fragment and letters that do not count (RFC 9449, 4.3)."""
    try:
        one, other = urlsplit(left), urlsplit(right)
        ports = [url.port or {"https": 443, "http": 80}.get(url.scheme) for url in (one, other)]
    except ValueError:
        return False
    return (one.scheme, one.hostname, one.path) == (other.scheme, other.hostname, other.path) and ports[0] == ports[1]


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
