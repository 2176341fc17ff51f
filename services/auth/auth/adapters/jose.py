"""Ed25519 keys and signed tokens (RFC 7515, 7517, 7519, 8037, 9864)."""

import asyncio
import base64
import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import GuestProtocol, OKPKey

from auth.adapters.sealing import KeyEncryptionKey
from auth.application.keys import SigningKeys
from auth.application.people import Clock
from auth.domain.claims import Claims
from auth.domain.errors import InvalidAccessToken
from auth.domain.keys import KeyState, SigningKey, published

ALGORITHM = "Ed25519"
_LONGEST_TOKEN = 8192

_logger = structlog.get_logger(__name__)


def fresh_pair() -> tuple[bytes, bytes]:
    """A new public key, and its private one."""
    private = Ed25519PrivateKey.generate()
    return private.public_key().public_bytes_raw(), private.private_bytes_raw()


class KeyForge:
    """Makes signing keys, sealed under the key-encryption key."""

    def __init__(self, key_encryption_key: KeyEncryptionKey) -> None:
        self._key_encryption_key = key_encryption_key

    def make(self, state: KeyState, *, now: datetime) -> SigningKey:
        """A new key pair, sealed."""
        private = Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        kid = _public_jwk(public).thumbprint()
        return SigningKey(
            kid=kid,
            public_key=public,
            sealed_private_key=self._key_encryption_key.seal(private.private_bytes_raw(), context=_context(kid)),
            state=state,
            created_at=now,
        )


class KeyRing:
    """The keys of this process: one to sign with, several to verify with, and the set that others are told."""

    def __init__(
        self, *, keys: SigningKeys, key_encryption_key: KeyEncryptionKey, overlap: timedelta, clock: Clock
    ) -> None:
        self._keys = keys
        self._key_encryption_key = key_encryption_key
        self._overlap = overlap
        self._clock = clock
        self._signing: tuple[str, OKPKey] | None = None
        self._verifying: dict[str, OKPKey] = {}
        self._jwks = b""

    def take(self, keys: Sequence[SigningKey]) -> None:
        """Use these keys from now on.

        Raises:
            KeyEncryptionKeyError: the private keys do not open.
        """
        signing = self._signing
        for key in keys:
            if key.state is not KeyState.RETIRED and (signing is None or signing[0] != key.kid):
                private = self._key_encryption_key.unseal(key.sealed_private_key, context=_context(key.kid))
                if key.state is KeyState.ACTIVE:
                    signing = (key.kid, _private_jwk(key.public_key, private))
        self._signing = signing
        accepted = published(keys, now=self._clock(), overlap=self._overlap)
        self._verifying = {key.kid: _public_jwk(key.public_key) for key in accepted}
        members = [
            {**jwk.as_dict(private=False), "kid": kid, "use": "sig", "alg": ALGORITHM}
            for kid, jwk in self._verifying.items()
        ]
        self._jwks = json.dumps({"keys": members}, separators=(",", ":"), sort_keys=True).encode()

    async def watch(self, every: float) -> None:
        """Take the keys anew every so many seconds, for ever, so that a rotation by one replica reaches all."""
        while True:
            await asyncio.sleep(every)
            try:
                keys = await self._keys.all()
            except Exception:
                # The keys that we have stay good; that the database is away is readiness's to tell.
                _logger.warning("the signing keys could not be read", exc_info=True)
            else:
                self.take(keys)

    def jwks(self) -> bytes:
        """The public keys as a JWK set."""
        return self._jwks

    def sign(self, claims: Claims, *, kind: str) -> str:
        """A JWT of this kind (`typ`), signed with the active key."""
        if self._signing is None:
            raise LookupError("there is no active signing key")
        kid, key = self._signing
        return jwt.encode({"alg": ALGORITHM, "typ": kind, "kid": kid}, claims, key, algorithms=[ALGORITHM])

    def verify(self, token: str, *, kind: str) -> Claims:
        """The claims of a JWT whose signature, algorithm and kind are right.

        The key is found by `kid` among our own; what a token says about keys (`jwk`, `jku`, `x5u`) is never looked at
        (ASVS 9.1.3).

        Raises:
            InvalidAccessToken
        """
        if len(token) > _LONGEST_TOKEN or not token.isascii():
            raise InvalidAccessToken
        try:
            decoded = jwt.decode(token, self._find, algorithms=[ALGORITHM])
        except (JoseError, ValueError, TypeError, KeyError):
            raise InvalidAccessToken from None
        if decoded.header.get("typ") != kind:
            raise InvalidAccessToken
        return decoded.claims

    def _find(self, signature: GuestProtocol) -> OKPKey:
        kid = signature.headers().get("kid")
        key = self._verifying.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise InvalidAccessToken
        return key


def _context(kid: str) -> str:
    return f"signing key {kid}"


def _public_jwk(public: bytes) -> OKPKey:
    return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": _base64url(public)})


def _private_jwk(public: bytes, private: bytes) -> OKPKey:
    return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": _base64url(public), "d": _base64url(private)})


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
