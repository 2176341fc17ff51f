"""PrivacyService on the wire."""
# ruff: noqa: N802, ARG002 - gRPC names the methods, and gives each a context

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Protocol
from uuid import UUID

from almagest.auth.v1 import privacy_pb2 as wire
from almagest.auth.v1 import privacy_pb2_grpc
from chassis.tokens import current_person
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext

from auth.application.forgetting import Forgetting
from auth.application.sessions import Signer
from auth.domain.erasures import CERTIFICATE, Erasure, certificate_claims
from auth.domain.errors import InvalidFields

_State = wire.Erasure.State


class Progress(Protocol):
    """How far a rotation is."""

    @property
    def step(self) -> str:
        """What is done now."""
        ...

    @property
    def total(self) -> int:
        """How much of it there is."""
        ...

    @property
    def done(self) -> int:
        """How much of it is done."""
        ...


Rotate = Callable[[str], AsyncGenerator[Progress]]
_KEYS = {
    wire.RotateDataKeysRequest.KEYS_UNSPECIFIED: "all",
    wire.RotateDataKeysRequest.KEYS_COLUMNS: "columns",
    wire.RotateDataKeysRequest.KEYS_INDEX: "index",
    wire.RotateDataKeysRequest.KEYS_WRAPPING: "wrapping",
}


class PrivacyServicer(privacy_pb2_grpc.PrivacyServiceServicer):
    """Translates requests into use cases, and what these answer into responses."""

    def __init__(
        self, forgetting: Forgetting, *, signer: Signer, issuer: str, unreached: Sequence[str], rotate: Rotate
    ) -> None:
        self._forgetting = forgetting
        self._signer = signer
        self._issuer = issuer
        self._unreached = unreached
        self._rotate = rotate

    async def ForgetPerson(
        self,
        request: wire.ForgetPersonRequest,
        context: ServicerContext[wire.ForgetPersonRequest, wire.ForgetPersonResponse],
    ) -> wire.ForgetPersonResponse:
        """Forget a person."""
        person = current_person()
        erasure = await self._forgetting.forget(
            _uuid(request.user_id),
            asking=UUID(person.subject),
            may_forget_others="users:write" in person.scopes,
            block_email=request.block_email,
        )
        return wire.ForgetPersonResponse(erasure=self._erasure(erasure))

    async def GetErasure(
        self,
        request: wire.GetErasureRequest,
        context: ServicerContext[wire.GetErasureRequest, wire.GetErasureResponse],
    ) -> wire.GetErasureResponse:
        """Answer an erasure."""
        erasure = await self._forgetting.erasure(
            _uuid(request.user_id), may_see="users:read" in current_person().scopes
        )
        return wire.GetErasureResponse(erasure=self._erasure(erasure))

    async def RotateDataKeys(
        self,
        request: wire.RotateDataKeysRequest,
        context: ServicerContext[wire.RotateDataKeysRequest, wire.RotateDataKeysResponse],
    ) -> AsyncGenerator[wire.RotateDataKeysResponse]:
        """Rotate keys."""
        keys = _KEYS.get(request.keys)
        if keys is None:
            raise InvalidFields([("keys", "must be one of the known kinds")])
        async with aclosing(self._rotate(keys)) as told:
            async for progress in told:
                yield wire.RotateDataKeysResponse(step=progress.step, total=progress.total, done=progress.done)

    def _erasure(self, erasure: Erasure) -> wire.Erasure:
        certificate, state = "", _State.STATE_SEARCHING
        if erasure.certified_at is not None:
            # Signed when it is answered, so that it can be verified with the keys that are published then.
            claims = certificate_claims(erasure, issuer=self._issuer, unreached=self._unreached)
            certificate = self._signer.sign(claims, kind=CERTIFICATE)
            state = _State.STATE_FOUND if erasure.findings else _State.STATE_CERTIFIED
        return wire.Erasure(
            user_id=str(erasure.user_id),
            state=state,
            forgotten_at=_timestamp(erasure.forgotten_at),
            stores=[
                wire.SearchedStore(
                    service=store.service,
                    store=store.store,
                    total=store.total,
                    searched=store.searched,
                    findings=store.findings,
                    mentions=store.mentions,
                )
                for store in erasure.stores
            ],
            certificate=certificate,
        )


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidFields([("user_id", "must be a UUID")]) from None


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
