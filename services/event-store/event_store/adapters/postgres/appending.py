"""Writing to one shard: one call of `append_plain` or `append_batch` (migrations/sql). That is one round trip, and the
transaction begins and ends with the statement, so there is none that this process could leave open.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

from event_store.adapters.postgres import batches
from event_store.adapters.postgres.connection import PASSING, ShardDatabase
from event_store.application.append_loop import NotWritten, Outcome, Refused, SessionLost
from event_store.domain.append import Append, Appended, Committed, Part, StreamAppended
from event_store.domain.errors import AppendIdReused, BucketMoved, LogError, RevisionConflict, StreamTombstoned

_WRITTEN: Final = 0
_REPLAYED: Final = 1
_CONFLICT: Final = 2
_REUSED: Final = 3
_NOT_HELD: Final = 4

_APPEND_PLAIN: Final = (
    "SELECT revisions_before, outcomes, refused_parts, first_revisions, last_revisions, positions, alsos, new_head,"
    " map_epoch FROM public.append_plain($1::text::uuid[], $2, $3::text::text[], $4::text::smallint[],"
    " $5::text::text[], $6::text::bigint[], $7::text::integer[], $8::text::integer[], $9::text::text[],"
    " $10::text::uuid[], $11, $12)"
)
_APPEND: Final = (
    "SELECT outcomes, refused_parts, first_revisions, last_revisions, positions, alsos, new_head, map_epoch"
    " FROM public.append_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,"
    " $20)"
)
# A session of ours only, and never this one. Should the number meanwhile belong to another session of ours, that one
# is settled in the same way.
_END_SESSION: Final = (
    "SELECT coalesce(bool_and(pg_terminate_backend(pid, 2000)), true) FROM pg_stat_activity"
    " WHERE pid = $1 AND pid <> pg_backend_pid() AND usename = current_user AND datname = current_database()"
)
_COMMITTED: Final = (
    "SELECT append_id::text AS append_id, stream, fingerprint, first_revision, last_revision, position, also"
    " FROM public.appends WHERE append_id = ANY($1::uuid[])"
)
# What it says while it ends our session.
_ENDED: Final = frozenset({"57P01", "57P02", "57P03", "57P05"})
_WRONG_DATA: Final = frozenset({"22", "23", "54"})


class AppendingLog(ShardDatabase):
    """Writes to one shard; see `append_loop.Log`."""

    async def append(self, appends: Sequence[Append]) -> Outcome:
        """Write a batch in one transaction; see `append_loop.Log`."""
        arguments = batches.plain(appends)
        statement = _APPEND_PLAIN
        if arguments is None:
            arguments, statement = batches.general(appends), _APPEND
        session = 0
        try:
            async with self._writing() as connection:
                session = connection.get_server_pid()
                async with asyncio.timeout(self._append_seconds):
                    row = await connection.fetchrow(statement, *arguments)
        except (NotWritten, OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
            # The pool says of a connection that was lost in mid-statement what it says of one that it could not give.
            # TimeoutError is an OSError: the statement was given up, and its connection with it.
            if not session:
                raise NotWritten from error
            raise SessionLost(session) from error
        except asyncpg.PostgresError as error:
            raise _failure(error, session) from error
        assert row is not None  # noqa: S101 - a function with OUT parameters answers one row
        if statement is _APPEND_PLAIN and (before := row["revisions_before"]) is not None:
            answers = _all_written(appends, before, row["new_head"])
        else:
            answers = self._answers(appends, row)
        return Outcome(answers, row["new_head"], row["map_epoch"])

    def _answers(self, appends: Sequence[Append], row: Any) -> Sequence[Appended | LogError]:
        outcomes, refused, positions, alsos = row["outcomes"], row["refused_parts"], row["positions"], row["alsos"]
        first, last, epoch = row["first_revisions"], row["last_revisions"], row["map_epoch"]
        answers: list[Appended | LogError] = []
        part = 0
        for index, append in enumerate(appends):
            outcome = outcomes[index]
            if outcome == _WRITTEN:
                also = _written(append.also, first, last, part + 1) if append.also else ()
                answers.append(Appended(first[part], last[part], positions[index], False, also))
            elif outcome == _REPLAYED:
                also = _remembered(alsos[index]) if alsos is not None else ()
                answers.append(Appended(first[part], last[part], positions[index], True, also))
            elif outcome == _REUSED:
                answers.append(AppendIdReused(append.append_id))
            else:
                number = refused[index] - 1
                answers.append(self._refusal(append, number, outcome, last[part + number], epoch))
            part += 1 + len(append.also)
        return answers

    def _refusal(self, append: Append, number: int, outcome: int, actual: int, epoch: int) -> LogError:
        stream, bucket = append.stream, append.bucket
        if number:
            stream, _, bucket, *_ = append.also[number - 1]
        if outcome == _CONFLICT:
            return RevisionConflict(stream, actual)
        if outcome == _NOT_HELD:
            return BucketMoved(stream, bucket, self._shard, epoch)
        return StreamTombstoned(stream if append.setting is None else append.setting.stream)

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
    also = _remembered(row["also"])
    appended = Appended(row["first_revision"], row["last_revision"], row["position"], also=also)
    return Committed(row["append_id"], row["stream"], row["fingerprint"], appended)


def _all_written(appends: Sequence[Append], before: Sequence[int], head: int) -> Sequence[Appended]:
    """Where the events of plain appends are; `before` has the last revision of each stream before."""
    answers: list[Appended] = []
    position = head - sum([len(append.events) for append in appends])
    for append, revision in zip(appends, before, strict=True):
        size = len(append.events)
        position += size
        answers.append(Appended(revision + 1, revision + size, position))
    return answers


def _written(also: Sequence[Part], first: Sequence[int], last: Sequence[int], number: int) -> Sequence[StreamAppended]:
    """Where the events of further streams are; `number` is that of the first of them among all parts."""
    return [StreamAppended(part.stream, first[n], last[n]) for n, part in enumerate(also, number) if part.events]


def _remembered(also: str | None) -> Sequence[StreamAppended]:
    return () if also is None else [StreamAppended(*entry) for entry in json.loads(also)]
