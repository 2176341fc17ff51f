"""AuditService on the wire."""
# ruff: noqa: N802, ARG002 - gRPC names the methods, and gives each a context

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from almagest.auth.events.v1 import audit_pb2 as events
from almagest.auth.v1 import audit_pb2, audit_pb2_grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext

from auth.application.audit import Audit
from auth.domain.audit import EVENTS, NOBODY, Opened, Wanted
from auth.domain.errors import InvalidFields
from auth.entrypoints.people import page_size
from auth.entrypoints.wire import timestamp, uuid_of

_MOST_DENIALS = 1000

if TYPE_CHECKING:
    Context: TypeAlias = ServicerContext[Any, Any]
else:  # generic for the type checker only
    Context = Any


class Audited(Audit, Protocol):
    """The audit, with its reading half."""

    async def page(self, wanted: Wanted) -> Sequence[Opened]:
        """Events, the latest first."""
        ...


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """Answers for the audit."""

    def __init__(self, audit: Audited) -> None:
        self._audit = audit

    async def ListAuditEvents(
        self, request: audit_pb2.ListAuditEventsRequest, context: Context
    ) -> audit_pb2.ListAuditEventsResponse:
        """Answer a page."""
        unknown = sorted(set(request.types) - EVENTS.keys())
        if unknown:
            raise InvalidFields([("types", f"{', '.join(unknown)[:200]}: there is no such type")])
        limit = page_size(request.page_size)
        found = await self._audit.page(
            Wanted(
                subject_id=uuid_of("subject_id", request.subject_id) if request.subject_id else None,
                types=frozenset(request.types),
                since=_time(request.since) if request.HasField("since") else None,
                until=_time(request.until) if request.HasField("until") else None,
                before=uuid_of("page_token", request.page_token) if request.page_token else None,
                limit=limit + 1,
            )
        )
        more = len(found) > limit
        return audit_pb2.ListAuditEventsResponse(
            events=map(_message, found[:limit]), next_page_token=str(found[limit - 1].entry.id) if more else ""
        )

    async def ReportDenials(
        self, request: audit_pb2.ReportDenialsRequest, context: Context
    ) -> audit_pb2.ReportDenialsResponse:
        """Keep what a service has refused."""
        if len(request.denials) > _MOST_DENIALS:
            raise InvalidFields([("denials", f"are more than {_MOST_DENIALS}")])
        await keep_denials(self._audit, request.denials)
        return audit_pb2.ReportDenialsResponse()


class Denial(Protocol):
    """What was refused, on the wire or by ourselves."""

    @property
    def caller(self) -> str: ...  # noqa: D102
    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def count(self) -> int: ...  # noqa: D102


async def keep_denials(audit: Audit, denials: Iterable[Denial]) -> None:
    """Keep in the audit what a service has refused."""
    for denial in denials:
        await audit.record(
            events.CallsDenied(
                caller=denial.caller[:500],
                method=denial.method[:500],
                reason=denial.reason[:100],
                count=denial.count,
            ),
            of=NOBODY,
        )


def _message(opened: Opened) -> audit_pb2.AuditEvent:
    act = opened.event.act
    said: dict[str, Any] = MessageToDict(
        opened.event,  # pyright: ignore[reportArgumentType] - a message, of which `Event` tells a part
        preserving_proto_field_name=True,
    )
    said.pop("act", None)
    return audit_pb2.AuditEvent(
        event_id=str(opened.entry.id),
        type=opened.entry.type,
        subject_id=str(opened.entry.subject_id),
        at=timestamp(opened.entry.at),
        actor_id=act.actor_id,
        access_key_id=act.access_key_id,
        workload=act.workload,
        origin=opened.origin,
        details=json.dumps(said).encode(),
    )


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC)
