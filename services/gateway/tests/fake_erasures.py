"""Erasures in memory."""

import grpc
from almagest.auth.v1 import privacy_pb2 as wire
from gateway.application.ports import Erasures, Person

from .fake_answers import problem


class FakeErasures(Erasures):
    """Forgets whoever is named, and remembers how it was asked."""

    def __init__(self) -> None:
        self.erasures: dict[str, wire.Erasure] = {}
        self.blocked: set[str] = set()

    async def forget(self, user_id: str, person: Person, *, block_email: bool) -> wire.Erasure:
        if block_email:
            self.blocked.add(user_id)
        erasure = self.erasures.setdefault(user_id, wire.Erasure(user_id=user_id, state=wire.Erasure.STATE_SEARCHING))
        erasure.forgotten_at.FromJsonString("2026-11-22T10:00:00Z")
        return erasure

    async def get(self, user_id: str, person: Person) -> wire.Erasure:
        if user_id not in self.erasures:
            raise problem(grpc.StatusCode.NOT_FOUND, "ERASURE_NOT_FOUND")
        return self.erasures[user_id]
