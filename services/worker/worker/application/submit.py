"""Taking an import: the file first, then its job, then the bell.

The file is stored in pieces as it comes, so an upload needs as much memory whether it is a kilobyte or a gigabyte. It
is nobody's until the job
is committed, and whatever goes wrong before that leaves nothing behind.
"""

import asyncio
import contextvars
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from worker.domain.errors import CommandIdReused, FileEmpty, FileTooLarge, JobNotFound, SizeMismatch, UploadStalled
from worker.domain.job import ImportOptions, Job, NewJob

_logger = structlog.stdlib.get_logger(__name__)


class Files(Protocol):
    """Where files are kept until their job has ended."""

    async def begin(self, job_id: uuid.UUID) -> None:
        """Make room for a file."""
        ...

    async def store(self, job_id: uuid.UUID, number: int, data: bytes) -> None:
        """Store a chunk."""
        ...

    async def discard(self, job_id: uuid.UUID) -> None:
        """Delete a file that has no job."""
        ...


class Jobs(Protocol):
    """Where jobs are."""

    async def submit(self, new: NewJob) -> Job | None:
        """Make a job; None when its command id is taken."""
        ...

    async def find_by_command(self, submitted_by: str, command_id: uuid.UUID) -> Job | None:
        """The job that a person's command made."""
        ...


@dataclass(frozen=True, slots=True)
class NewImport:
    """What is announced before the file comes."""

    command_id: uuid.UUID
    name: str
    options: ImportOptions
    size: int | None
    submitted_by: str
    traceparent: str
    source_url: str = ""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """The greatest size of a file and the size of its chunks in bytes, and how many seconds may pass without any."""

    file_bytes: int
    chunk_bytes: int
    idle_seconds: float


class Imports:
    """Takes imports."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        files: Files,
        limits: UploadLimits,
        ring: Callable[[uuid.UUID], None],
        new_id: Callable[[], uuid.UUID],
        check_source: Callable[[str], None],
    ) -> None:
        self._jobs = jobs
        self._files = files
        self._limits = limits
        self._ring = ring
        self._new_id = new_id
        self._check_source = check_source
        self._cleaning: set[asyncio.Task[None]] = set()

    async def submit(self, new: NewImport, pieces: AsyncIterator[bytes]) -> Job:
        """Take a file and make its job. The same command again gets the original job, once its file has proven to be
        the same.

        Raises:
            FileEmpty, FileTooLarge, SizeMismatch, UploadStalled: The file is not as it must be, or did not come.
            CommandIdReused: The command id belongs to another import.
        """
        if new.size is not None and new.size > self._limits.file_bytes:
            raise FileTooLarge(self._limits.file_bytes)
        upload = _Upload(new, pieces, self._limits)
        original = await self._jobs.find_by_command(new.submitted_by, new.command_id)
        if original is not None:
            async for _ in upload.chunks():
                pass
            return _same(original, upload.fingerprint())
        job_id = self._new_id()
        try:
            await self._files.begin(job_id)
            number = 0
            async for chunk in upload.chunks():
                await self._files.store(job_id, number, chunk)
                number += 1
            job = await self._made(new, job_id, upload)
        except BaseException:
            await self._discard(job_id)
            raise
        if job is not None:
            return job
        # The same command came twice at once, and the other one was faster.
        await self._discard(job_id)
        return await self._faster(new, job_id, upload)

    async def submit_from(self, new: NewImport, pieces: AsyncIterator[bytes]) -> Job:
        """Make the job of a file that is still to be fetched. The same command again gets the original job.

        Raises:
            SourceRefused: It is not fetched from there.
            SizeMismatch: Bytes came all the same.
            CommandIdReused: The command id belongs to another import.
        """
        upload = _Upload(new, pieces, self._limits)
        async for piece in upload.timely():
            raise SizeMismatch(announced=0, received=len(piece))
        original = await self._jobs.find_by_command(new.submitted_by, new.command_id)
        if original is not None:
            return _same(original, upload.fingerprint())
        self._check_source(new.source_url)
        job_id = self._new_id()
        return await self._made(new, job_id, upload) or await self._faster(new, job_id, upload)

    async def _made(self, new: NewImport, job_id: uuid.UUID, upload: "_Upload") -> Job | None:
        job = await self._jobs.submit(
            NewJob(
                job_id=job_id,
                name=new.name,
                options=new.options,
                submitted_by=new.submitted_by,
                command_id=new.command_id,
                fingerprint=upload.fingerprint(),
                traceparent=new.traceparent,
                bytes_total=upload.received,
                source_url=new.source_url,
            )
        )
        if job is not None:
            self._ring(job_id)
        return job

    async def _faster(self, new: NewImport, job_id: uuid.UUID, upload: "_Upload") -> Job:
        """The job of the same command that was made while this one was about to be."""
        original = await self._jobs.find_by_command(new.submitted_by, new.command_id)
        if original is None:
            raise JobNotFound(str(job_id))
        return _same(original, upload.fingerprint())

    async def _discard(self, job_id: uuid.UUID) -> None:
        """Delete the file, also when the caller is gone and this task is being cancelled."""
        # Not in the context of the call, whose deadline may be what ended it.
        task = asyncio.create_task(self._files.discard(job_id), context=contextvars.Context())
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)
        try:
            await asyncio.shield(task)
        except Exception:
            # What failed the upload is what the caller must hear; the sweep deletes what is left.
            _logger.exception("a broken upload is left for the sweep", job_id=str(job_id))


class _Upload:
    """A file as it comes: cut into chunks, counted, and digested."""

    def __init__(self, new: NewImport, pieces: AsyncIterator[bytes], limits: UploadLimits) -> None:
        self._announced = new.size
        self._pieces = pieces
        self._limits = limits
        self._digest = hashlib.sha256()
        options = new.options
        parts = [new.name, options.format, options.on_error, options.dry_run, options.reason]
        for part in [*parts, new.source_url] if new.source_url else parts:
            encoded = str(part).encode()
            self._digest.update(len(encoded).to_bytes(8, "big") + encoded)
        self.received = 0

    def fingerprint(self) -> bytes:
        """A digest of the whole request."""
        return self._digest.digest()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file in chunks of one size, the last one shorter."""
        held = bytearray()
        async for piece in self.timely():
            self.received += len(piece)
            if self.received > self._limits.file_bytes:
                raise FileTooLarge(self._limits.file_bytes)
            if self._announced is not None and self.received > self._announced:
                raise SizeMismatch(announced=self._announced, received=self.received)
            self._digest.update(piece)
            held += piece
            while len(held) >= self._limits.chunk_bytes:
                yield bytes(held[: self._limits.chunk_bytes])
                del held[: self._limits.chunk_bytes]
        if self.received == 0 and not self._announced:
            raise FileEmpty
        if self._announced is not None and self.received != self._announced:
            raise SizeMismatch(announced=self._announced, received=self.received)
        if held:
            yield bytes(held)

    async def timely(self) -> AsyncIterator[bytes]:
        """The file in the pieces that come."""
        while True:
            try:
                async with asyncio.timeout(self._limits.idle_seconds):
                    piece = await anext(self._pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise UploadStalled(self._limits.idle_seconds) from None
            yield piece


def _same(original: Job, fingerprint: bytes) -> Job:
    if original.fingerprint != fingerprint:
        raise CommandIdReused(str(original.command_id), str(original.job_id))
    return original
