from collections.abc import Sequence

from almagest.auth.v1 import payload_keys_pb2, payload_keys_pb2_grpc
from chassis.payloads import PrivateKey, Suite
from chassis.rpc.channel import Channel

from gateway.application.payloads import OwnKey

RETRYABLE = frozenset({"/almagest.auth.v1.PayloadKeyService/ListPayloadKeys"})
_SECONDS = 5.0


class GrpcPayloadKeys:
    """The keys of encrypted payloads, from auth."""

    def __init__(self, channel: Channel) -> None:
        self._stub = payload_keys_pb2_grpc.PayloadKeyServiceStub(channel)

    async def list(self) -> Sequence[OwnKey]:
        """The keys that may still be used."""
        request = payload_keys_pb2.ListPayloadKeysRequest()
        answer = await self._stub.ListPayloadKeys(request, timeout=_SECONDS)
        return [
            OwnKey(
                key_id=key.key_id,
                key=PrivateKey(Suite(key.suite), key.secret),
                published=key.state == payload_keys_pb2.PAYLOAD_KEY_STATE_ACTIVE,
            )
            for key in answer.keys
            if key.suite in set(Suite)
        ]
