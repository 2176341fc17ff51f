"""Access keys in memory, and a client that signs by an independent implementation of RFC 9421."""

import asyncio
import base64
import hashlib
import secrets
import time
import uuid
from typing import Any

import grpc
from almagest.auth.v1 import access_keys_pb2 as wire
from almagest.auth.v1 import auth_pb2
from gateway.application.ports import AccessKeys, Person

from .fake_answers import jwt, problem


class FakeAccessKeys(AccessKeys):
    """Keys of one person, found by id; counts what it is asked, and can be away."""

    def __init__(self) -> None:
        self.keys: dict[str, wire.GetVerificationKeyResponse] = {}
        self.told: dict[str, wire.AccessKey] = {}
        self.fetched: list[str] = []
        self.exchanged: list[bytes] = []
        self.requests: list[Any] = []
        self.away = False
        self.lifetime = 60.0

    def add(self, kind: int, material: bytes) -> str:
        """A key that is good for a day."""
        key_id = str(uuid.uuid4())
        self.keys[key_id] = wire.GetVerificationKeyResponse(kind=kind, key=material)
        self.keys[key_id].expires_at.FromSeconds(int(time.time()) + 86_400)
        return key_id

    def _check(self) -> None:
        if self.away:
            raise problem(grpc.StatusCode.UNAVAILABLE, "AUTH_AWAY")

    async def verification(self, key_id: str) -> wire.GetVerificationKeyResponse:
        self._check()
        self.fetched.append(key_id)
        await asyncio.sleep(0)
        if key_id not in self.keys:
            raise problem(grpc.StatusCode.UNAUTHENTICATED, "ACCESS_KEY_NOT_VALID")
        return self.keys[key_id]

    async def exchange(self, base: bytes, signature: bytes) -> auth_pb2.ExchangeTokenResponse:
        self._check()
        self.exchanged.append(base)
        key_id = next(key_id for key_id in self.keys if f'keyid="{key_id}"'.encode() in base)
        answer = auth_pb2.ExchangeTokenResponse(transaction_token=jwt("ada", key=key_id))
        answer.expires_at.FromNanoseconds(int((time.time() + self.lifetime) * 1e9))
        return answer

    async def create(self, request: wire.CreateAccessKeyRequest, person: Person) -> wire.CreateAccessKeyResponse:
        self.requests.append(request)
        key = wire.AccessKey(
            access_key_id=str(uuid.uuid4()),
            user_id=person.subject,
            name=request.name,
            kind=request.kind,
            scopes=request.scopes,
            public_key=request.public_key,
        )
        self.told[key.access_key_id] = key
        secret = b"" if request.public_key else secrets.token_bytes(32)
        return wire.CreateAccessKeyResponse(access_key=key, secret=secret)

    async def get(self, key_id: str, person: Person) -> wire.AccessKey:
        if key_id not in self.told:
            raise problem(grpc.StatusCode.NOT_FOUND, "ACCESS_KEY_NOT_FOUND")
        return self.told[key_id]

    async def list(self, user_id: str, person: Person) -> wire.ListAccessKeysResponse:
        self.requests.append(user_id)
        return wire.ListAccessKeysResponse(access_keys=self.told.values())

    async def rotate(self, request: wire.RotateAccessKeyRequest, person: Person) -> wire.RotateAccessKeyResponse:
        self.requests.append(request)
        old = await self.get(request.access_key_id, person)
        made = await self.create(wire.CreateAccessKeyRequest(name=old.name, kind=old.kind), person)
        return wire.RotateAccessKeyResponse(access_key=made.access_key, secret=made.secret)

    async def revoke(self, key_id: str, person: Person) -> wire.AccessKey:
        key = await self.get(key_id, person)
        key.revoked_at.GetCurrentTime()
        return key


def digest_of(body: bytes) -> str:
    """A Content-Digest."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
