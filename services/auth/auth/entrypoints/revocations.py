"""What was revoked, on the wire."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from almagest.auth.v1 import auth_pb2 as wire
from chassis.errors import Unavailable
from chassis.revocations import Revocation, Revocations, Revoked, told


@dataclass(frozen=True, slots=True)
class RevocationNews:
    """What this process knows, and whether it is the present."""

    revocations: Revocations
    current: Callable[[], bool]

    async def messages(self) -> AsyncGenerator[wire.WatchRevocationsResponse]:
        """What one service is told. Better that it asks another replica than that it trusts one that hears nothing.

        Raises:
            Unavailable: the databases cannot be read.
        """
        async with aclosing(told(self.revocations)) as batches:
            async for batch in batches:
                if not self.current():
                    raise Unavailable("Revocations are not known at the moment.", reason="REVOCATIONS_UNKNOWN")
                yield wire.WatchRevocationsResponse(revocations=map(_message, batch))


def _message(revocation: Revocation) -> wire.Revocation:
    match revocation.kind:
        case Revoked.SESSION:
            return wire.Revocation(session_id=revocation.id)
        case Revoked.ACCESS_KEY:
            return wire.Revocation(access_key_id=revocation.id)
        case Revoked.PERSON:
            return wire.Revocation(person=wire.RevokedPerson(user_id=revocation.id, generation=revocation.generation))
