"""How this service's errors look on the wire."""

from collections.abc import Mapping

import grpc
from chassis.errors import RETRY_AFTER_KEY, ErrorRow, ErrorTable

from catalog_query.domain.errors import (
    BadCursor,
    BadPageToken,
    CursorOfAnotherLog,
    NotYetVisible,
    PoisonousEvent,
    ProductNotFound,
    StreamHeld,
)


def _position(error: NotYetVisible) -> Mapping[str, str]:
    return {
        "shard": str(error.shard),
        "wanted_position": str(error.wanted),
        "position": str(error.position),
        RETRY_AFTER_KEY: "1",
    }


def _product(error: ProductNotFound) -> Mapping[str, str]:
    return {"product_id": error.product_id}


def _held(error: StreamHeld) -> Mapping[str, str]:
    return {"product_id": error.product_id, "held_revision": str(error.revision), RETRY_AFTER_KEY: "30"}


ERRORS = ErrorTable(
    {
        ProductNotFound: ErrorRow(grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND", metadata=_product),
        NotYetVisible: ErrorRow(grpc.StatusCode.UNAVAILABLE, "NOT_YET_VISIBLE", metadata=_position),
        StreamHeld: ErrorRow(grpc.StatusCode.UNAVAILABLE, "PRODUCT_HELD", metadata=_held),
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
