"""argon2id with OWASP's parameters, in threads of its own.

A hash takes tens of milliseconds and 19 MiB by design. Two threads are the semaphore: at most two hashes at once,
however many people log in, and a caller who gives up frees a place only when the thread is done, which a semaphore
around the await would get wrong.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerifyMismatchError

from auth.domain.concealed import Password, PasswordHash
from auth.domain.errors import TooManyLogins

T = TypeVar("T")

_THREADS = 2
_LONGEST_QUEUE = 64


class Argon2Passwords:
    """Hashes and checks passwords with m = 19456 KiB, t = 2, p = 1 (OWASP Password Storage Cheat Sheet)."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="argon2")
        self._waiting = 0
        self._in_bulk = asyncio.Semaphore(1)
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()
        self._nobodys = PasswordHash(self._hasher.hash(secrets.token_urlsafe()))

    async def hash(self, password: Password) -> PasswordHash:
        """Hash with today's parameters.

        Raises:
            TooManyLogins: too many wait already.
        """
        return PasswordHash(await self._in_thread(lambda: self._hasher.hash(password.reveal())))

    async def hash_in_bulk(self, password: Password) -> PasswordHash:
        """Hash when no log-in waits: one at a time, which leaves them the other thread, however many there are."""
        async with self._in_bulk:
            await self._nobody_waits.wait()
            return PasswordHash(await self._in_thread(lambda: self._hasher.hash(password.reveal()), counted=False))

    async def verify(self, password: Password, against: PasswordHash | None) -> bool:
        """Check a password. Against None it takes as long as ever, and is wrong.

        Raises:
            TooManyLogins: too many wait already.
        """
        right = await self._in_thread(lambda: self._matches(password, against or self._nobodys))
        return right and against is not None

    def outdated(self, password_hash: PasswordHash) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(password_hash.reveal())

    def close(self) -> None:
        """Wait for the hashes that are being made."""
        self._threads.shutdown(cancel_futures=True)

    def _matches(self, password: Password, password_hash: PasswordHash) -> bool:
        try:
            return self._hasher.verify(password_hash.reveal(), password.reveal())
        except VerifyMismatchError:
            return False

    async def _in_thread(self, work: Callable[[], T], *, counted: bool = True) -> T:
        if counted and self._waiting >= _LONGEST_QUEUE:
            raise TooManyLogins
        loop = asyncio.get_running_loop()
        future = self._threads.submit(work)
        self._waiting += counted
        if self._waiting:
            self._nobody_waits.clear()

        def done(_: object) -> None:
            self._waiting -= counted
            if not self._waiting:
                self._nobody_waits.set()

        future.add_done_callback(lambda ended: loop.call_soon_threadsafe(done, ended) if not loop.is_closed() else None)
        return await asyncio.wrap_future(future)
