"""The forgetting of people."""

from datetime import datetime
from typing import Annotated, Literal

from almagest.auth.v1 import privacy_pb2 as wire
from pydantic import Field

from gateway import types
from gateway.representations.shapes import Shape, at

_STATES = {
    wire.Erasure.STATE_SEARCHING: "searching",
    wire.Erasure.STATE_CERTIFIED: "certified",
    wire.Erasure.STATE_FOUND: "found",
}


class SearchedStore(Shape):
    """One place that is searched for traces of the person."""

    service: Annotated[str, Field(examples=["event-store"])]
    store: Annotated[str, Field(examples=["database events_0"])]
    total: Annotated[int, Field(description="How much there is: blocks of a database, keys, bytes of files.")]
    searched: Annotated[int, Field(description="How much of it was searched.")]
    findings: Annotated[int, Field(description="How many rows, keys or files hold the address or the full name.")]
    mentions: Annotated[
        int, Field(description="How many hold the first or last name alone as a word, which may be anyone's.")
    ]


class Erasure(Shape):
    """The forgetting of a person."""

    user_id: types.Uuid
    state: Annotated[
        Literal["searching", "certified", "found"],
        Field(
            description="`searching`: the person is forgotten, what may be left is searched for; `certified`: nothing "
            "was found; `found`: something was, see `stores`."
        ),
    ]
    forgotten_at: datetime
    stores: tuple[SearchedStore, ...]
    certificate: Annotated[
        str | None,
        Field(description="A JWS by auth (`typ: erasure+jwt`) of what was searched, when, and what was found."),
    ]

    @classmethod
    def of(cls, erasure: wire.Erasure) -> "Erasure":
        """What auth tells of an erasure."""
        return cls.model_construct(
            user_id=erasure.user_id,
            state=_STATES[erasure.state],
            forgotten_at=at(erasure.forgotten_at),
            stores=tuple(
                SearchedStore.model_construct(
                    service=store.service,
                    store=store.store,
                    total=store.total,
                    searched=store.searched,
                    findings=store.findings,
                    mentions=store.mentions,
                )
                for store in erasure.stores
            ),
            certificate=erasure.certificate or None,
        )
