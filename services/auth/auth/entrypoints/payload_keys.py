"""PayloadKeyService on the wire."""
# ruff: noqa: N802, ARG002 - gRPC names the methods, and gives each a context

import asyncio
from datetime import timedelta
from typing import Final

import structlog
from almagest.auth.v1 import payload_keys_pb2 as wire
from almagest.auth.v1 import payload_keys_pb2_grpc
from grpc.aio import ServicerContext

from auth.adapters.payload_keys import PostgresPayloadKeys, opened
from auth.adapters.sealing import KeyEncryptionKey
from auth.application.payload_keys import Kinds, renew_payload_keys
from auth.application.people import Clock
from auth.domain.keys import KeyState, published

_STATES: Final = {
    KeyState.NEXT: wire.PAYLOAD_KEY_STATE_NEXT,
    KeyState.ACTIVE: wire.PAYLOAD_KEY_STATE_ACTIVE,
    KeyState.RETIRED: wire.PAYLOAD_KEY_STATE_RETIRED,
}
_logger = structlog.get_logger(__name__)


class PayloadKeyServicer(payload_keys_pb2_grpc.PayloadKeyServiceServicer):
    """Hands the keys to gateways."""

    def __init__(
        self, *, keys: PostgresPayloadKeys, key_encryption_key: KeyEncryptionKey, overlap: timedelta, clock: Clock
    ) -> None:
        self._keys = keys
        self._key_encryption_key = key_encryption_key
        self._overlap = overlap
        self._clock = clock

    async def ListPayloadKeys(
        self,
        request: wire.ListPayloadKeysRequest,
        context: ServicerContext[wire.ListPayloadKeysRequest, wire.ListPayloadKeysResponse],
    ) -> wire.ListPayloadKeysResponse:
        """Answer the keys that may still be used."""
        response = wire.ListPayloadKeysResponse()
        for key in published(await self._keys.all(), now=self._clock(), overlap=self._overlap):
            message = response.keys.add(
                key_id=key.kid,
                suite=key.suite,
                secret=opened(key, self._key_encryption_key),
                state=_STATES[key.state],
            )
            message.created_at.FromDatetime(key.created_at)
        return response


async def keep_renewing(
    kinds: Kinds, *, clock: Clock, lifetime: timedelta, published_for: timedelta, every: float
) -> None:
    """Look every so many seconds whether keys are to be renewed, for ever."""
    while True:
        await asyncio.sleep(every)
        try:
            await renew_payload_keys(kinds, clock=clock, lifetime=lifetime, published_for=published_for)
        except Exception:
            # The keys that there are stay good; that the database is away is readiness's to tell.
            _logger.warning("the payload keys could not be renewed", exc_info=True)
