"""The tokens of a job: with these few, a read sees all that it wrote."""

import base64

from almagest.eventstore.v1 import event_pb2
from worker.application.consistency import LatestTokens


def text(**fields: object) -> str:
    token = event_pb2.ConsistencyToken(epoch=1, **fields)
    return base64.urlsafe_b64encode(token.SerializeToString()).rstrip(b"=").decode()


def test_one_token_per_shard_is_kept_and_is_about_every_bucket():
    """A bucket of one write says nothing of the others; neither order, nor repetition, nor what is no token matters."""
    tokens = LatestTokens([text(shard=1, bucket=7, position=5), text(shard=0, bucket=9, position=3)])
    for later in (text(shard=1, bucket=8, position=4), text(shard=0, bucket=1, position=6), "", "no token"):
        tokens.add(later)
    expected = (text(shard=0, position=6, every_bucket=True), text(shard=1, position=5, every_bucket=True))
    assert tokens.all() == expected
    assert LatestTokens(expected).all() == expected
