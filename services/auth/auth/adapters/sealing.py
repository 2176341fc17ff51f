"""The key-encryption key: what makes a stolen copy of the database useless for signing and for reading.

It comes from a file that is kept apart from the databases and their backups, bare or wrapped by a KMS
(`auth.adapters.kms`); while it is rotated there are older ones beside it. Two keys are derived from each (HKDF-SHA256),
one to seal keys with AES-256-GCM, one to fingerprint requests, so that no use of one says anything about the other.
"""

import hmac
from pathlib import Path

from chassis.process import CannotStart
from chassis.sealing import wrapping
from chassis.sealing.aead import SealingError, UnknownKey, derived
from chassis.sealing.wrapping import FileKeyWrapping

from auth.domain.people import Registration

_PURPOSE = "almagest auth"


class KeyEncryptionKeyError(CannotStart, SealingError):
    """The key-encryption key is missing, malformed, or not the one that something was sealed with."""


class KeyEncryptionKey:
    """Seals keys and fingerprints requests. A `KeyWrapping` of the chassis."""

    def __init__(self, key: bytes, *older: bytes) -> None:
        try:
            self._files = FileKeyWrapping(key, older, purpose=_PURPOSE)
        except SealingError as error:
            raise KeyEncryptionKeyError(str(error)) from None
        self._fingerprints = [derived(each, f"{_PURPOSE} fingerprints".encode()) for each in (key, *older)]

    def __repr__(self) -> str:
        return f"KeyEncryptionKey(id={self._files.primary_id})"

    @property
    def primary_id(self) -> str:
        """The id of the present key, which says nothing of the key."""
        return self._files.primary_id

    @classmethod
    def read(cls, path: Path, *older: Path) -> "KeyEncryptionKey":
        """Read the keys from files that hold 32 bytes in base64 each.

        Raises:
            KeyEncryptionKeyError: naming the file and what is wrong with it, never its content.
        """
        return cls(*(read_key(each) for each in (path, *older)))

    def seal(self, secret: bytes, *, context: str) -> bytes:
        """Encrypt a secret. It opens only in the same context, so that sealed values cannot be swapped between rows."""
        return self._files.seal(secret, context=context)

    def unseal(self, sealed: bytes, *, context: str) -> bytes:
        """Decrypt a secret.

        Raises:
            KeyEncryptionKeyError: it was sealed with another key, in another context, or was changed.
        """
        try:
            return self._files.unseal(sealed, context=context)
        except UnknownKey as error:
            raise KeyEncryptionKeyError(
                f"{context} was sealed with the key-encryption key {error.key_id.hex()}, and this process was given "
                f"{self._files.primary_id}: give it the file it was first started with "
                "(ALMAGEST_KEY_ENCRYPTION_KEY_FILE), or as an older one (ALMAGEST_OLDER_KEY_ENCRYPTION_KEY_FILES)"
            ) from None
        except SealingError:
            raise KeyEncryptionKeyError(f"{context} was changed after it was sealed") from None

    async def wrap(self, key: bytes, *, context: str) -> bytes:
        """Seal a data key."""
        return self.seal(key, context=context)

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """Open a data key."""
        return self.unseal(wrapped, context=context)

    def is_current(self, wrapped: bytes) -> bool:
        """Whether a secret is sealed with the present key, and not with an older one."""
        return self._files.is_current(wrapped)

    def of(self, registration: Registration) -> bytes:
        """The fingerprint of a request to create a person: HMAC-SHA256 over its length-prefixed fields."""
        return _fingerprint(self._fingerprints[0], registration)

    def digest(self, text: str) -> str:
        """A text that says nothing and is the same each time: a name for what must not stand in the clear elsewhere."""
        return hmac.digest(self._fingerprints[0], b"name " + text.encode(), "sha256").hex()[:32]

    def is_of(self, registration: Registration, fingerprint: bytes) -> bool:
        """Whether a fingerprint, under the present key or an older one, is that of a request."""
        return any(hmac.compare_digest(_fingerprint(key, registration), fingerprint) for key in self._fingerprints)


def read_key(path: Path) -> bytes:
    """The key in a file that holds it bare.

    Raises:
        KeyEncryptionKeyError: naming the file and what is wrong with it, never its content.
    """
    try:
        return wrapping.read_key(path)
    except SealingError as error:
        if is_wrapped(path):
            raise KeyEncryptionKeyError(
                f"the key-encryption key {path} is wrapped by a KMS: ALMAGEST_KEY_MANAGEMENT_SOCKET says where that is"
            ) from None
        raise KeyEncryptionKeyError(str(error)) from error


def is_wrapped(path: Path) -> bool:
    """Whether a file holds a key that a KMS has wrapped."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"{"
    except OSError:
        return False


def _fingerprint(key: bytes, registration: Registration) -> bytes:
    fields = (
        registration.email,
        registration.password.reveal(),
        registration.first_name,
        registration.last_name,
        *sorted(registration.roles),
    )
    digest = hmac.new(key, digestmod="sha256")
    for field in fields:
        content = field.encode()
        digest.update(len(content).to_bytes(4, "big") + content)
    return digest.digest()
