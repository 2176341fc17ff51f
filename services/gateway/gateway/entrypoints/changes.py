"""The change feed: server-sent events, or a JSON document a line."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Final

from almagest.catalog.v1 import changes_pb2
from chassis.deadlines import set_deadline
from chassis.errors import ChassisError, RemoteProblem
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.application.changes import Access, Feed, Feeds
from gateway.application.people import People, expiry_of
from gateway.encoding import encode
from gateway.entrypoints.dependencies import BOUND_TO, Asker, Backends
from gateway.entrypoints.documentation import ASKED, problems, success
from gateway.entrypoints.events import EventStream
from gateway.entrypoints.signed import SIGNER, SignedRoute, Signer
from gateway.representations.changes import CatalogChange, catalog_change
from gateway.requests.changes import ListChanges

NDJSON: Final = "application/x-ndjson"
_HEARTBEAT_BEFORE: Final = 0.8
"""catalog-query is asked to speak a little before the stream would have to by itself, as it tells the cursor, too."""
_KINDS: Final = {"vehicle": ("car", "truck")}
_EXAMPLE: Final = """retry: 1000

id: 6hWq1cTj5dpbMSxbWzAsNDEsIjAxOTNhMWMyIl1dXQ

id: 0bM3kPz7xQ9bMSxbWzAsNDIsIjAxOTNhMWMyIl1dXQ
event: change
data: {"type":"PriceSet","product_id":"0193a1c2-7f4e-7c3a-9d52-3f1b6f1f0c11","sku":"volvo-v60-2026","revision":3,...}

"""

router = APIRouter(tags=["changes"], route_class=SignedRoute)
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=2000,
        description="The `id` of the last event seen, as browsers send it by themselves: goes on after it, whatever "
        "`after` says.",
    ),
]
Accept = Annotated[str, Header(include_in_schema=False)]


@router.get(
    "/v1/changes",
    operation_id="followChanges",
    summary="Follow all changes",
    responses={
        200: {
            **success("The changes, each an event `change`, as they come", CatalogChange),
            "content": {
                "text/event-stream": {"schema": {"description": "Server-sent events."}, "example": _EXAMPLE},
                NDJSON: {"schema": {"type": "string", "description": "One `CatalogChange` a line."}},
            },
        },
        **problems(*ASKED, 409),
    },
)
async def follow_changes(
    request: Request,
    person: Asker,
    wanted: Annotated[ListChanges, Query()],
    ports: Backends,
    last_event_id: LastEventId = None,
    accept: Accept = "",
) -> Response:
    """Every change of every product, from any point on, without gaps.

    The changes of one product come in the order of their revisions; between products no order is promised. Each has an
    `id`: a client that is cut off goes on with `Last-Event-ID`, and misses nothing; what it has seen before its last id
    it does not see again. An `id` without data tells where the feed is when nothing that was asked for has happened.
    The feed ends with the access token, or with the signature of the request: ask again, and go on. With `Accept:
    application/x-ndjson` each change is a line, with its `cursor` for `after`; empty lines keep the connection alive.
    """
    asked = changes_pb2.SubscribeChangesRequest(
        kinds=sorted({kind for one in wanted.kind for kind in _KINDS.get(one, (one,))}),
        categories=wanted.category,
        types=wanted.type,
        only_recorded=not wanted.follow,
    )
    heartbeat = request.app.state.settings.changes_heartbeat_seconds
    asked.heartbeat.FromNanoseconds(int(heartbeat * _HEARTBEAT_BEFORE * 1e9))
    after = last_event_id or wanted.after
    if after == "start":
        asked.start.SetInParent()
    elif after == "now":
        asked.now.SetInParent()
    else:
        asked.cursor = after

    def feed(feeds: Feeds, people: People) -> Feed:
        return Feed(feeds, changes=ports.changes, access=_access(request, people), request=asked)

    return _ChangeStream(feed, request, subject=person.subject, as_lines=NDJSON in accept)


def _access(request: Request, people: People) -> Access:
    signer: Signer | None = request.scope.get(SIGNER)
    if signer is not None:
        return Access(signer.anew, signer.verified.ends, "SIGNATURE_EXPIRED")
    token = request.headers["authorization"].partition(" ")[2].strip()
    bound_to: str = request.scope.get(BOUND_TO, "")
    return Access(lambda: people.person(token, bound_to=bound_to), expiry_of(token), "ACCESS_TOKEN_EXPIRED")


class _ChangeStream(Response):
    """Begins with what the feed says first, so that a feed that cannot be is a problem like any other."""

    def __init__(
        self, feed: Callable[[Feeds, People], Feed], request: Request, *, subject: str, as_lines: bool
    ) -> None:
        super().__init__()
        self._feed = feed
        self._state: Any = request.app.state
        self._subject = subject
        self._as_lines = as_lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end."""
        settings, feeds = self._state.settings, self._state.feeds
        # As long as there are changes.
        set_deadline(None)
        with feeds.place(self._subject):
            async with self._feed(feeds, self._state.people) as feed:
                async with asyncio.timeout(settings.request_seconds):
                    first = await anext(feed, None)
                write = _lines if self._as_lines else _events
                stream = EventStream(
                    write(first, feed),
                    media_type=NDJSON if self._as_lines else None,
                    preamble=b"" if self._as_lines else None,
                    heartbeat=b"\n" if self._as_lines else None,
                    heartbeat_seconds=settings.changes_heartbeat_seconds,
                    stalled_seconds=settings.changes_stalled_seconds,
                )
                await stream(scope, receive, send)


async def _events(first: changes_pb2.SubscribeChangesResponse | None, feed: Feed) -> AsyncIterator[bytes]:
    if first is not None:
        yield _event_of(first)
    try:
        async for piece in feed:
            yield _event_of(piece)
    except (RemoteProblem, ChassisError) as error:
        yield b"event: end\ndata: %b\n\n" % encode({"reason": _reason(error)})


def _event_of(piece: changes_pb2.SubscribeChangesResponse) -> bytes:
    if not piece.changes:
        # An id without data moves the client's last event id, and is no event.
        return b"id: %b\n\n" % piece.cursor.encode()
    return b"".join(
        b"id: %b\nevent: change\ndata: %b\n\n" % (change.cursor.encode(), encode(catalog_change(change)))
        for change in piece.changes
    )


async def _lines(first: changes_pb2.SubscribeChangesResponse | None, feed: Feed) -> AsyncIterator[bytes]:
    if first is not None:
        yield _lines_of(first)
    async for piece in feed:
        yield _lines_of(piece)


def _lines_of(piece: changes_pb2.SubscribeChangesResponse) -> bytes:
    return b"".join(encode(catalog_change(change)) + b"\n" for change in piece.changes) or b"\n"


def _reason(error: RemoteProblem | ChassisError) -> str:
    return error.problem.reason if isinstance(error, RemoteProblem) else error.reason
