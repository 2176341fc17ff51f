"""What can be seen of the queue and of the jobs that run here."""

from prometheus_client import Counter, Gauge, Histogram

queued = Gauge("almagest_jobs_queued", "Jobs that wait for a worker.")
queue_age = Gauge("almagest_jobs_queue_age_seconds", "How long the job that waits longest has been due.")
running_everywhere = Gauge("almagest_jobs_running", "Jobs that run, at any worker.")
running_here = Gauge("almagest_jobs_running_here", "Jobs that run in this process.")
leases_lost = Counter(
    "almagest_jobs_leases_lost_total", "Attempts whose job was somebody else's before they had finished."
)
attempts = Counter("almagest_jobs_attempts_total", "Attempts by how they went.", ("outcome",))
rows = Counter("almagest_import_rows_total", "Rows dealt with in this process, by outcome.", ("outcome",))
schedules = Counter("almagest_schedules_total", "Schedules that were due, by what came of them.", ("outcome",))
schedules_held = Gauge("almagest_schedules_held", "Schedules that are due and were refused when they were tried last.")
schedule_delay = Histogram(
    "almagest_schedule_delay_seconds",
    "From when a schedule was due until the log had it.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0),
)
