"""What is done to a release while people use it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from harness.running import Reached
from storm.load import Load

from .pods import Ended

REQUESTS_PER_SECOND: Final = 5
CLIENTS: Final = 3


async def unnoticed(where: Reached, doing: Callable[[], Sequence[Ended]]) -> None:
    """See that nobody who writes, reads, imports and follows notices that containers are ended, all of them in order."""
    load = Load(where.url, where.ca, email=where.admin_email, password=where.admin_password, rate=REQUESTS_PER_SECOND)
    ended = list[Ended]()

    async def done() -> None:
        ended.extend(await asyncio.to_thread(doing))

    await load.run_while(done(), clients=CLIENTS)
    assert ended
    assert {one.code for one in ended} == {0}, ended
    assert not load.failures, load.failures[:20]
    assert load.requests["create"] > 5
    assert load.feed_events > 10
