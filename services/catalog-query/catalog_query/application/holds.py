"""Which products stand still, so that a read of one can say so.

The projectors of this process tell what they park before they show the position that it goes with; what another replica
parked comes with its checkpoints. So whoever sees a position also knows what was held on the way to it.
"""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from chassis.buckets import bucket_of

from catalog_query.application.freshness import Freshness, Wanted
from catalog_query.application.shards import Shards
from catalog_query.domain.errors import StreamHeld
from catalog_query.domain.product import product_id_of, stream_of
from catalog_query.domain.projection import Hold


class Holds:
    """The streams that generations of one projection do not go on with."""

    def __init__(self, shards: Shards, freshness: Freshness) -> None:
        self._shards = shards
        self._freshness = freshness
        self._held: dict[tuple[int, int], Mapping[str, Hold]] = {}
        self.version = 0
        """Grows with each `add`: what was read from the database before is not newer than what was added."""

    def add(self, *, read_shard: int, generation: int, held: Mapping[str, Hold]) -> None:
        """Take it that more streams are held."""
        key = (read_shard, generation)
        known = self._held.get(key, {})
        if any(known.get(stream) != hold for stream, hold in held.items()):
            self.version += 1
            self._held[key] = {**known, **held}

    def replace(self, *, read_shard: int, generation: int, held: Mapping[str, Hold], version: int) -> bool:
        """Take it that these streams are held and no others, unless more were added since `version`."""
        if version != self.version:
            return False
        self._held[read_shard, generation] = held
        return True

    def of(self, product_id: UUID) -> Hold | None:
        """What holds a product in the generation that is read."""
        read_shard = self._shards.read_shard_of(str(product_id))
        held = self._held.get((read_shard, self._freshness.generation(read_shard)))
        return held.get(stream_of(str(product_id))) if held else None

    def among(self, product_ids: Iterable[UUID]) -> Mapping[UUID, Hold]:
        """Which of these products are held."""
        if not any(self._held.values()):
            return {}
        found = ((product_id, self.of(product_id)) for product_id in product_ids)
        return {product_id: hold for product_id, hold in found if hold is not None}

    def check(self, wanted: Wanted) -> None:
        """See that what a consistency token stands for is not held.

        Raises:
            StreamHeld: it may be; the answer would be older than what was asked for.
        """
        if wanted.bucket is None:
            return
        held = self._held.get((wanted.read_shard, self._freshness.generation(wanted.read_shard)))
        for stream, hold in (held or {}).items():
            product_id = product_id_of(stream)
            # Positions of different shards do not compare: after a move, what is held may well be meant.
            reached = hold.event_shard != wanted.event_shard or hold.position <= wanted.position
            if reached and bucket_of(product_id) == wanted.bucket:
                raise StreamHeld(product_id, revision=hold.revision)

    def check_all(self, wanted: Sequence[Wanted]) -> None:
        """As `check`, of several."""
        for one in wanted:
            self.check(one)
