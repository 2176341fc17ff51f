"""What is said of streams: how much of one is answered, and whether it has ended."""

from typing import Final

from event_store.adapters.postgres.connection import ShardDatabase
from event_store.domain.stream import StreamMetadata

_METADATA: Final = "SELECT revision, max_count, max_age, tombstoned FROM public.stream_metadata WHERE stream = $1"


class MetadataLog(ShardDatabase):
    """The metadata of the streams of one shard."""

    async def metadata(self, stream: str) -> StreamMetadata | None:
        """The metadata of a stream; None when none were ever set."""
        async with self._asking() as connection:
            row = await connection.fetchrow(_METADATA, stream)
        return None if row is None else StreamMetadata(*row)
