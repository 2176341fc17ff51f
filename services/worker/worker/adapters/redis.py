"""Redis as doorbell and town crier. It knows ids only, and nothing depends on it: what it forgets or never hears, the
sweep and the polls find.

Sending is left to one task, so that a Redis that hangs makes nobody wait: not the person who submits, nor the job that
makes progress.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from worker.application.attempts import backoff

STREAM = "almagest:jobs"
GROUP = "workers"
CHANNEL = "almagest:jobs:changed"

_FIELD = b"job"
_STREAM_LENGTH = 100_000
_WAITING = 10_000
_DOWN = (RedisError, OSError, TimeoutError)

_logger = structlog.stdlib.get_logger(__name__)


class Ring(NamedTuple):
    """A bell that was heard: its entry in the stream, and the job."""

    entry: bytes
    job_id: uuid.UUID | None


class Signals:
    """Rings for jobs and tells that they changed; listens for both.

    Args:
        client: for commands that answer at once.
        blocking: for those that wait up to `blocking_seconds`.
        worker: the name of this process among the consumers.
    """

    def __init__(self, client: Redis, blocking: Redis, *, worker: str, blocking_seconds: float) -> None:
        self._client = client
        self._blocking = blocking
        self._worker = worker
        self._blocking_ms = int(blocking_seconds * 1000)
        self._to_ring: set[uuid.UUID] = set()
        self._to_tell: set[uuid.UUID] = set()
        self._something = asyncio.Event()
        self._listeners: dict[uuid.UUID, set[asyncio.Event]] = {}

    def ring(self, job_id: uuid.UUID) -> None:
        """Ring for a job, soon."""
        if len(self._to_ring) < _WAITING:
            self._to_ring.add(job_id)
            self._something.set()

    def announce(self, job_id: uuid.UUID) -> None:
        """Say that a job has changed: here at once, elsewhere soon."""
        self._notify(job_id)
        if len(self._to_tell) < _WAITING:
            self._to_tell.add(job_id)
            self._something.set()

    @contextmanager
    def listen(self, job_id: uuid.UUID) -> Generator[asyncio.Event]:
        """An event that is set at each change of a job."""
        event = asyncio.Event()
        self._listeners.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            events = self._listeners[job_id]
            events.discard(event)
            if not events:
                del self._listeners[job_id]

    async def send(self) -> None:
        """Send what is to be sent, for ever. What cannot be sent is dropped."""
        while True:
            await self._something.wait()
            self._something.clear()
            rings, self._to_ring = self._to_ring, set()
            changes, self._to_tell = self._to_tell, set()
            try:
                async with self._client.pipeline(transaction=False) as pipeline:
                    for job_id in rings:
                        pipeline.xadd(STREAM, {_FIELD: job_id.bytes}, maxlen=_STREAM_LENGTH, approximate=True)
                    for job_id in changes:
                        pipeline.publish(CHANNEL, job_id.bytes)
                    await pipeline.execute()
            except _DOWN as error:
                _logger.warning("signals were not sent", problem=str(error), rings=len(rings), changes=len(changes))
                await asyncio.sleep(backoff(3))

    async def receive(self) -> None:
        """Hear what others announce, for ever."""
        failures = 0
        while True:
            try:
                async with self._subscribed() as channel:
                    failures = 0
                    # What was announced while we did not listen is not known, so everybody looks.
                    for job_id in list(self._listeners):
                        self._notify(job_id)
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=1.0)
                        if message is not None and len(message["data"]) == 16:  # noqa: PLR2004 - the bytes of a UUID
                            self._notify(uuid.UUID(bytes=message["data"]))
            except _DOWN as error:
                failures += 1
                _logger.warning("changes are not heard", problem=str(error))
                await asyncio.sleep(backoff(failures))

    @asynccontextmanager
    async def _subscribed(self) -> AsyncGenerator[Any]:
        channel: Any = self._blocking.pubsub()
        try:
            await channel.subscribe(CHANNEL)
            yield channel
        finally:
            await channel.aclose()

    def _notify(self, job_id: uuid.UUID) -> None:
        for event in self._listeners.get(job_id, ()):
            event.set()

    async def hear(self, count: int) -> Sequence[Ring]:
        """Up to `count` rings that no other worker hears; none after a while without any.

        Raises:
            RedisError, OSError, TimeoutError: Redis cannot be reached.
        """
        try:
            answer: Any = await self._blocking.xreadgroup(
                GROUP, self._worker, {STREAM: ">"}, count=count, block=self._blocking_ms
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self._make_group()
            return ()
        return _rings(answer[0][1] if isinstance(answer, list) else next(iter(answer.values()))) if answer else ()

    async def unheard(self, *, idle_seconds: float) -> Sequence[Ring]:
        """Rings that a worker took and never answered, because it died."""
        try:
            answer: Any = await self._client.xautoclaim(
                STREAM, GROUP, self._worker, min_idle_time=int(idle_seconds * 1000), count=100
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return ()
        return _rings(answer[1])

    async def answered(self, rings: Sequence[Ring]) -> None:
        """These rings are dealt with."""
        entries = [ring.entry for ring in rings]
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.xack(STREAM, GROUP, *entries)
            pipeline.xdel(STREAM, *entries)
            await pipeline.execute()

    async def leave(self) -> None:
        """This consumer is gone for good."""
        await self._client.xgroup_delconsumer(STREAM, GROUP, self._worker)

    async def _make_group(self) -> None:
        try:
            await self._client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _rings(entries: Any) -> Sequence[Ring]:
    # redis-py nests the entries of a stream once more in its newer protocol.
    if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], list | tuple):
        entries = entries[0]
    rings: list[Ring] = []
    for entry, fields in entries:
        job: bytes = fields.get(_FIELD, b"") if fields else b""
        rings.append(Ring(entry, uuid.UUID(bytes=job) if len(job) == 16 else None))  # noqa: PLR2004 - the bytes of a UUID
    return rings
