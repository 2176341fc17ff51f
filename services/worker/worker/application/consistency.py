"""The latest consistency token of each shard: with these few, a read sees everything that the job has written."""

import base64
from collections.abc import Iterable

from almagest.eventstore.v1 import event_pb2
from google.protobuf.message import DecodeError


class LatestTokens:
    """Keeps, per shard, the token with the greatest position."""

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        self._latest: dict[tuple[int, int], tuple[int, str]] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: str) -> None:
        """Take a token into account. An empty one says nothing."""
        if not token:
            return
        try:
            parsed = event_pb2.ConsistencyToken.FromString(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        except (ValueError, DecodeError):
            return
        key = (parsed.epoch, parsed.shard)
        if key not in self._latest or self._latest[key][0] < parsed.position:
            self._latest[key] = (parsed.position, token)

    def all(self) -> tuple[str, ...]:
        """The tokens, by shard."""
        return tuple(token for _, (_, token) in sorted(self._latest.items()))
