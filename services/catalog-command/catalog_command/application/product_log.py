"""The port to the log, as this service sees it: streams of product events, one per product."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from catalog_events import Event

from catalog_command.domain.product import Product

NO_REVISION = -1
"""The revision of a product that does not exist; the first event has revision 0."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where events come from, beside what the log itself knows: the person and the workload."""

    traceparent: str = ""
    job_id: str = ""
    import_line: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProductAppend:
    """Events to be written at the end of a product's stream, all or none.

    Attributes:
        append_id: the command id, by which a repetition is recognised.
        expected_revision: the last revision that the decision knew; `NO_REVISION`: the stream has no event.
        fingerprint: a digest of the request; the same append id with another one is refused.
        transaction_token: proves on whose behalf.
    """

    append_id: str
    product_id: str
    expected_revision: int
    events: Sequence[Event]
    fingerprint: bytes
    transaction_token: str
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Written:
    """What an append was answered.

    Attributes:
        consistency_token: where its last event stands in the log, for reads that must see it.
        fingerprint: what it was written with; None when that is not known here.
        replayed: it had been written before, and this is the original answer.
    """

    append_id: str
    first_revision: int
    last_revision: int
    consistency_token: str
    fingerprint: bytes | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """The events of a product after some revision, and the appends that wrote them, oldest first.

    Attributes:
        last_revision: that of the stream, which may be before the first asked for; `NO_REVISION`: there is no stream.
        consistency_token: where the last of the events stands in the log; empty when there are none.
        base: the state that stands for what was before the events, when it was kept; None: there is none.
    """

    events: Sequence[Event]
    appends: Sequence[Written]
    last_revision: int
    consistency_token: str
    base: Product | None = None


class StreamConflict(Exception):
    """The stream is not at the expected revision; nothing was written."""


class AppendIdReused(Exception):
    """The append id was used with another fingerprint; nothing was written."""


class AppendUncertain(Exception):
    """The append may have been written, or not, or may still be."""


class ProductLog(Protocol):
    """Reads and appends. Deadlines are on the clock of `time.monotonic`.

    Errors of the chassis are raised when the log cannot answer.
    """

    async def read(self, product_id: str, *, after: int, deadline: float) -> History:
        """The history of a product after a revision, as the log has it now."""
        ...

    async def load(self, product_id: str, *, deadline: float) -> History:
        """The whole of a product: its history, of which a state that was kept may stand for the beginning."""
        ...

    def keep(self, product_id: str, product: Product, *, revision: int, consistency_token: str) -> None:
        """Keep a folded state for who loads the product later. Nobody waits for it, and it may come to nothing."""
        ...

    async def append(self, append: ProductAppend, *, deadline: float) -> Written:
        """Write events.

        Raises:
            StreamConflict: The stream is at another revision.
            AppendIdReused: The append id belongs to another request.
            AppendUncertain: It is not known whether they were written.
        """
        ...

    async def find(self, append_id: str, *, product_id: str, deadline: float) -> Written | None:
        """The original answer to an append, with its fingerprint; None if there was none."""
        ...
