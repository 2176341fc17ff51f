"""The latest consistency token of each shard: with these few, a read sees everything that the job has written."""

import base64
from collections.abc import Iterable

from almagest.eventstore.v1 import event_pb2
from google.protobuf.message import DecodeError


class LatestTokens:
    """Keeps, per shard, the token with the greatest position, as one about every bucket: what was written before it may
    be of any.
    """

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        self._latest: dict[int, tuple[int, str]] = {}
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
        if parsed.shard in self._latest and self._latest[parsed.shard][0] >= parsed.position:
            return
        parsed.bucket = 0
        parsed.every_bucket = True
        token = base64.urlsafe_b64encode(parsed.SerializeToString()).rstrip(b"=").decode()
        self._latest[parsed.shard] = (parsed.position, token)

    def all(self) -> tuple[str, ...]:
        """The tokens, by shard."""
        return tuple(token for _, (_, token) in sorted(self._latest.items()))
