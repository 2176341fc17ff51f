"""Writing to one shard: one call of `append_batch` (migrations/sql). That is one round trip, and the transaction
begins and ends with the statement, so there is none that this process could leave open.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

from event_store.adapters.postgres.connection import PASSING, ShardDatabase
from event_store.application.append_loop import NotWritten, Outcome, Refused, SessionLost
from event_store.domain.append import Append, Appended, Committed
from event_store.domain.errors import AppendIdReused, LogError, RevisionConflict

_WRITTEN: Final = 0
_REPLAYED: Final = 1
_CONFLICT: Final = 2

_APPEND: Final = (
    "SELECT outcomes, first_revisions, last_revisions, positions, new_head"
    " FROM public.append_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
)
# A session of ours only, and never this one. Should the number meanwhile belong to another session of ours, that one
# is settled in the same way.
_END_SESSION: Final = (
    "SELECT coalesce(bool_and(pg_terminate_backend(pid, 2000)), true) FROM pg_stat_activity"
    " WHERE pid = $1 AND pid <> pg_backend_pid() AND usename = current_user AND datname = current_database()"
)
_COMMITTED: Final = (
    "SELECT append_id::text AS append_id, stream, fingerprint, first_revision, last_revision, position"
    " FROM public.appends WHERE append_id = ANY($1::uuid[])"
)
# What it says while it ends our session.
_ENDED: Final = frozenset({"57P01", "57P02", "57P03", "57P05"})
_WRONG_DATA: Final = frozenset({"22", "23", "54"})


class AppendingLog(ShardDatabase):
    """Writes to one shard; see `append_loop.Log`."""

    async def append(self, appends: Sequence[Append]) -> Outcome:
        """Write a batch in one transaction; see `append_loop.Log`."""
        arguments = _columns(appends)
        session = 0
        try:
            async with self._connection() as connection:
                session = connection.get_server_pid()
                async with asyncio.timeout(self._append_seconds):
                    row = await connection.fetchrow(_APPEND, *arguments)
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
            # TimeoutError is an OSError: the statement was given up, and its connection with it.
            if not session:
                raise NotWritten from error
            raise SessionLost(session) from error
        except asyncpg.PostgresError as error:
            raise _failure(error, session) from error
        assert row is not None  # noqa: S101 - a function with OUT parameters answers one row
        answers = [
            self._answer(append, *outcome)
            for append, *outcome in zip(
                appends, row["outcomes"], row["first_revisions"], row["last_revisions"], row["positions"], strict=True
            )
        ]
        return Outcome(answers, row["new_head"])

    @staticmethod
    def _answer(append: Append, outcome: int, first: int, last: int, position: int) -> Appended | LogError:
        if outcome == _WRITTEN:
            return Appended(first, last, position)
        if outcome == _REPLAYED:
            return Appended(first, last, position, replayed=True)
        if outcome == _CONFLICT:
            return RevisionConflict(append.stream, last)
        return AppendIdReused(append.append_id)

    async def settle(self, session: int, append_ids: Sequence[str]) -> Mapping[str, Committed]:
        """End a lost session, then find what is committed; see `append_loop.Log`."""
        async with self._asking() as connection:
            if not await connection.fetchval(_END_SESSION, session):
                raise NotWritten
            rows = await connection.fetch(_COMMITTED, append_ids)
        return {row["append_id"]: _as_committed(row) for row in rows}

    async def committed(self, append_id: str, stream: str) -> Committed | None:
        """What was answered to an append; None when none with this id was ever committed to this stream."""
        async with self._asking() as connection:
            row = await connection.fetchrow(_COMMITTED, [append_id])
        return _as_committed(row) if row is not None and row["stream"] == stream else None


def _columns(appends: Sequence[Append]) -> tuple[list[Any], ...]:
    """The appends as the arguments of `append_batch`. Ids and streams that come more than once get one slot."""
    id_slots: dict[str, int] = {}
    stream_slots: dict[str, int] = {}
    buckets: list[int] = []
    categories: list[str] = []
    id_of: list[int] = []
    stream_of: list[int] = []
    indexes: list[int] = []
    types: list[str] = []
    event_ids: list[str] = []
    payloads: list[bytes] = []
    metadatas: list[bytes] = []
    for index, append in enumerate(appends, 1):
        id_of.append(id_slots.setdefault(append.append_id, len(id_slots) + 1))
        slot = stream_slots.get(append.stream)
        if slot is None:
            slot = stream_slots[append.stream] = len(stream_slots) + 1
            buckets.append(append.bucket)
            categories.append(append.category)
        stream_of.append(slot)
        for event_id, name, payload, metadata in append.events:
            indexes.append(index)
            event_ids.append(event_id)
            types.append(name)
            payloads.append(payload)
            metadatas.append(metadata)
    return (
        list(id_slots),
        list(stream_slots),
        buckets,
        categories,
        id_of,
        stream_of,
        [append.expected for append in appends],
        [append.fingerprint for append in appends],
        [len(append.events) for append in appends],
        indexes,
        types,
        event_ids,
        payloads,
        metadatas,
    )


def _failure(error: asyncpg.PostgresError, session: int) -> Exception:
    state = error.sqlstate or ""
    if state in _ENDED:
        return SessionLost(session) if session else NotWritten()
    if state[:2] in PASSING:
        return NotWritten()
    if state[:2] in _WRONG_DATA:
        return Refused()
    return error


def _as_committed(row: Any) -> Committed:
    appended = Appended(row["first_revision"], row["last_revision"], row["position"])
    return Committed(row["append_id"], row["stream"], row["fingerprint"], appended)
