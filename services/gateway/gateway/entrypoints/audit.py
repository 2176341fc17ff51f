"""What was done with people, sessions and keys."""

from typing import Annotated

from almagest.auth.v1 import audit_pb2
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from gateway.entrypoints.dependencies import Asker, Backends, json_response, next_link, uuid_of
from gateway.entrypoints.documentation import ASKED, LINK, problems, success
from gateway.entrypoints.signed import SignedRoute
from gateway.entrypoints.times import timestamp_of
from gateway.representations.people import AuditEvent, AuditPage
from gateway.requests.people import ListAudit

router = APIRouter(tags=["audit"], route_class=SignedRoute)


@router.get(
    "/v1/audit",
    operation_id="listAudit",
    summary="The audit",
    responses={200: success("A page of the audit, latest first", AuditPage, LINK), **problems(*ASKED)},
)
async def list_audit(
    request: Request, wanted: Annotated[ListAudit, Query()], person: Asker, ports: Backends
) -> Response:
    """Who logged in, or tried to; whose rights, passwords, sessions and keys were changed by whom; which calls between
    services were refused. For admins. The same events stand in the log, where no one can change them unseen.
    """
    asked = audit_pb2.ListAuditEventsRequest(
        subject_id=uuid_of("subject", wanted.subject) if wanted.subject else "",
        types=wanted.type,
        page_size=wanted.page_size,
        page_token=uuid_of("cursor", wanted.cursor) if wanted.cursor else "",
    )
    for field in ("since", "until"):
        if (time := getattr(wanted, field)) is not None:
            getattr(asked, field).CopyFrom(timestamp_of(field, time))
    answer = await ports.auth.audit(asked, person)
    return json_response(
        AuditPage.model_construct(
            items=[AuditEvent.of(event) for event in answer.events], next_cursor=answer.next_page_token or None
        ),
        headers=next_link(request, answer.next_page_token),
    )
