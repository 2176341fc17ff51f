"""Fetching the file of an import before it is run.

The file goes into the same store, in the same pieces, as one that is sent, and what is there when the fetch ends is the
file from then on: another attempt at the job does not ask for it again, as it may be another by then. A fetch that is
broken off begins anew. Every piece is stored in the name of the attempt, so that a worker that was paused cannot write
into the file of the one that has taken over.
"""

import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import grpc
import structlog
from chassis.decompression import CompressionRefused, unpacked_if_gzip
from chassis.outbound import Outbound, OutboundFailed, OutboundRefused

from worker.application.attempts import Attempt, Interrupted, Interruption, backoff, persistently
from worker.domain.errors import FileEmpty
from worker.domain.job import Ending, JobState, Problem

_TRIES = 5
_LONGEST_WAIT = 20.0
_FAILED = grpc.StatusCode.FAILED_PRECONDITION.value[0]
_logger = structlog.stdlib.get_logger(__name__)


class Store(Protocol):
    """Where a file is kept that an attempt fetches. Each step may be taken twice, and raises LeaseLost once the attempt
    is no longer the current one.
    """

    chunk_bytes: int

    async def restart(self, job_id: uuid.UUID, attempt: int) -> None:
        """Begin, with nothing."""
        ...

    async def keep(self, job_id: uuid.UUID, attempt: int, number: int, data: bytes, *, fetched: int) -> bool:
        """Store a chunk and how many bytes are there with it. Whether the job was asked to stop."""
        ...

    async def complete(self, job_id: uuid.UUID, attempt: int, *, size: int) -> None:
        """The file is there."""
        ...


class Ledger(Protocol):
    """Where the end of a job is written down."""

    async def end(self, job_id: uuid.UUID, attempt: int, ending: Ending) -> None:
        """End a job."""
        ...


class FetchRun:
    """The fetch of one attempt."""

    def __init__(
        self,
        attempt: Attempt,
        *,
        store: Store,
        ledger: Ledger,
        outbound: Outbound,
        announce: Callable[[uuid.UUID], None],
    ) -> None:
        self._attempt = attempt
        self._store = store
        self._ledger = ledger
        self._outbound = outbound
        self._announce = announce

    async def run(self) -> bool:
        """Fetch the file; False: it cannot be had, and the job has ended.

        Raises:
            Interrupted: The attempt is to stop early.
            LeaseLost: The job is somebody else's.
        """
        failures = 0
        while True:
            try:
                size = await self._fetch()
            except OutboundRefused as error:
                return await self._end("SOURCE_REFUSED", error.message)
            except (CompressionRefused, FileEmpty) as error:
                return await self._end("SOURCE_FAILED", str(error))
            except OutboundFailed as error:
                failures += 1
                _logger.warning("a file could not be fetched", problem=error.message, job_id=str(self._attempt.key[0]))
                if not error.passing or failures == _TRIES:
                    return await self._end("SOURCE_FAILED", error.message)
                await self._attempt.pause(backoff(failures, base=0.5, cap=_LONGEST_WAIT))
            else:
                break
        job_id, number = self._attempt.key
        await persistently(self._attempt, lambda: self._store.complete(job_id, number, size=size))
        job = self._attempt.job
        progress = dataclasses.replace(job.progress, bytes_total=size, bytes_fetched=size)
        self._attempt.job = dataclasses.replace(job, fetched=True, progress=progress)
        self._announce(job_id)
        return True

    async def _fetch(self) -> int:
        job_id, attempt = self._attempt.key
        await persistently(self._attempt, lambda: self._store.restart(job_id, attempt))
        fetched = number = 0
        async with self._outbound.get(self._attempt.job.source_url) as answer:
            limit = self._outbound.policy.maximum_bytes
            async for chunk in self._chunks(unpacked_if_gzip(answer.pieces, limit=limit)):
                self._heed()
                fetched += len(chunk)
                stop = await persistently(
                    self._attempt,
                    lambda: self._store.keep(job_id, attempt, number, chunk, fetched=fetched),  # noqa: B023 - awaited
                )
                number += 1
                if stop:
                    self._attempt.interrupt(Interruption.CANCEL)
                self._announce(job_id)
        if not fetched:
            raise FileEmpty
        return fetched

    async def _chunks(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = self._store.chunk_bytes
        held = bytearray()
        async for piece in pieces:
            held += piece
            while len(held) >= size:
                yield bytes(held[:size])
                del held[:size]
        if held:
            yield bytes(held)

    def _heed(self) -> None:
        if self._attempt.interruption is not None:
            raise Interrupted(self._attempt.interruption)

    async def _end(self, reason: str, message: str) -> bool:
        job_id, attempt = self._attempt.key
        ending = Ending(JobState.FAILED, Problem(code=_FAILED, reason=reason, message=message))
        await persistently(self._attempt, lambda: self._ledger.end(job_id, attempt, ending))
        self._announce(job_id)
        return False
