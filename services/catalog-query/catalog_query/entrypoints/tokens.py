"""Consistency tokens: a place in the log, as text that is opaque to people."""

import base64
import binascii
from collections.abc import Sequence

from almagest.eventstore.v1 import event_pb2
from chassis.buckets import BUCKETS
from google.protobuf.message import DecodeError

from catalog_query.application.freshness import Wanted
from catalog_query.application.shards import Place, Shards

_LONGEST = 200
_NOT_OURS = "is not a consistency token that a write answered"


class BadConsistencyToken(ValueError):
    """The text is no consistency token of ours; it says what is wrong."""


def wanted(text: str, shards: Shards) -> Sequence[Wanted]:
    """What a token stands for: a place in one shard of the read model, or in all of them.

    Raises:
        BadConsistencyToken: it is none.
    """
    token = _decoded(text)
    # A token of before a move is as good as ever: what a shard has written stays where it is, and is projected from
    # there. One of a map that is not known here yet is waited for.
    if not token.epoch or token.bucket >= BUCKETS:
        raise BadConsistencyToken(_NOT_OURS)
    if shards.event_shards and token.epoch <= shards.epoch and token.shard >= shards.event_shards:
        raise BadConsistencyToken(_NOT_OURS)
    if token.every_bucket:
        return [
            Wanted(event_shard=token.shard, read_shard=read_shard, position=token.position)
            for read_shard in range(shards.read_shards)
        ]
    read_shard = shards.read_shard_of_bucket(token.bucket)
    return (Wanted(event_shard=token.shard, read_shard=read_shard, position=token.position, bucket=token.bucket),)


def _decoded(text: str) -> event_pb2.ConsistencyToken:
    if len(text) > _LONGEST or not text.isascii():
        raise BadConsistencyToken(_NOT_OURS)
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return event_pb2.ConsistencyToken.FromString(raw)
    except (binascii.Error, DecodeError):
        raise BadConsistencyToken(_NOT_OURS) from None


def token(place: Place, position: int, *, epoch: int) -> str:
    """The token for a position."""
    message = event_pb2.ConsistencyToken(epoch=epoch, bucket=place.bucket, shard=place.event_shard, position=position)
    return base64.urlsafe_b64encode(message.SerializeToString()).rstrip(b"=").decode()
