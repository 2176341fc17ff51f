"""Revocations in Postgres: written in the transaction of the act, read by every replica a quarter of a second later.

A replica that wrote one is woken by its commit, so that its own listeners hear at once.
"""

import asyncio
from uuid import UUID

import structlog
from chassis.revocations import REMEMBERED_SECONDS, Revocation, Revocations, Revoked
from sqlalchemy import event, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from auth.adapters.sharding import Shards
from auth.adapters.tables import RevocationRow, UserRow
from auth.domain.identifiers import bucket_in

EVERY_SECONDS = 0.25
_LATE_SECONDS = 3.0
_CLEAN_EVERY = 240
_KEPT_SECONDS = 600
# The horizon is the oldest transaction that still runs: all before it are seen, or were rolled back.
_NEWS = text(
    "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, r.kind, r.target, r.generation FROM (SELECT) AS one "
    "LEFT JOIN revocations r ON r.transaction_id >= :since AND r.revoked_at > now() - make_interval(secs => :seconds) "
    "ORDER BY r.revoked_at"
)
_CLEAN = text("DELETE FROM revocations WHERE revoked_at < now() - make_interval(secs => :seconds)")

_logger = structlog.get_logger(__name__)


class PostgresRevocations:
    """Writes revocations into the transactions of others, and tells this process of all that were committed."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], shards: Shards) -> None:
        self._sessions = sessions
        self._shards = shards
        self._since = dict.fromkeys(shards.names, 0)
        self._committed = asyncio.Event()
        self._read_at = float("-inf")

    async def add(self, unit: AsyncSession, kind: Revoked, target: UUID, *, generation: int = 0) -> None:
        """Revoke in the transaction of `unit`. The id of a session, access key or person carries its bucket."""
        row = insert(RevocationRow).values(kind=kind, target=target, generation=generation).on_conflict_do_nothing()
        shard = self._shards.of_bucket(bucket_in(target))
        await unit.execute(row, bind_arguments={"shard_id": shard})
        event.listen(unit.sync_session, "after_commit", self._wake, once=True)

    async def add_person(self, unit: AsyncSession, user_id: UUID) -> None:
        """Revoke all tokens that a person has, in the transaction that changes what the person may do."""
        counted = update(UserRow).where(UserRow.id == user_id).values(generation=UserRow.generation + 1)
        generation = (
            await unit.execute(counted.returning(UserRow.generation), execution_options={"synchronize_session": False})
        ).scalar_one()
        await self.add(unit, Revoked.PERSON, user_id, generation=generation)

    async def watch(self, revocations: Revocations) -> None:
        """Tell what was committed, by whichever replica, for ever."""
        turn = 0
        while True:
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._committed.wait()
            except TimeoutError:
                pass
            self._committed.clear()
            turn += 1
            try:
                await self.read(revocations)
                if turn % _CLEAN_EVERY == 0:
                    await self._clean()
            except Exception:
                # `current` says so to those who listen; the databases' own probe says the rest.
                _logger.warning("revocations could not be read", exc_info=True)
                await asyncio.sleep(EVERY_SECONDS)

    async def read(self, revocations: Revocations) -> None:
        """Tell what was committed since the last time."""
        began = asyncio.get_running_loop().time()
        for shard in self._shards.names:
            async with self._sessions.begin() as unit:
                rows = (
                    await unit.execute(
                        _NEWS,
                        {"since": self._since[shard], "seconds": REMEMBERED_SECONDS},
                        bind_arguments={"shard_id": shard},
                    )
                ).all()
            for _, kind, target, generation in rows:
                if kind is not None:
                    revocations.add(Revocation(Revoked(kind), str(target), generation))
            self._since[shard] = rows[0][0]
        self._read_at = began

    @property
    def current(self) -> bool:
        """Whether this process knows what is revoked, as of a moment ago."""
        return asyncio.get_running_loop().time() - self._read_at < _LATE_SECONDS

    def _wake(self, _session: object) -> None:
        self._committed.set()

    async def _clean(self) -> None:
        for shard in self._shards.names:
            async with self._sessions.begin() as unit:
                await unit.execute(_CLEAN, {"seconds": _KEPT_SECONDS}, bind_arguments={"shard_id": shard})
