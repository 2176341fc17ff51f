"""Moments from the wire, and onto it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from almagest.catalog.v1 import past_pb2, query_pb2
from chassis.errors import InvalidRequest
from google.protobuf.timestamp_pb2 import Timestamp

from catalog_query.application import cursors
from catalog_query.application.past import Moment, Position, Resolved
from catalog_query.domain.query import Query
from catalog_query.domain.timeline import moment as time_of
from catalog_query.entrypoints import requests

_LARGEST_POSITION: Final = (1 << 63) - 1
_LONGEST_FIELD: Final = 500
_NO_TIME: Final = "must be a time of the years 1 to 9999"


def moment(wire: past_pb2.Moment, field: str = "moment") -> Moment:
    """A moment.

    Raises:
        InvalidRequest: it is none.
    """
    which = wire.WhichOneof("as_of")
    violations: list[tuple[str, str]] = []
    time = _time(f"{field}.as_of", wire.time, violations) if which == "time" else None
    known_at = _time(f"{field}.known_at", wire.known_at, violations) if wire.HasField("known_at") else None
    position = None
    if which == "position":
        if not 1 <= wire.position.position <= _LARGEST_POSITION:
            violations.append((f"{field}.as_of", "must be a position of the log, from 1"))
        if known_at is not None:
            violations.append(
                (f"{field}.known_at", "must not come with a position, which says itself what was known: what it holds")
            )
        position = Position(wire.position.shard, wire.position.position)
    if violations:
        raise InvalidRequest(violations)
    return Moment(time, position, known_at)


def version(wire: past_pb2.Version, field: str) -> Moment | int:
    """A version of a product: a revision, or a moment.

    Raises:
        InvalidRequest: it is none.
    """
    if wire.WhichOneof("version") == "revision":
        return wire.revision
    return moment(wire.moment, field)


def recorded_bound(wire: query_pb2.GetProductHistoryRequest, field: str) -> datetime | None:
    """One of the times between which changes are wanted, None when it is left open.

    Raises:
        InvalidRequest: it is none.
    """
    if not wire.HasField(field):  # pyright: ignore[reportArgumentType] - one of two names
        return None
    violations: list[tuple[str, str]] = []
    found = _time(field, getattr(wire, field), violations)
    if violations:
        raise InvalidRequest(violations)
    return found


def path(text: str) -> str:
    """The path of a field.

    Raises:
        InvalidRequest: it cannot be one.
    """
    if not 1 <= len(text) <= _LONGEST_FIELD:
        raise InvalidRequest([("field", f"must have 1 to {_LONGEST_FIELD} characters")])
    return text


def list_page(request: past_pb2.ListProductsAsOfRequest) -> tuple[Query, bytes, Sequence[datetime]]:
    """A page of a list at a moment, the question that its page tokens are for, and the times of the first page; no
    times for the first page itself.

    Raises:
        InvalidRequest: fields are wrong.
        BadPageToken: the page token is for another question.
    """
    first = query_pb2.ListProductsRequest()
    first.CopyFrom(request.page)
    first.page_token = ""
    return _page(*requests.list_query(first), request.moment, request.page.page_token)


def search_page(request: past_pb2.SearchProductsAsOfRequest) -> tuple[Query, bytes, Sequence[datetime]]:
    """As `list_page`, of a search.

    Raises:
        InvalidRequest: fields are wrong.
        BadPageToken: the page token is for another question.
    """
    first = query_pb2.SearchProductsRequest()
    first.CopyFrom(request.page)
    first.page_token = ""
    return _page(*requests.search_query(first), request.moment, request.page.page_token)


def _page(
    query: Query, question: bytes, wire: past_pb2.Moment, page_token: str
) -> tuple[Query, bytes, Sequence[datetime]]:
    question = b"as of" + question + wire.SerializeToString(deterministic=True)
    if not page_token:
        return query, question, ()
    after, times = cursors.to_pinned_key(page_token, sort=query.sort, question=question, pins=2)
    return replace(query, after=after), question, times


def resolved(told: Resolved) -> past_pb2.Resolved:
    """A moment with nothing left open, on the wire."""
    message = past_pb2.Resolved(settled=told.settled)
    message.as_of.FromDatetime(told.as_of)
    message.known_at.FromDatetime(told.known_at)
    return message


def _time(field: str, stamp: Timestamp, violations: list[tuple[str, str]]) -> datetime | None:
    try:
        stamp.ToDatetime()
        return time_of(stamp)
    except (ValueError, OverflowError):
        violations.append((field, _NO_TIME))
        return None
