from almagest.auth.v1 import access_keys_pb2 as wire
from almagest.auth.v1 import access_keys_pb2_grpc, auth_pb2
from chassis.rpc.channel import Channel

from gateway.adapters.calls import ask
from gateway.application.ports import AccessKeys, Person

_SERVICE = "/almagest.auth.v1.AccessKeyService/"
RETRYABLE = frozenset(
    _SERVICE + method for method in ("GetAccessKey", "ListAccessKeys", "GetVerificationKey", "ExchangeAccessKey")
)


class GrpcAccessKeys(AccessKeys):
    """Access keys, in auth."""

    def __init__(self, channel: Channel) -> None:
        self._stub = access_keys_pb2_grpc.AccessKeyServiceStub(channel)

    async def create(self, request: wire.CreateAccessKeyRequest, person: Person) -> wire.CreateAccessKeyResponse:  # noqa: D102 - the port says
        return await ask(self._stub.CreateAccessKey, request, person)

    async def get(self, key_id: str, person: Person) -> wire.AccessKey:  # noqa: D102
        request = wire.GetAccessKeyRequest(access_key_id=key_id)
        return (await ask(self._stub.GetAccessKey, request, person)).access_key

    async def list(self, user_id: str, person: Person) -> wire.ListAccessKeysResponse:  # noqa: D102
        return await ask(self._stub.ListAccessKeys, wire.ListAccessKeysRequest(user_id=user_id), person)

    async def rotate(self, request: wire.RotateAccessKeyRequest, person: Person) -> wire.RotateAccessKeyResponse:  # noqa: D102
        return await ask(self._stub.RotateAccessKey, request, person)

    async def revoke(self, key_id: str, person: Person) -> wire.AccessKey:  # noqa: D102
        request = wire.RevokeAccessKeyRequest(access_key_id=key_id)
        return (await ask(self._stub.RevokeAccessKey, request, person)).access_key

    async def verification(self, key_id: str) -> wire.GetVerificationKeyResponse:  # noqa: D102
        return await self._stub.GetVerificationKey(wire.GetVerificationKeyRequest(access_key_id=key_id))

    async def exchange(self, base: bytes, signature: bytes) -> auth_pb2.ExchangeTokenResponse:  # noqa: D102
        answer = await self._stub.ExchangeAccessKey(
            wire.ExchangeAccessKeyRequest(signature_base=base, signature=signature)
        )
        return auth_pb2.ExchangeTokenResponse(transaction_token=answer.transaction_token, expires_at=answer.expires_at)
