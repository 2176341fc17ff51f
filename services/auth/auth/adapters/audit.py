"""The audit in Postgres. The service may add to it, and neither change nor delete what is there.

Where somebody acted from is personal. It is sealed under the key of who acted, or of whom it is about when nobody is
known to have acted, so that it ends with them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from almagest.auth.events.v1 import audit_pb2
from chassis.caller import current_caller, current_origin
from chassis.sealing.aead import SealingError
from chassis.sealing.subjects import SubjectForgotten, SubjectSealer
from chassis.tokens import person_or_none
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from auth.adapters.tables import AuditEventRow
from auth.domain.audit import EVENTS, Entry, Event, Opened, Wanted
from auth.domain.identifiers import bucket_in, stamped

_FIELD = "almagest.auth.events.v1.Act.sealed_origin"


class PostgresAudit:
    """The audit, each event on the shard of its subject."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        sealer: SubjectSealer,
        *,
        clock: Callable[[], datetime],
        fresh_id: Callable[[], UUID],
    ) -> None:
        self._sessions = sessions
        self._sealer = sealer
        self._clock = clock
        self._fresh_id = fresh_id

    async def entry(self, event: Event, *, of: UUID, **origin: str) -> Entry:
        """What is to be written about a subject. Not inside a transaction: sealing may need a connection as well."""
        event_id = stamped(self._fresh_id(), bucket_in(of))
        at = self._clock()
        act = event.act
        act.at.FromDatetime(at)
        person = person_or_none()
        if person is not None:
            act.actor_id = person.subject
            act.access_key_id = person.access_key_id
            act.transaction_id = person.transaction_id
        with suppress(LookupError):  # a command of an operator has none
            act.workload = str(current_caller())
        request = current_origin()
        known = origin if request is None else {"address": request.address, "user_agent": request.agent, **origin}
        if known:
            with suppress(SubjectForgotten):  # of whom nothing is said any more
                act.sealed_origin = await self._sealer.seal(
                    _owner(act, of), _FIELD, json.dumps(known).encode(), event_id.bytes
                )
        return Entry(event_id, of, event.DESCRIPTOR.name, event.SerializeToString(), at)

    async def record(self, event: Event, *, of: UUID, **origin: str) -> None:
        """Write an event in a transaction of its own."""
        entry = await self.entry(event, of=of, **origin)
        async with self._sessions.begin() as unit:
            write(unit, entry)

    async def page(self, wanted: Wanted) -> Sequence[Opened]:
        """Events, the latest first."""
        rows = select(AuditEventRow)
        if wanted.subject_id is not None:
            rows = rows.where(AuditEventRow.subject_id == wanted.subject_id)
        if wanted.types:
            rows = rows.where(AuditEventRow.type.in_(sorted(wanted.types)))
        if wanted.since is not None:
            rows = rows.where(AuditEventRow.at >= wanted.since)
        if wanted.until is not None:
            rows = rows.where(AuditEventRow.at < wanted.until)
        if wanted.before is not None:
            # Not a criterion that leads to one shard: `of_statement` looks at equality alone.
            rows = rows.where(AuditEventRow.id < wanted.before)
        async with self._sessions.begin() as unit:
            found = list(await unit.scalars(rows.order_by(AuditEventRow.id.desc()).limit(wanted.limit)))
        # Each shard has answered so many.
        found.sort(key=lambda row: row.id, reverse=True)
        return [await self._opened(entry_of(row)) for row in found[: wanted.limit]]

    async def _opened(self, entry: Entry) -> Opened:
        event: Event = EVENTS[entry.type].FromString(entry.payload)
        return Opened(entry, event, await self._origin(event.act, entry))

    async def _origin(self, act: audit_pb2.Act, entry: Entry) -> dict[str, str]:
        if not act.sealed_origin:
            return {}
        try:
            opened = await self._sealer.open(_owner(act, entry.subject_id), _FIELD, act.sealed_origin, entry.id.bytes)
        except SealingError:
            return {}
        said: Mapping[str, str] = json.loads(opened)
        return dict(said)


def write(unit: AsyncSession, entry: Entry) -> None:
    """Add an entry in the transaction of its act."""
    unit.add(
        AuditEventRow(id=entry.id, subject_id=entry.subject_id, type=entry.type, payload=entry.payload, at=entry.at)
    )


def entry_of(row: Any) -> Entry:
    """What a row holds."""
    return Entry(row.id, row.subject_id, row.type, row.payload, row.at)


def _owner(act: audit_pb2.Act, subject: UUID) -> UUID:
    """Whose personal data it is where an act came from."""
    return UUID(act.actor_id) if act.actor_id else subject
