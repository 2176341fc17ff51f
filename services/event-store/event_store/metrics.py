"""What can be seen of the log from outside."""

from prometheus_client import Counter, Gauge, Histogram

BATCH_APPENDS = Histogram(
    "almagest_event_store_batch_appends",
    "Appends per transaction.",
    ("shard",),
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
BATCH_SECONDS = Histogram(
    "almagest_event_store_batch_seconds",
    "Duration of an append transaction.",
    ("shard",),
    buckets=(0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 5, 10),
)
APPENDS = Counter("almagest_event_store_appends", "Appends by outcome.", ("shard", "outcome"))
EVENTS = Counter("almagest_event_store_events", "Events written.", ("shard",))
QUEUED = Gauge("almagest_event_store_queued_appends", "Appends that wait for a transaction.", ("shard",))
HEAD = Gauge("almagest_event_store_head", "The last position known to be committed.", ("shard",))
SUBSCRIPTIONS = Gauge("almagest_event_store_subscriptions", "Subscriptions being served.")
TAIL_BYTES = Gauge("almagest_event_store_tail_bytes", "Bytes of new events kept in memory for subscribers.", ("shard",))
CATCH_UP_PAGES = Counter(
    "almagest_event_store_catch_up_pages", "Pages read from the database for one subscriber alone.", ("shard",)
)
MOVE_PROGRESS = Gauge(
    "almagest_event_store_move_progress_timestamp_seconds",
    "When the move of buckets that this process works on last got further; 0: it works on none.",
)
