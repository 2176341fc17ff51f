"""Keys of encrypted payloads and the memory of what came once, in memory."""

from collections.abc import Sequence

from chassis.errors import Unavailable
from chassis.payloads import PrivateKey, Suite
from gateway.application.nonces import Nonces, NoncesAway
from gateway.application.payloads import OwnKey


class FakePayloadKeys:
    """One key per suite; counts how often it is asked, and can be away."""

    def __init__(self) -> None:
        self.keys = [PrivateKey.generate(suite) for suite in Suite]
        self.unpublished: list[PrivateKey] = []
        self.asked = 0
        self.away = False

    async def list(self) -> Sequence[OwnKey]:
        self.asked += 1
        if self.away:
            raise Unavailable("away")
        return [
            OwnKey(key.public.key_id, key, published)
            for keys, published in ((self.keys, True), (self.unpublished, False))
            for key in keys
        ]


class MemoryNonces(Nonces):
    """Remembers for ever, and can be away."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.away = False

    async def claim(self, purpose: str, nonce: str, *, seconds: float, since: float | None = None) -> bool:
        assert seconds > 0
        if self.away:
            raise NoncesAway
        first = (purpose, nonce) not in self.seen
        self.seen.add((purpose, nonce))
        return first
