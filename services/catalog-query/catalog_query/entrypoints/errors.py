"""How this service's errors look on the wire."""

from collections.abc import Mapping

import grpc
from chassis.errors import RETRY_AFTER_KEY, ErrorRow, ErrorTable

from catalog_query.domain.errors import (
    BadCursor,
    BadPageToken,
    CursorOfAnotherLog,
    ExceptionsMoved,
    FieldNotFound,
    FutureNotAllowed,
    GenerationNotReady,
    GenerationsDiffer,
    GenerationServes,
    MomentNotReached,
    NotYetVisible,
    PoisonousEvent,
    ProductNotFound,
    ProductNotThere,
    RevisionNotFound,
    StreamHeld,
    TooManyGenerations,
    UnknownGeneration,
    UnknownParkedEvent,
    UnknownProjection,
)
from catalog_query.entrypoints.policy import WRITE


def _position(error: NotYetVisible) -> Mapping[str, str]:
    return {
        "shard": str(error.shard),
        "wanted_position": str(error.wanted),
        "position": str(error.position),
        RETRY_AFTER_KEY: "1",
    }


def _product(error: ProductNotFound) -> Mapping[str, str]:
    return {"product_id": error.product_id}


def _creation(error: ProductNotThere) -> Mapping[str, str]:
    return {
        "product_id": error.product_id,
        "created_at": error.created_at,
        "shard": str(error.shard),
        "position": str(error.position),
    }


def _last(error: RevisionNotFound) -> Mapping[str, str]:
    return {"product_id": error.product_id, "last_revision": str(error.last)}


def _held(error: StreamHeld) -> Mapping[str, str]:
    return {"product_id": error.product_id, "held_revision": str(error.revision), RETRY_AFTER_KEY: "30"}


ERRORS = ErrorTable(
    {
        ProductNotFound: ErrorRow(grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND", metadata=_product),
        ProductNotThere: ErrorRow(grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_THERE", metadata=_creation),
        RevisionNotFound: ErrorRow(grpc.StatusCode.NOT_FOUND, "REVISION_NOT_FOUND", metadata=_last),
        FieldNotFound: ErrorRow(
            grpc.StatusCode.INVALID_ARGUMENT, "FIELD_NOT_FOUND", violations=lambda error: [("field", str(error))]
        ),
        MomentNotReached: ErrorRow(
            grpc.StatusCode.INVALID_ARGUMENT,
            "MOMENT_NOT_REACHED",
            violations=lambda error: [(error.part, str(error))],
        ),
        FutureNotAllowed: ErrorRow(
            grpc.StatusCode.PERMISSION_DENIED, "PREVIEW_NOT_ALLOWED", metadata=lambda _: {"scopes": WRITE}
        ),
        NotYetVisible: ErrorRow(grpc.StatusCode.UNAVAILABLE, "NOT_YET_VISIBLE", metadata=_position),
        StreamHeld: ErrorRow(grpc.StatusCode.UNAVAILABLE, "PRODUCT_HELD", metadata=_held),
        UnknownProjection: ErrorRow(grpc.StatusCode.NOT_FOUND, "PROJECTION_NOT_FOUND"),
        UnknownGeneration: ErrorRow(grpc.StatusCode.NOT_FOUND, "GENERATION_NOT_FOUND"),
        UnknownParkedEvent: ErrorRow(grpc.StatusCode.NOT_FOUND, "PARKED_EVENT_NOT_FOUND"),
        GenerationNotReady: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "GENERATION_NOT_READY"),
        GenerationServes: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "GENERATION_SERVES"),
        GenerationsDiffer: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "GENERATIONS_DIFFER"),
        TooManyGenerations: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_GENERATIONS"),
        ExceptionsMoved: ErrorRow(
            grpc.StatusCode.ABORTED,
            "STREAM_BUSY",
            message=lambda _: "The product changes faster than its events can be read; try again.",
        ),
        BadPageToken: ErrorRow(
            grpc.StatusCode.INVALID_ARGUMENT,
            "BAD_PAGE_TOKEN",
            violations=lambda error: [("page_token", str(error))],
        ),
        BadCursor: ErrorRow(
            grpc.StatusCode.INVALID_ARGUMENT, "BAD_CURSOR", violations=lambda error: [("cursor", str(error))]
        ),
        CursorOfAnotherLog: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "CURSOR_OF_ANOTHER_LOG"),
        # A history with an event of a newer version: this replica is being replaced, another one can tell.
        PoisonousEvent: ErrorRow(
            grpc.StatusCode.INTERNAL,
            "UNREADABLE_HISTORY",
            message=lambda _: "The history holds an event that this version cannot read.",
        ),
    }
)
