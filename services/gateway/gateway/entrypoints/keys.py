"""Access keys: what programs sign their requests with."""

import base64
import binascii
from typing import Annotated

from almagest.auth.v1 import access_keys_pb2 as wire
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from gateway import types
from gateway.entrypoints.bodies import JsonBody
from gateway.entrypoints.dependencies import REPLAYED, Asker, Backends, IdempotencyKey, json_response, uuid_of
from gateway.entrypoints.documentation import ASKED, IDEMPOTENCY, LOCATION, WITH_BODY, WRITE, body, problems, success
from gateway.entrypoints.signed import SignedRoute
from gateway.entrypoints.times import timestamp_of
from gateway.entrypoints.writes import a_write
from gateway.problems import Refused
from gateway.representations.access_keys import KINDS, AccessKey, AccessKeys, NewAccessKey
from gateway.requests.access_keys import ListKeys, NewKey, RotateKey

router = APIRouter(tags=["keys"], route_class=SignedRoute)
KeyId = Annotated[types.Uuid, Path()]
_TILL = {"name": "till 4", "kind": "hmac-sha256", "scopes": ["catalog:read"]}
_ROTATION = {"old_until": "2026-12-01T00:00:00Z"}
_KEY_BYTES = 32


@router.post(
    "/v1/keys",
    operation_id="createKey",
    summary="Issue an access key",
    status_code=201,
    responses={
        201: success("The key, and what it signs with", NewAccessKey, LOCATION, IDEMPOTENCY),
        **problems(*ASKED, *WITH_BODY, *WRITE, 404),
    },
    openapi_extra=body("NewKey", till=_TILL),
)
async def create_key(
    request: Request,
    person: Asker,
    new: Annotated[NewKey, Depends(JsonBody[NewKey](NewKey))],
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """Issue a key that signs requests (RFC 9421) in place of a session: for oneself, or by admins for another.

    Secret or private key are in this answer and in no other, also not in that of a repeat. Whoever asks by a key needs
    one that manages people.
    """
    async with a_write(request, ports, person, key) as command:
        wanted = wire.CreateAccessKeyRequest(
            user_id=new.user_id or "",
            name=new.name,
            kind=KINDS[new.kind],
            scopes=new.scopes,
            public_key=_public_key(new.public_key),
            command_id=command.command_id,
        )
        if new.expires_at is not None:
            wanted.expires_at.CopyFrom(timestamp_of("expires_at", new.expires_at))
        made = await ports.access_keys.create(wanted, person)
    return _made(made)


@router.get(
    "/v1/keys",
    operation_id="listKeys",
    summary="A person's access keys",
    responses={200: success("The keys, the newest first", AccessKeys), **problems(*ASKED, 404)},
)
async def list_keys(wanted: Annotated[ListKeys, Query()], person: Asker, ports: Backends) -> Response:
    """One's own keys, or for admins those of another. Those that have ended are kept for three months."""
    user_id = uuid_of("user_id", wanted.user_id) if wanted.user_id is not None else ""
    answer = await ports.access_keys.list(user_id, person)
    return json_response(AccessKeys(items=tuple(AccessKey.of(key) for key in answer.access_keys)))


@router.get(
    "/v1/keys/{key_id}",
    operation_id="getKey",
    summary="One access key",
    responses={200: success("The key", AccessKey), **problems(*ASKED, 404)},
)
async def get_key(key_id: KeyId, person: Asker, ports: Backends) -> Response:
    """A key, without what it signs with."""
    return json_response(AccessKey.of(await ports.access_keys.get(uuid_of("key_id", key_id), person)))


@router.post(
    "/v1/keys/{key_id}:rotate",
    operation_id="rotateKey",
    summary="Replace an access key",
    status_code=201,
    responses={
        201: success("The new key, and what it signs with", NewAccessKey, LOCATION, IDEMPOTENCY),
        **problems(*ASKED, *WITH_BODY, *WRITE, 404),
    },
    openapi_extra=body("RotateKey", overlap=_ROTATION),
)
async def rotate_key(
    request: Request,
    key_id: KeyId,
    person: Asker,
    wanted: Annotated[RotateKey, Depends(JsonBody[RotateKey](RotateKey))],
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """Issue a key like this one. Both are good until `old_until`; without it this one ends at once."""
    async with a_write(request, ports, person, key) as command:
        rotation = wire.RotateAccessKeyRequest(
            access_key_id=uuid_of("key_id", key_id),
            public_key=_public_key(wanted.public_key),
            command_id=command.command_id,
        )
        if wanted.old_until is not None:
            rotation.old_until.CopyFrom(timestamp_of("old_until", wanted.old_until))
        if wanted.expires_at is not None:
            rotation.expires_at.CopyFrom(timestamp_of("expires_at", wanted.expires_at))
        made = await ports.access_keys.rotate(rotation, person)
    return _made(made)


@router.post(
    "/v1/keys/{key_id}:revoke",
    operation_id="revokeKey",
    summary="End an access key",
    responses={200: success("The key", AccessKey), **problems(*ASKED, *WRITE, 404, 422)},
)
async def revoke_key(
    request: Request, key_id: KeyId, person: Asker, ports: Backends, key: IdempotencyKey = None
) -> Response:
    """End a key, for ever: within a second no service takes what it has signed."""
    wanted = uuid_of("key_id", key_id)
    async with a_write(request, ports, person, key, body=b""):
        ended = await ports.access_keys.revoke(wanted, person)
    return json_response(AccessKey.of(ended))


def _made(made: wire.CreateAccessKeyResponse | wire.RotateAccessKeyResponse) -> Response:
    headers = {"Location": f"/v1/keys/{made.access_key.access_key_id}"} | ({REPLAYED: "true"} if made.replayed else {})
    return json_response(NewAccessKey.made(made), 201, headers)


def _public_key(text: str | None) -> bytes:
    if text is None:
        return b""
    try:
        if text.lstrip().startswith("-----"):
            key = load_pem_public_key(text.encode())
            if isinstance(key, Ed25519PublicKey):
                return key.public_bytes_raw()
        else:
            raw = base64.b64decode(text, validate=True)
            if len(raw) == _KEY_BYTES:
                return raw
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        pass
    message = "must be an Ed25519 public key: PEM, or its 32 bytes in base64"
    raise Refused(422, "INVALID_BODY", f"public_key: {message}", errors=[("public_key", message)])
