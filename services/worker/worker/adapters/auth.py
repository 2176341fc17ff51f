"""Transaction tokens of the person who submitted a job, from auth."""

import asyncio
import time
import uuid

from almagest.auth.v1 import auth_pb2, auth_pb2_grpc
from chassis.rpc.channel import Channel

SCOPES = ("catalog:write",)
_MARGIN_SECONDS = 15.0
_METHOD = "/almagest.auth.v1.AuthService/DelegateToken"
RETRYABLE = frozenset({_METHOD})


class Auth:
    """The auth service."""

    def __init__(self, channel: Channel) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)

    def tokens(self, *, user_id: str, job_id: uuid.UUID) -> "DelegatedTokens":
        """The tokens for a job."""
        return DelegatedTokens(self._stub, user_id=user_id, job_id=str(job_id))


class DelegatedTokens:
    """Gets a token when one is needed and keeps it until near its end. So a person who may no longer do this is found
    out within a minute.
    """

    def __init__(self, stub: "auth_pb2_grpc.AuthServiceAsyncStub", *, user_id: str, job_id: str) -> None:
        self._stub = stub
        self._request = auth_pb2.DelegateTokenRequest(user_id=user_id, job_id=job_id, scopes=SCOPES)
        self._token = ""
        self._good_until = 0.0
        self._asking = asyncio.Lock()

    async def token(self) -> str:
        """A token that is good for some seconds.

        Raises:
            RemoteProblem: The person may not do this, or auth cannot be reached.
        """
        async with self._asking:
            if time.time() >= self._good_until:
                answer = await self._stub.DelegateToken(self._request)
                self._token = answer.transaction_token
                self._good_until = answer.expires_at.ToMilliseconds() / 1000 - _MARGIN_SECONDS
            return self._token

    def forget(self) -> None:
        """Get another one next time."""
        self._good_until = 0.0
