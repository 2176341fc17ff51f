"""CatalogChangesService: wire in, feed followed, wire out, for as long as the person's token is good."""
# ruff: noqa: N802, D102 - the method is gRPC's: its name; the proto documents it

import asyncio
import time
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import grpc
from almagest.catalog.v1 import changes_pb2, changes_pb2_grpc
from chassis.errors import InvalidRequest, Unauthenticated
from chassis.tokens import Claims, current_person
from prometheus_client import Counter, Gauge

from catalog_query.application.changes.describing import Interest
from catalog_query.application.changes.feed import ChangeFeeds, Told
from catalog_query.application.changes.places import LogState, Vector
from catalog_query.domain.product import TYPES
from catalog_query.domain.query import KINDS
from catalog_query.entrypoints.policy import WRITE

_HEARTBEAT: Final = (0.1, 5.0, 60.0)
"""The shortest, the usual, the longest."""
_MOST_CHOICES: Final = 20
_LONGEST_CATEGORY: Final = 200

_feeds = Gauge("almagest_change_feeds", "Change feeds that are open.")
_told = Counter("almagest_changes_told_total", "Changes told to subscribers.")

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class CatalogChangesServicer(changes_pb2_grpc.CatalogChangesServiceServicer):
    """Tells what changes."""

    def __init__(self, feeds: ChangeFeeds) -> None:
        self._feeds = feeds

    async def SubscribeChanges(  # pyright: ignore[reportIncompatibleMethodOverride] - it writes its answers
        self, request: changes_pb2.SubscribeChangesRequest, context: Context
    ) -> None:
        person = current_person()
        interest, heartbeat = _asked(request, person)
        place, log = await self._begin(request)
        # The token was proven when the call began. A stream is longer than a call, so the proof has to be renewed.
        try:
            async with asyncio.timeout(person.expires_at - time.time()):
                with _feeds.track_inprogress():
                    await self._tell(request, context, place, log, interest, heartbeat)
        except TimeoutError:
            raise Unauthenticated(
                "The transaction token has expired; go on from the last cursor with a fresh one.",
                reason="TOKEN_EXPIRED",
            ) from None

    async def _tell(
        self,
        request: changes_pb2.SubscribeChangesRequest,
        context: Context,
        place: Vector,
        log: LogState,
        interest: Interest,
        heartbeat: float,
    ) -> None:
        messages = self._feeds.changes(
            place, log, interest=interest, heartbeat=heartbeat, only_recorded=request.only_recorded
        )
        async with aclosing(messages):
            async for told in messages:
                # Waits for the subscriber to take it.
                await context.write(_response(told))
                _told.inc(len(told.changes))

    async def _begin(self, request: changes_pb2.SubscribeChangesRequest) -> tuple[Vector, LogState]:
        match request.WhichOneof("from"):
            case "cursor":
                return await self._feeds.after(request.cursor)
            case "start":
                return await self._feeds.start()
            case _:
                return await self._feeds.now()


def _response(told: Told) -> changes_pb2.SubscribeChangesResponse:
    response = changes_pb2.SubscribeChangesResponse(cursor=told.cursor)
    for cursor, change in told.changes:
        # A copy: the tail's is everybody's.
        one = response.changes.add()
        one.CopyFrom(change)
        one.cursor = cursor
    return response


def _asked(request: changes_pb2.SubscribeChangesRequest, person: Claims) -> tuple[Interest, float]:
    """What the subscriber wants to hear of, and its heartbeat in seconds.

    Raises:
        InvalidRequest: fields are wrong.
    """
    wrong = [
        (field, f"must be at most {_MOST_CHOICES}")
        for field in ("kinds", "categories", "types")
        if len(getattr(request, field)) > _MOST_CHOICES
    ]
    if not KINDS.issuperset(request.kinds):
        wrong.append(("kinds", f"must be of {', '.join(sorted(KINDS))}"))
    if not TYPES.issuperset(request.types):
        wrong.append(("types", f"must be of {', '.join(sorted(TYPES))}"))
    if any(not category or len(category) > _LONGEST_CATEGORY for category in request.categories):
        wrong.append(("categories", f"must be of 1 to {_LONGEST_CATEGORY} characters"))
    shortest, heartbeat, longest = _HEARTBEAT
    if request.HasField("heartbeat"):
        heartbeat = request.heartbeat.ToNanoseconds() / 1e9
        if not shortest <= heartbeat <= longest:
            wrong.append(("heartbeat", f"must be {shortest:g} to {longest:g} seconds"))
    if wrong:
        raise InvalidRequest(wrong)
    interest = Interest(
        kinds=frozenset(request.kinds),
        categories=tuple(request.categories),
        types=frozenset(request.types),
        schedules=WRITE in person.scopes,
    )
    return interest, heartbeat
