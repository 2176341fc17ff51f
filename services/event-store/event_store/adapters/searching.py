"""Archives are searched as they are, beneath their compression."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from chassis.searching.needles import Found, Needles

from event_store.adapters.archive_files import ArchiveFiles


async def search_archives(files: Sequence[ArchiveFiles], needles: Needles) -> AsyncGenerator[Found]:
    """Search the archives of all shards, and tell how far it is, in bytes. A block counts once."""
    found = Found("archives", total=sum([await asyncio.to_thread(each.size) for each in files]))
    yield found
    for each in files:
        async for length, block in each.blocks():
            await asyncio.to_thread(needles.count, block, found)
            found.searched = min(found.total, found.searched + length)
            yield found
    # Beside the blocks a file has an index, which holds numbers only.
    found.searched = found.total
    yield found
