"""The key-encryption key: what makes a stolen copy of the database useless for signing.

It comes from a file that is kept apart from the databases and their backups. Two keys are derived from it
(HKDF-SHA256), one to seal private keys with AES-256-GCM, one to fingerprint requests, so that no use of one says
anything about the other.
"""

import base64
import binascii
import hmac
import os
from pathlib import Path

from chassis.process import CannotStart
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from auth.domain.people import Registration

_KEY_BYTES = 32
_ID_BYTES = 8
_NONCE_BYTES = 12
_VERSION = b"\x01"


class KeyEncryptionKeyError(CannotStart):
    """The key-encryption key is missing, malformed, or not the one that the signing keys were sealed with."""


class KeyEncryptionKey:
    """Seals private keys and fingerprints requests."""

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise KeyEncryptionKeyError(f"the key-encryption key must be {_KEY_BYTES} bytes, not {len(key)}")
        self._aead = AESGCM(_derived(key, b"almagest auth sealing", _KEY_BYTES))
        self._fingerprints = _derived(key, b"almagest auth fingerprints", _KEY_BYTES)
        self._id = _derived(key, b"almagest auth key id", _ID_BYTES)

    def __repr__(self) -> str:
        return f"KeyEncryptionKey(id={self._id.hex()})"

    @classmethod
    def read(cls, path: Path) -> "KeyEncryptionKey":
        """Read the key from a file that holds 32 bytes in base64.

        Raises:
            KeyEncryptionKeyError: naming the file and what is wrong with it, never its content.
        """
        try:
            key = base64.b64decode(path.read_bytes().strip(), validate=True)
        except OSError as error:
            raise KeyEncryptionKeyError(f"cannot read the key-encryption key {path}: {error.strerror}") from error
        except binascii.Error:
            raise KeyEncryptionKeyError(f"the key-encryption key {path} is not base64") from None
        try:
            return cls(key)
        except KeyEncryptionKeyError as error:
            raise KeyEncryptionKeyError(f"{path}: {error}") from None

    def seal(self, secret: bytes, *, context: str) -> bytes:
        """Encrypt a secret. It opens only in the same context, so that sealed values cannot be swapped between rows."""
        nonce = os.urandom(_NONCE_BYTES)
        header = _VERSION + self._id
        return header + nonce + self._aead.encrypt(nonce, secret, header + context.encode())

    def unseal(self, sealed: bytes, *, context: str) -> bytes:
        """Decrypt a secret.

        Raises:
            KeyEncryptionKeyError: it was sealed with another key, in another context, or was changed.
        """
        header, rest = sealed[: 1 + _ID_BYTES], sealed[1 + _ID_BYTES :]
        if header != _VERSION + self._id:
            raise KeyEncryptionKeyError(
                f"{context} was sealed with the key-encryption key {header[1:].hex()}, and this process was given "
                f"{self._id.hex()}: give it the file it was first started with (ALMAGEST_KEY_ENCRYPTION_KEY_FILE)"
            )
        try:
            return self._aead.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header + context.encode())
        except (InvalidTag, ValueError):
            raise KeyEncryptionKeyError(f"{context} was changed after it was sealed") from None

    def of(self, registration: Registration) -> bytes:
        """The fingerprint of a request to create a person: HMAC-SHA256 over its length-prefixed fields."""
        fields = (
            registration.email,
            registration.password.reveal(),
            registration.first_name,
            registration.last_name,
            *sorted(registration.roles),
        )
        digest = hmac.new(self._fingerprints, digestmod="sha256")
        for field in fields:
            content = field.encode()
            digest.update(len(content).to_bytes(4, "big") + content)
        return digest.digest()


def _derived(key: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(key)
