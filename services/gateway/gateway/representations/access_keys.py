"""Access keys."""

import base64
from datetime import datetime
from typing import Annotated, Any

from almagest.auth.v1 import access_keys_pb2 as wire
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import Field

from gateway import types
from gateway.representations.shapes import Shape, at

KINDS = {"hmac-sha256": wire.ACCESS_KEY_KIND_HMAC_SHA256, "ed25519": wire.ACCESS_KEY_KIND_ED25519}
_NAMES = {number: name for name, number in KINDS.items()}


class AccessKey(Shape):
    """A key that signs requests for a person."""

    key_id: Annotated[types.Uuid, Field(description="`keyid` of a signature.")]
    user_id: Annotated[types.Uuid, Field(description="The person whom its requests are for.")]
    name: Annotated[str, Field(examples=["till 4"])]
    kind: types.AccessKeyKind
    scopes: Annotated[
        tuple[str, ...], Field(description="What it may do, as far as its person may.", examples=[["catalog:read"]])
    ]
    public_key: Annotated[str | None, Field(description="32 bytes in base64; of `ed25519` keys.")]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: Annotated[datetime | None, Field(description="Give or take some minutes.")]

    @classmethod
    def of(cls, key: wire.AccessKey) -> "AccessKey":
        """What auth tells of a key."""
        return cls.model_construct(**_fields(key))


class NewAccessKey(AccessKey):
    """A key, and what it signs with."""

    secret: Annotated[
        str | None,
        Field(
            description="Of `hmac-sha256` keys: 32 bytes in base64. Told in this answer only, and in no repeat of it."
        ),
    ]
    private_key: Annotated[
        str | None,
        Field(
            description="Of an `ed25519` pair that was made here: PKCS #8 in PEM. Told in this answer only, and kept "
            "nowhere."
        ),
    ]

    @classmethod
    def made(cls, answer: wire.CreateAccessKeyResponse | wire.RotateAccessKeyResponse) -> "NewAccessKey":
        """What auth tells of a new key."""
        key, secret = answer.access_key, answer.secret
        is_pair = key.kind == wire.ACCESS_KEY_KIND_ED25519
        return cls.model_construct(
            **_fields(key),
            secret=_base64(secret) if secret and not is_pair else None,
            private_key=_pem(secret) if secret and is_pair else None,
        )


class AccessKeys(Shape):
    """A person's keys."""

    items: tuple[AccessKey, ...]


def _fields(key: wire.AccessKey) -> dict[str, Any]:
    return {
        "key_id": key.access_key_id,
        "user_id": key.user_id,
        "name": key.name,
        "kind": _NAMES.get(key.kind, ""),
        "scopes": tuple(key.scopes),
        "public_key": _base64(key.public_key) if key.public_key else None,
        "created_at": at(key.created_at),
        "expires_at": at(key.expires_at),
        "revoked_at": at(key.revoked_at) if key.HasField("revoked_at") else None,
        "last_used_at": at(key.last_used_at) if key.HasField("last_used_at") else None,
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _pem(private: bytes) -> str:
    key = Ed25519PrivateKey.from_private_bytes(private)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
