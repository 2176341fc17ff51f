"""Encrypted payloads: a message that only the holder of a key can read, whoever ends the TLS connection in between.

Two suites. One is JWE in compact form (RFC 7516) with X25519 and AES-256-GCM, which libraries of every language know.
The other is HPKE (RFC 9180) with the hybrid of ML-KEM-768 and X25519, so that what is recorded today cannot be read
with tomorrow's quantum computer; it is `BASE64URL(header) "." BASE64URL(enc || ciphertext)`, the encoded header being
bound to it as HPKE's `info`. Both carry a protected header, and a key is good for one suite only.
"""

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, cast

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

Header = Mapping[str, Any]

_ALGORITHM: Final = "ECDH-ES"
_ENCRYPTION: Final = "A256GCM"
_HPKE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_HPKE_LABEL: Final = b"almagest payload v1\0"
_MLKEM_SEED: Final = 64
_MLKEM_PUBLIC: Final = 1184
_X25519: Final = 32
_MAXIMUM_HEADER: Final = 8192
_registry = jwe.JWERegistry(algorithms=[_ALGORITHM, _ENCRYPTION], strict_check_header=False)


class InvalidPayload(Exception):
    """A message or a key that is not what it should be. The text says nothing about its content."""


class Suite(StrEnum):
    """How a payload is encrypted. The values are those of the member `alg` of a published key."""

    JWE = "ECDH-ES"
    HPKE = "HPKE-MLKEM768-X25519"

    @property
    def media_type(self) -> str:
        """What a message of the suite is called in Content-Type and Accept."""
        return _MEDIA_TYPES[self]

    @classmethod
    def of_media_type(cls, media_type: str) -> "Suite | None":
        """The suite that a media type names."""
        return _SUITES.get(media_type)


_MEDIA_TYPES: Final = {Suite.JWE: "application/jose", Suite.HPKE: "application/vnd.almagest.hpke"}
_SUITES: Final = {media_type: suite for suite, media_type in _MEDIA_TYPES.items()}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Whom to encrypt to. `public` is 32 bytes of X25519, or the 1,184 of ML-KEM-768 before them."""

    suite: Suite
    public: bytes

    def __post_init__(self) -> None:
        if len(self.public) != (_X25519 if self.suite is Suite.JWE else _MLKEM_PUBLIC + _X25519):
            raise InvalidPayload("the key has not the length that its suite asks for")

    @property
    def key_id(self) -> str:
        """The thumbprint of the key (RFC 7638)."""
        members = {name: value for name, value in self._members().items() if name in ("alg", "crv", "kty", "pub", "x")}
        if self.suite is Suite.JWE:
            del members["alg"]
        return _base64url(hashlib.sha256(orjson.dumps(members, option=orjson.OPT_SORT_KEYS)).digest()).decode()

    def jwk(self) -> dict[str, str]:
        """The key as it is published (RFC 7517; `AKP` for HPKE, whose `pub` is both public keys)."""
        return {**self._members(), "kid": self.key_id, "use": "enc"}

    def _members(self) -> dict[str, str]:
        value = _base64url(self.public).decode()
        if self.suite is Suite.JWE:
            return {"kty": "OKP", "crv": "X25519", "alg": Suite.JWE.value, "x": value}
        return {"kty": "AKP", "alg": Suite.HPKE.value, "pub": value}

    @classmethod
    def of_jwk(cls, jwk: object) -> "PublicKey":
        """Read a published key. A private one is refused: whoever sends it has lost it.

        Raises:
            InvalidPayload: it is none of ours.
        """
        if not isinstance(jwk, dict):
            raise InvalidPayload("the key is not a JWK")
        members = cast("dict[str, object]", jwk)
        if "d" in members or "priv" in members:
            raise InvalidPayload("the key is a private one")
        if members.get("kty") == "OKP" and members.get("crv") == "X25519" and members.get("alg") in (None, Suite.JWE):
            return cls(Suite.JWE, _bytes(members.get("x")))
        if members.get("kty") == "AKP" and members.get("alg") == Suite.HPKE:
            return cls(Suite.HPKE, _bytes(members.get("pub")))
        raise InvalidPayload(f"the key is not of {Suite.JWE} with X25519, nor of {Suite.HPKE}")


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """What opens messages. `secret` is 32 bytes of X25519, or the 64 of ML-KEM-768's seed before them."""

    suite: Suite
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, suite: Suite) -> "PrivateKey":
        """A new key."""
        return cls(suite, os.urandom(_X25519 if suite is Suite.JWE else _MLKEM_SEED + _X25519))

    @property
    def public(self) -> PublicKey:
        """Its public half."""
        x25519 = X25519PrivateKey.from_private_bytes(self.secret[-_X25519:]).public_key().public_bytes_raw()
        if self.suite is Suite.JWE:
            return PublicKey(self.suite, x25519)
        mlkem = MLKEM768PrivateKey.from_seed_bytes(self.secret[:_MLKEM_SEED]).public_key().public_bytes_raw()
        return PublicKey(self.suite, mlkem + x25519)


