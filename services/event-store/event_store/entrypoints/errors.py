"""What the log's errors say on the wire."""

import grpc
from chassis.errors import RETRY_AFTER_KEY, ErrorRow, ErrorTable

from event_store.application.append_loop import NotWritten
from event_store.domain.errors import (
    AppendIdReused,
    ArchivesNotKept,
    ArchiveUnreadable,
    ArchivingUnderWay,
    BucketMoved,
    CheckpointAhead,
    DifferentShards,
    MoveOver,
    MoveUnderWay,
    OutcomeUnknown,
    QueueFull,
    ReadTooLarge,
    RevisionConflict,
    ShardUnavailable,
    SnapshotAhead,
    StaleShardMap,
    StreamTombstoned,
    TooLate,
    UnknownMove,
    UnknownShard,
)

_SOON = "0.2"
_LATER = "1"


def _conflict(error: RevisionConflict) -> dict[str, str]:
    return {"stream": error.stream, "actual_revision": str(error.actual)}


def _reused(error: AppendIdReused) -> dict[str, str]:
    return {"append_id": error.append_id}


def _different(error: DifferentShards) -> dict[str, str]:
    return {"places": " ".join(f"{stream}={shard}" for stream, shard in error.places.items())}


def _moved(error: BucketMoved) -> dict[str, str]:
    return {
        "stream": error.stream,
        "bucket": str(error.bucket),
        "shard": str(error.shard),
        "epoch": str(error.epoch),
        RETRY_AFTER_KEY: _SOON,
    }


def _stale(error: StaleShardMap) -> dict[str, str]:
    return {"epoch": str(error.current)}


def _tombstoned(error: StreamTombstoned) -> dict[str, str]:
    return {"stream": error.stream}


def _shard(error: ShardUnavailable | QueueFull) -> dict[str, str]:
    return {"shard": str(error.shard), RETRY_AFTER_KEY: _SOON}


def _unknown(error: OutcomeUnknown) -> dict[str, str]:
    return {"shard": str(error.shard), "append_id": error.append_id, RETRY_AFTER_KEY: _LATER}


def _late(error: TooLate) -> dict[str, str]:
    return {"begun": "true" if error.begun else "false"}


def _ahead(error: CheckpointAhead) -> dict[str, str]:
    return {"shard": str(error.shard), "after": str(error.after), "head": str(error.head)}


def _too_large(error: ReadTooLarge) -> dict[str, str]:
    return {"limit": error.limit, "maximum": str(error.maximum)}


ERRORS = ErrorTable(
    {
        # FAILED_PRECONDITION would tell callers not to retry; a conflict is decided anew and tried again.
        RevisionConflict: ErrorRow(grpc.StatusCode.ABORTED, "REVISION_CONFLICT", metadata=_conflict),
        AppendIdReused: ErrorRow(grpc.StatusCode.ALREADY_EXISTS, "APPEND_ID_REUSED", metadata=_reused),
        DifferentShards: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "DIFFERENT_SHARDS", metadata=_different),
        BucketMoved: ErrorRow(grpc.StatusCode.UNAVAILABLE, "BUCKET_MOVED", metadata=_moved),
        StaleShardMap: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "STALE_SHARD_MAP", metadata=_stale),
        MoveUnderWay: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "MOVE_UNDER_WAY"),
        MoveOver: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "MOVE_OVER"),
        UnknownMove: ErrorRow(grpc.StatusCode.NOT_FOUND, "UNKNOWN_MOVE"),
        StreamTombstoned: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "STREAM_TOMBSTONED", metadata=_tombstoned),
        ShardUnavailable: ErrorRow(grpc.StatusCode.UNAVAILABLE, "SHARD_UNAVAILABLE", metadata=_shard),
        NotWritten: ErrorRow(
            grpc.StatusCode.UNAVAILABLE,
            "SHARD_UNAVAILABLE",
            message=lambda _: "A shard cannot be read at the moment; try again later.",
            metadata=lambda _: {RETRY_AFTER_KEY: _SOON},
        ),
        OutcomeUnknown: ErrorRow(grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN", metadata=_unknown),
        QueueFull: ErrorRow(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", metadata=_shard),
        TooLate: ErrorRow(grpc.StatusCode.DEADLINE_EXCEEDED, "TOO_LATE", metadata=_late),
        CheckpointAhead: ErrorRow(grpc.StatusCode.OUT_OF_RANGE, "CHECKPOINT_AHEAD", metadata=_ahead),
        ArchiveUnreadable: ErrorRow(
            grpc.StatusCode.DATA_LOSS, "ARCHIVE_UNREADABLE", metadata=lambda error: {"archive": error.name}
        ),
        ArchivingUnderWay: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "ARCHIVING_UNDER_WAY"),
        ArchivesNotKept: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "ARCHIVES_NOT_KEPT"),
        SnapshotAhead: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "SNAPSHOT_AHEAD"),
        UnknownShard: ErrorRow(grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_SHARD"),
        ReadTooLarge: ErrorRow(grpc.StatusCode.RESOURCE_EXHAUSTED, "READ_TOO_LARGE", metadata=_too_large),
    }
)
