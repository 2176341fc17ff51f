"""AccessKeyService on the wire."""
# ruff: noqa: N802, ARG002 - gRPC names the methods, and gives each a context

from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID

from almagest.auth.v1 import access_keys_pb2 as wire
from almagest.auth.v1 import access_keys_pb2_grpc
from chassis.caller import current_caller
from chassis.tokens import current_person
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from auth.application import access_keys
from auth.application.sessions import Signer, Terms
from auth.domain.access_keys import AccessKey, Asking, Kind
from auth.domain.errors import InvalidFields

_KINDS = {wire.ACCESS_KEY_KIND_HMAC_SHA256: Kind.HMAC_SHA256, wire.ACCESS_KEY_KIND_ED25519: Kind.ED25519}
_WIRE_KINDS = {kind: number for number, kind in _KINDS.items()}

Context: TypeAlias = Any


class AccessKeyServicer(access_keys_pb2_grpc.AccessKeyServiceServicer):
    """Translates requests into use cases, and what these answer into responses."""

    def __init__(self, ports: access_keys.Ports, *, signer: Signer, terms: Terms) -> None:
        self._ports = ports
        self._signer = signer
        self._terms = terms

    async def CreateAccessKey(
        self, request: wire.CreateAccessKeyRequest, context: Context
    ) -> wire.CreateAccessKeyResponse:
        """Make a key."""
        if request.kind not in _KINDS:
            raise InvalidFields([("kind", "must be hmac-sha256 or ed25519")])
        made = await access_keys.create(
            user_id=_uuid("user_id", request.user_id) if request.user_id else None,
            name=request.name,
            kind=_KINDS[request.kind],
            scopes=request.scopes,
            public_key=request.public_key,
            expires_at=_moment(request, "expires_at"),
            command_id=_uuid("command_id", request.command_id),
            asking=_asking(),
            ports=self._ports,
        )
        return wire.CreateAccessKeyResponse(access_key=_key(made.key), secret=made.secret, replayed=made.replayed)

    async def GetAccessKey(self, request: wire.GetAccessKeyRequest, context: Context) -> wire.GetAccessKeyResponse:
        """Answer a key."""
        key = await access_keys.get(_id(request), asking=_asking(), ports=self._ports)
        return wire.GetAccessKeyResponse(access_key=_key(key))

    async def ListAccessKeys(
        self, request: wire.ListAccessKeysRequest, context: Context
    ) -> wire.ListAccessKeysResponse:
        """Answer a person's keys."""
        user_id = _uuid("user_id", request.user_id) if request.user_id else None
        found = await access_keys.of_person(user_id, asking=_asking(), ports=self._ports)
        return wire.ListAccessKeysResponse(access_keys=map(_key, found))

    async def RotateAccessKey(
        self, request: wire.RotateAccessKeyRequest, context: Context
    ) -> wire.RotateAccessKeyResponse:
        """Replace a key."""
        made = await access_keys.rotate(
            _id(request),
            old_until=_moment(request, "old_until"),
            expires_at=_moment(request, "expires_at"),
            public_key=request.public_key,
            command_id=_uuid("command_id", request.command_id),
            asking=_asking(),
            ports=self._ports,
        )
        return wire.RotateAccessKeyResponse(access_key=_key(made.key), secret=made.secret, replayed=made.replayed)

    async def RevokeAccessKey(
        self, request: wire.RevokeAccessKeyRequest, context: Context
    ) -> wire.RevokeAccessKeyResponse:
        """End a key."""
        key = await access_keys.revoke(_id(request), asking=_asking(), ports=self._ports)
        return wire.RevokeAccessKeyResponse(access_key=_key(key))

    async def GetVerificationKey(
        self, request: wire.GetVerificationKeyRequest, context: Context
    ) -> wire.GetVerificationKeyResponse:
        """Answer what signatures are verified with."""
        found = await access_keys.verification(_id(request), ports=self._ports)
        key = found.kept.key
        return wire.GetVerificationKeyResponse(
            kind=_WIRE_KINDS[key.kind], key=found.material, expires_at=_timestamp(key.expires_at)
        )

    async def ExchangeAccessKey(
        self, request: wire.ExchangeAccessKeyRequest, context: Context
    ) -> wire.ExchangeAccessKeyResponse:
        """Answer a transaction token for a signed request."""
        token = await access_keys.exchange(
            request.signature_base,
            request.signature,
            requesting_workload=str(current_caller()),
            signer=self._signer,
            terms=self._terms,
            ports=self._ports,
        )
        return wire.ExchangeAccessKeyResponse(transaction_token=token.token, expires_at=_timestamp(token.expires_at))


def _asking() -> Asking:
    person = current_person()
    return Asking(
        user_id=UUID(person.subject),
        scopes=person.scopes,
        key_id=UUID(person.access_key_id) if person.access_key_id else None,
    )


def _id(
    request: wire.GetAccessKeyRequest
    | wire.RotateAccessKeyRequest
    | wire.RevokeAccessKeyRequest
    | wire.GetVerificationKeyRequest,
) -> UUID:
    return _uuid("access_key_id", request.access_key_id)


def _uuid(field: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidFields([(field, "must be a UUID")]) from None


def _moment(request: Message, field: str) -> datetime | None:
    if not request.HasField(field):
        return None
    stamp: Timestamp = getattr(request, field)
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidFields([(field, "must be a time")]) from None


def _key(key: AccessKey) -> wire.AccessKey:
    return wire.AccessKey(
        access_key_id=str(key.id),
        user_id=str(key.user_id),
        name=key.name,
        kind=_WIRE_KINDS[key.kind],
        scopes=sorted(key.scopes),
        public_key=key.public_key or b"",
        created_at=_timestamp(key.created_at),
        expires_at=_timestamp(key.expires_at),
        revoked_at=None if key.revoked_at is None else _timestamp(key.revoked_at),
        last_used_at=None if key.last_used_at is None else _timestamp(key.last_used_at),
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