def seal(plaintext: bytes, key: PublicKey, header: Header) -> bytes:
    """Encrypt a message. The header is not secret, but cannot be changed; `kid` and the algorithms are added to it.

    Raises:
        InvalidPayload: the key cannot be used.
    """
    try:
        if key.suite is Suite.JWE:
            recipient = OKPKey.import_key({"kty": "OKP", "crv": "X25519", "x": _base64url(key.public).decode()})
            protected = {**header, "alg": _ALGORITHM, "enc": _ENCRYPTION, "kid": key.key_id}
            return jwe.encrypt_compact(protected, plaintext, recipient, registry=_registry).encode()
        encoded = _base64url(orjson.dumps({**header, "alg": key.suite.value, "kid": key.key_id}))
        hybrid = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(key.public[:_MLKEM_PUBLIC]),
            X25519PublicKey.from_public_bytes(key.public[_MLKEM_PUBLIC:]),
        )
        return encoded + b"." + _base64url(_HPKE.encrypt(plaintext, hybrid, _HPKE_LABEL + encoded))
    except (JoseError, ValueError, TypeError) as error:
        raise InvalidPayload("the key cannot be used") from error


def header_of(message: bytes) -> Header:
    """What a message says of itself. It is believed only when `unseal` has answered.

    Raises:
        InvalidPayload: it says nothing that can be read.
    """
    encoded = message[: _MAXIMUM_HEADER + 1].partition(b".")[0]
    if len(encoded) > _MAXIMUM_HEADER:
        raise InvalidPayload("the message has no header, or one that is too long")
    try:
        header = orjson.loads(_decoded(encoded))
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidPayload("the header of the message cannot be read") from error
    if not isinstance(header, dict):
        raise InvalidPayload("the header of the message cannot be read")
    return cast("Header", header)


def unseal(message: bytes, key: PrivateKey) -> bytes:
    """Decrypt a message. The algorithms are those of the key, whatever the message says.

    Raises:
        InvalidPayload: it was not encrypted to this key, or was changed.
    """
    try:
        if key.suite is Suite.JWE:
            public = _base64url(key.public.public).decode()
            own = OKPKey.import_key({"kty": "OKP", "crv": "X25519", "x": public, "d": _base64url(key.secret).decode()})
            _require_sound(header_of(message))
            return _plaintext(jwe.decrypt_compact(message, own, registry=_registry))
        encoded, _, rest = message.partition(b".")
        hybrid = hpke.MLKEM768X25519PrivateKey(
            MLKEM768PrivateKey.from_seed_bytes(key.secret[:_MLKEM_SEED]),
            X25519PrivateKey.from_private_bytes(key.secret[_MLKEM_SEED:]),
        )
        return _HPKE.decrypt(_decoded(rest), hybrid, _HPKE_LABEL + encoded)
    except (JoseError, InvalidTag, ValueError, TypeError) as error:
        raise InvalidPayload("the message does not open") from error


def _require_sound(header: Header) -> None:
    """See that the header can be given to the library, which trusts its shape."""
    PublicKey.of_jwk(header.get("epk"))
    if (header.get("alg"), header.get("enc")) != (_ALGORITHM, _ENCRYPTION):
        raise InvalidPayload("the message is not encrypted as its key asks")
    if any(not isinstance(header.get(name, ""), str) for name in ("apu", "apv", "kid", "cty", "typ", "zip")):
        raise InvalidPayload("the header of the message cannot be read")


def _plaintext(opened: jwe.CompactEncryption) -> bytes:
    if "zip" in opened.protected or opened.plaintext is None:
        # A small message could unpack to any size.
        raise InvalidPayload("the message is compressed")
    return opened.plaintext


def _base64url(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def _decoded(content: bytes) -> bytes:
    """Strictly: another spelling of the same bytes is another message."""
    decoded = base64.urlsafe_b64decode(content + b"=" * (-len(content) % 4))
    if _base64url(decoded) != content:
        raise ValueError("not base64url")
    return decoded


def _bytes(value: object) -> bytes:
    try:
        return _decoded(value.encode()) if isinstance(value, str) else b""
    except ValueError as error:
        raise InvalidPayload("the key cannot be read") from error
