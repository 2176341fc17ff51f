"""What can be wrong with an append or a read."""

from collections.abc import Mapping


class LogError(Exception):
    """An error of the log."""


class RevisionConflict(LogError):
    """The stream is not where the writer believed it to be. `actual` is its last revision, -1 for no stream."""

    def __init__(self, stream: str, actual: int) -> None:
        self.stream = stream
        self.actual = actual
        at = "does not exist" if actual < 0 else f"is at revision {actual}"
        super().__init__(f"The stream {stream} {at}, which is not what the append expects.")


class AppendIdReused(LogError):
    """The append id has been used for a different append."""

    def __init__(self, append_id: str) -> None:
        self.append_id = append_id
        super().__init__(f"The append id {append_id} has been used for a different append.")


class DifferentShards(LogError):
    """The streams of one append do not live on one shard. `places` names the shard of each."""

    def __init__(self, places: Mapping[str, int]) -> None:
        self.places = places
        named = ", ".join(f"{stream} on shard {shard}" for stream, shard in places.items())
        super().__init__(f"The streams of one append must live on one shard: {named}. Nothing was written.")


class BucketMoved(LogError):
    """The bucket of the stream is not held by the shard that was asked: it is being moved, or has moved. Nothing of
    this was written.
    """

    def __init__(self, stream: str, bucket: int, shard: int, epoch: int) -> None:
        self.stream = stream
        self.bucket = bucket
        self.shard = shard
        self.epoch = epoch
        super().__init__(
            f"Bucket {bucket}, where {stream} lives, has left shard {shard} or is about to. Nothing was written;"
            " try again."
        )


class StaleShardMap(LogError):
    """The caller goes by an older shard map than this. Nothing was written."""

    def __init__(self, epoch: int, current: int) -> None:
        self.epoch = epoch
        self.current = current
        super().__init__(
            f"The shard map is at version {current}, and the request goes by {epoch}. Nothing was written."
        )


class StreamTombstoned(LogError):
    """The stream has ended."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        super().__init__(f"The stream {stream} has ended: nothing is appended to it any more.")


class ShardUnavailable(LogError):
    """The database of the shard cannot be reached, or would not write. Nothing of this was written."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        super().__init__(f"Shard {shard} cannot be used at the moment. Nothing was written; try again later.")


class OutcomeUnknown(LogError):
    """The database went away in mid-commit and has not come back in time to be asked. The append may have been
    written.
    """

    def __init__(self, shard: int, append_id: str) -> None:
        self.shard = shard
        self.append_id = append_id
        super().__init__(
            f"Shard {shard} went away in mid-commit. Whether the append {append_id} was written is not known yet;"
            " the same append id again tells."
        )


class QueueFull(LogError):
    """More appends wait for the shard than it may keep. Nothing of this was written."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        super().__init__(f"Too many appends wait for shard {shard}. Nothing was written; try again later.")


class TooLate(LogError):
    """The time that the append was given is over. `begun` tells whether it may be written all the same."""

    def __init__(self, *, begun: bool) -> None:
        self.begun = begun
        super().__init__(
            "The time for this append was over before its answer came; it may have been written."
            if begun
            else "The time for this append was over before it was begun. Nothing was written."
        )


class CheckpointAhead(LogError):
    """A position after the head was given: it comes from another life of this log, one that was restored or made
    anew.
    """

    def __init__(self, shard: int, after: int, head: int) -> None:
        self.shard = shard
        self.after = after
        self.head = head
        super().__init__(
            f"Position {after} of shard {shard} is after its head, {head}: it was given by another log than this one,"
            " or by this one before it was restored."
        )


class ArchiveUnreadable(LogError):
    """A file that holds a part of the log is not there, or not what was written."""

    def __init__(self, name: str, detail: str) -> None:
        self.name = name
        super().__init__(f"The archive {name} {detail}.")


class ArchivingUnderWay(LogError):
    """Events of the shard are being archived already."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        super().__init__(f"Events of shard {shard} are being archived already.")


class ArchivesNotKept(LogError):
    """No directory for archives is set."""

    def __init__(self) -> None:
        super().__init__("This event store keeps no archives: ALMAGEST_ARCHIVE_DIRECTORY is not set.")


class SnapshotAhead(LogError):
    """A snapshot is of a revision that its stream does not have."""

    def __init__(self, stream: str, revision: int) -> None:
        super().__init__(f"The stream {stream} has no revision {revision}.")


class UnknownShard(LogError):
    """There is no such shard."""

    def __init__(self, shard: int, shards: int) -> None:
        self.shard = shard
        super().__init__(f"There is no shard {shard}; there are {shards}, numbered from 0.")


class ReadTooLarge(LogError):
    """A batch of streams holds more than one answer may."""

    def __init__(self, limit: str, maximum: int) -> None:
        self.limit = limit
        self.maximum = maximum
        super().__init__(
            f"These streams hold more than one answer may: {limit} is {maximum}."
            " Ask for fewer, or read them one by one."
        )


class UnknownMove(LogError):
    """There is no such move."""

    def __init__(self, move_id: str) -> None:
        super().__init__(f"There is no move {move_id}." if move_id else "No move of buckets is under way.")


class MoveOver(LogError):
    """A move has ended, so it cannot be cancelled."""

    def __init__(self, phase: str) -> None:
        super().__init__(f"This move is over: it is {phase}. Move its buckets back if that is what you want.")


class MoveUnderWay(LogError):
    """Another move of buckets is not over, and one is made at a time."""

    def __init__(self) -> None:
        super().__init__("Another move of buckets is under way, and one is made at a time. Nothing was begun.")
