"""The log on the wire: writing and reading, each in a module of its own, as the one class that gRPC wants."""

from collections.abc import Sequence

from chassis.errors import ErrorTable
from chassis.tokens import TokenVerifier

from event_store.application.append_loop import AppendLoop
from event_store.application.reads import Reader
from event_store.application.shard_map import Places, Rereading
from event_store.entrypoints.reading import ReadingServicer, ReadLimits, StreamSettings
from event_store.entrypoints.snapshots import KeepingServicer
from event_store.entrypoints.wire import Limits
from event_store.entrypoints.writing import Rerouter, WritingServicer


class EventStoreServicer(WritingServicer, KeepingServicer):
    """Answers for the log over the wire. Errors are raised; the chassis says them by the table."""

    def __init__(
        self,
        *,
        buckets: Places,
        loops: Sequence[AppendLoop],
        reader: Reader,
        verifier: TokenVerifier,
        errors: ErrorTable,
        limits: Limits,
        read_limits: ReadLimits,
        metadata: Sequence[StreamSettings],
        rerouted: Rerouter,
        reread: Rereading,
    ) -> None:
        WritingServicer.__init__(
            self,
            buckets=buckets,
            loops=loops,
            verifier=verifier,
            errors=errors,
            limits=limits,
            rerouted=rerouted,
        )
        ReadingServicer.__init__(
            self, buckets=buckets, reader=reader, limits=read_limits, metadata=metadata, reread=reread
        )
