"""How full the pools are, and how long one waits for a connection."""

from prometheus_client import Counter, Gauge, Histogram

pool_size = Gauge("almagest_database_pool_size", "Connections that a pool may open.", ("database",))
pool_in_use = Gauge("almagest_database_pool_in_use", "Connections lent to somebody.", ("database",))
pool_wait = Histogram(
    "almagest_database_pool_wait_seconds",
    "How long somebody waited for a connection.",
    ("database",),
    buckets=(0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0),
)
discarded = Counter(
    "almagest_database_connections_discarded_total",
    "Connections closed instead of reused, because their user was cancelled or failed in the middle of something.",
    ("database",),
)
