"""What the worker is told by its environment."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from chassis.settings import DatabaseSettings
from pydantic import Field


class Settings(DatabaseSettings):
    """Limits, leases, and how much is done at once. There is one jobs database."""

    database_urls: tuple[str, ...] = Field(min_length=1, max_length=1)
    """The DSN of the jobs database, of which there is one."""
    redis_url: str
    """The doorbell. Without an answer from there jobs start up to `sweep_seconds` later."""

    jobs_at_once: int = Field(default=4, ge=1, le=64)
    """Jobs that this process runs at the same time."""
    lease_seconds: float = Field(default=15.0, gt=0)
    """After how long without a sign of life a job is given to another worker."""
    sweep_seconds: float = Field(default=1.0, gt=0)
    """How often Postgres is asked for jobs that nobody rang for."""
    housekeeping_seconds: float = Field(default=30.0, gt=0)
    """How often files that are no longer needed, and broken uploads, are deleted."""
    maximum_stalls: int = Field(default=10, ge=1)
    """How often in a row a job may be begun without making progress before it is given up."""

    import_file_bytes: int = Field(default=1024 * 1024 * 1024, ge=1)
    """The greatest size of an uploaded file."""
    import_record_bytes: int = Field(default=64 * 1024, ge=1)
    """The greatest length of a row in its file."""
    upload_idle_seconds: float = Field(default=30.0, gt=0)
    """How long an upload may stand still."""
    file_retention_seconds: float = Field(default=86_400.0, ge=0)
    """How long the file of a job that has ended is kept."""

    import_hosts: tuple[str, ...] = ()
    """Hosts, as a JSON list such as `["files.example.com", "*.cdn.example.com"]`, from which imports may be fetched by
    URL; none: no import is."""
    import_ports: tuple[int, ...] = (443,)
    """The ports of those hosts."""
    import_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks, as a JSON list, that those hosts may be in although they are not public. Clouds tell machines their
    secrets at such addresses: keep this narrow."""
    import_plaintext: bool = False
    """Whether files are fetched by `http`, too."""
    import_ca_file: Path | None = None
    """Authorities that are believed of those hosts, in PEM; unset: those of the machine."""
    import_fetch_seconds: float = Field(default=3600.0, gt=0)
    """How long fetching a file may take."""
    import_fetch_idle_seconds: float = Field(default=15.0, gt=0, le=60)
    """How long a fetch may stand still."""

    batch_rows: int = Field(default=250, ge=1, le=256)
    """The most rows in one call of catalog-command, which has a limit of its own."""
    batch_bytes: int = Field(default=1024 * 1024, ge=1)
    """The most bytes of rows in one call, as written in the file."""
    batches_in_flight: int = Field(default=4, ge=1, le=32)
    """Calls at the same time per import."""
    call_seconds: float = Field(default=10.0, gt=0)
    """The deadline of one call."""

    watch_spacing_seconds: float = Field(default=0.1, ge=0)
    """Changes of a job that are closer together come as one to those who watch it."""
    watch_poll_seconds: float = Field(default=1.0, gt=0)
    """How often a watched job is looked at when nobody says that it changed."""

    schedule_poll_seconds: float = Field(default=1.0, gt=0)
    """How often it is asked at least which schedules are due; what is planned less than this ahead may come so late."""
