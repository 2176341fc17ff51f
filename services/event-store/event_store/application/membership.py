"""Which databases make up the log, and that each is the shard that it is given as.

The shards are numbered by their order in the settings. Without a proof of who is who, a DSN more, or two in another
order, would send every stream to a shard that does not know it, and the log would begin anew there without a word. So
each database knows its number and its log, and shard 0 knows how many there are.
"""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chassis.buckets import BucketMap


class ShardsUnusable(Exception):
    """The databases are not the shards of one log in their order. It says what is wrong, to an operator."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which shard of which log a database is."""

    cluster: str
    shard: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """The log that the shards make up, as shard 0 knows it."""

    cluster: str
    initial_shards: int
    """How many shards the buckets were first dealt to."""
    shards: int
    """How many are members; 0 until all of the first ones are."""


class Member(Protocol):
    """One database, as membership needs it. Every method raises `NotWritten` when it cannot be asked."""

    async def identity(self) -> Identity | None:
        """Which shard it is; None for a database that is none yet."""
        ...

    async def cluster(self) -> Cluster | None:
        """Of shard 0: the log; None when there is none yet."""
        ...

    async def found(self, cluster: str, shards: int) -> Cluster:
        """Of shard 0: begin a log of so many shards, or answer the one that was begun."""
        ...

    async def claim(self, cluster: str, shard: int, buckets: tuple[int, int] | None) -> bool:
        """Make the database a shard that holds a range of buckets, or none. False when it cannot be one, because it
        holds events of others.
        """
        ...

    async def count(self, shards: int) -> None:
        """Of shard 0: so many shards are members."""
        ...


async def join(shards: Sequence[Member]) -> None:
    """See to it that the databases are the shards of one log, in this order: deal the buckets when it is new, and add
    what was added to it, with no bucket.

    Raises:
        ShardsUnusable: They are not.
        NotWritten: One cannot be asked.
    """
    identities = await _identities(shards)
    known = await shards[0].cluster()
    if known is None:
        if any(identity is not None for identity in identities):
            raise ShardsUnusable("shard 0 is a new database, and others belong to a log already")
        known = await shards[0].found(str(uuid.uuid4()), len(shards))
    _agree(identities, known)
    for number, (shard, identity) in enumerate(zip(shards, identities, strict=True)):
        if identity is None:
            await _admit(shard, number, known)
    # Others may have been at it at the same time, with their own idea of the order.
    _agree(await _identities(shards), known)
    await shards[0].count(len(shards))


async def _identities(shards: Sequence[Member]) -> Sequence[Identity | None]:
    identities = await asyncio.gather(*(shard.identity() for shard in shards))
    for number, identity in enumerate(identities):
        if identity is not None and identity.shard != number:
            raise ShardsUnusable(
                f"the database that is given as shard {number} is shard {identity.shard}: database_urls must name the"
                " shards in their order"
            )
    return identities


def _agree(identities: Sequence[Identity | None], known: Cluster) -> None:
    for number, identity in enumerate(identities):
        if identity is not None and identity.cluster != known.cluster:
            raise ShardsUnusable(f"the database that is given as shard {number} belongs to another log than shard 0")
    wanted = max(known.shards, known.initial_shards)
    if len(identities) < wanted:
        raise ShardsUnusable(
            f"the log has {wanted} shards, and database_urls names {len(identities)}: a shard cannot be left out, for"
            " what was written in it is read there"
        )


async def _admit(shard: Member, number: int, known: Cluster) -> None:
    """Make a database the shard that it is given as, if it can be."""
    if number < known.shards:
        raise ShardsUnusable(
            f"the database that is given as shard {number} is a new one, and there was one with events: restore it"
        )
    initial = BucketMap(known.initial_shards)
    dealt = initial.ranges(number)[0] if number < known.initial_shards else None
    if not await shard.claim(known.cluster, number, dealt):
        raise ShardsUnusable(
            f"the database that is given as the new shard {number} holds events of other buckets than it would get"
        )
