"""The memory of idempotency keys, in memory."""

from gateway.application.ports import Claim, KeyMemory, Remembered


class MemoryKeys(KeyMemory):
    """Remembers in a dictionary, and can be away."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Claim, bytes, bytes]] = {}
        self.away = False

    async def claim(self, key: str, fingerprint: bytes, *, seconds: float) -> Remembered:
        assert seconds > 0
        if self.away or key not in self.known:
            self.known[key] = (Claim.RUNNING, fingerprint, b"")
            return Remembered(Claim.NEW)
        state, known, answer = self.known[key]
        return Remembered(state, answer) if known == fingerprint else Remembered(Claim.OTHER)

    async def done(self, key: str, fingerprint: bytes, answer: bytes = b"") -> None:
        self.known[key] = (Claim.DONE, fingerprint, answer)

    async def forget(self, key: str) -> None:
        self.known.pop(key, None)
