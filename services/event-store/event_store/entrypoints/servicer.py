"""The log on the wire: writing and reading, each in a module of its own, as the one class that gRPC wants."""

from collections.abc import Sequence

from chassis.buckets import BucketMap
from chassis.errors import ErrorTable
from chassis.tokens import TokenVerifier

from event_store.application.append_loop import AppendLoop
from event_store.application.reads import Reader
from event_store.entrypoints.reading import ReadingServicer, ReadLimits
from event_store.entrypoints.wire import Limits
from event_store.entrypoints.writing import Rerouter, StreamSettings, WritingServicer


class EventStoreServicer(WritingServicer, ReadingServicer):
    """Answers for the log over the wire. Errors are raised; the chassis says them by the table."""

    def __init__(
        self,
        *,
        buckets: BucketMap,
        loops: Sequence[AppendLoop],
        reader: Reader,
        verifier: TokenVerifier,
        errors: ErrorTable,
        limits: Limits,
        read_limits: ReadLimits,
        metadata: Sequence[StreamSettings],
        rerouted: Rerouter | None = None,
    ) -> None:
        WritingServicer.__init__(
            self,
            buckets=buckets,
            loops=loops,
            verifier=verifier,
            errors=errors,
            limits=limits,
            metadata=metadata,
            rerouted=rerouted,
        )
        ReadingServicer.__init__(self, buckets=buckets, reader=reader, limits=read_limits)
