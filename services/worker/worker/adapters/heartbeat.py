"""Renews the leases of this process from a thread of its own, with an event loop and a connection of its own.

A lease that is renewed by the loop that does the work is lost whenever the work computes for too long, and then two
workers do the same job: the
commonest complaint about every job queue in Python. Here nothing short of stopping the whole process stops the
renewal, and a stopped process
is what leases are for.
"""

import asyncio
import threading
import time
import uuid
from typing import Self

import structlog
from chassis.database.pool import Database

from worker.adapters.postgres import PostgresJobs
from worker.application.attempts import Attempt

_logger = structlog.stdlib.get_logger(__name__)


class Heartbeat:
    """Keeps attempts alive. Made and used on the loop that runs them; a context manager that starts and ends the
    thread.

    Args:
        dsn: the jobs database.
        lease_seconds: how long a lease holds without renewal; it is renewed five times in that.
    """

    def __init__(self, dsn: str, *, lease_seconds: float) -> None:
        self._dsn = dsn
        self._lease_seconds = lease_seconds
        self._held: dict[tuple[uuid.UUID, int], Attempt] = {}
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()

    async def ended(self) -> None:
        """Wait until the thread has let go of the database."""
        await asyncio.to_thread(self._thread.join, 5.0)

    def hold(self, attempt: Attempt) -> None:
        """Renew an attempt's lease from now on."""
        with self._guard:
            self._held[attempt.key] = attempt

    def drop(self, attempt: Attempt) -> None:
        """No longer."""
        with self._guard:
            self._held.pop(attempt.key, None)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        database: Database | None = None
        interval = self._lease_seconds / 5
        try:
            while not self._ending.is_set():
                began = time.monotonic()
                try:
                    if database is None:
                        database = await Database.open(
                            self._dsn, name="jobs-leases", size=1, statement_timeout=interval
                        )
                    await self._renew(PostgresJobs(database), began)
                except Exception as error:  # noqa: BLE001 - whatever it is, the next beat tries again, and leases that run out are lost by themselves
                    _logger.warning("leases were not renewed", problem=str(error), held=len(self._held))
                await asyncio.to_thread(self._ending.wait, max(0.0, began + interval - time.monotonic()))
        finally:
            if database is not None:
                await database.close()

    async def _renew(self, jobs: PostgresJobs, began: float) -> None:
        with self._guard:
            held = dict(self._held)
        if not held:
            return
        renewed = await jobs.renew(list(held), lease_seconds=self._lease_seconds)
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        for key, attempt in held.items():
            if key in renewed:
                loop.call_soon_threadsafe(
                    lambda attempt=attempt, cancel=renewed[key]: attempt.renewed(
                        began + self._lease_seconds, cancel_requested=cancel
                    )
                )
            else:
                loop.call_soon_threadsafe(attempt.lose)
