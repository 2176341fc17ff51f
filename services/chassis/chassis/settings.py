"""What every service is told by its environment, read once and passed down.

Each field is read from `ALMAGEST_<FIELD>`. Two are read by names that others gave them:
`OTEL_EXPORTER_OTLP_ENDPOINT` and `SPIFFE_ENDPOINT_SOCKET`.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Identity, addresses, telemetry and shutdown of one process."""

    model_config = SettingsConfigDict(env_prefix="ALMAGEST_", frozen=True, extra="ignore", populate_by_name=True)

    trust_domain: str = "almagest.internal"
    """The SPIFFE trust domain that all services belong to."""
    identity_directory: Path
    """Holds `tls.crt`, `tls.key` and `ca.crt`, as cert-manager writes them. With the Workload API they are written here
    for the connections to Postgres and Redis: then a private directory in memory."""
    identity_source: Literal["files", "workload-api"] = "files"
    """Where the identity comes from: `files` in the identity directory, or the SPIFFE `workload-api`."""
    spiffe_endpoint_socket: str | None = Field(default=None, validation_alias="SPIFFE_ENDPOINT_SOCKET")
    """Where the SPIFFE Workload API is, such as `unix:///run/spire/agent.sock`."""
    deny_list: Path | None = None
    """A file of workloads that are refused although their certificates are good: one `spiffe://...` or
    `serial:<hexadecimal>` a line. It is watched; who enters it is cut off within a second. Unset: nobody."""
    listen: str = "127.0.0.1:0"
    """Where gRPC is served, as host:port; port 0: any free one."""
    http_listen: str = "127.0.0.1:0"
    """Where `/livez`, `/healthz`, `/readyz` and `/metrics` are served in plain HTTP, as host:port."""
    log_level: str = "INFO"
    """The least severe log level that is written."""
    trace_directory: Path | None = None
    """Where spans go as JSON lines when there is no OTLP endpoint; unset: nowhere."""
    otlp_endpoint: str | None = Field(default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """Where traces go by OTLP over gRPC, such as a Jaeger; unset: to files."""
    trace_rate_per_second: float = Field(default=20.0, ge=0)
    """How many requests a second start a recorded trace of their own."""
    trace_file_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """The size at which a span file is rotated; one older file is kept."""
    drain_seconds: float = Field(default=5.0, ge=0)
    """How long calls that run at shutdown may take to finish."""
    shutdown_delay_seconds: float = Field(default=0.0, ge=0)
    """How long to go on accepting after saying NOT_SERVING, for load balancers to notice."""
    connection_seconds: float | None = Field(default=None, ge=1)
    """After how long clients are sent to connect anew, so that new replicas get their share of connections that last;
    unset: a quarter of the certificate's lifetime, which is the most in any case."""
    maximum_concurrent_rpcs: int = Field(default=1000, ge=1)
    """More calls than this at once are refused with RESOURCE_EXHAUSTED before any work is done for them."""
    max_message_bytes: int = Field(default=8 * 1024 * 1024, ge=64 * 1024)
    """The largest gRPC message, in and out."""
    identity_poll_seconds: float = Field(default=1.0, gt=0)
    """How often the identity directory is looked at for a new certificate."""

    event_store_target: str | None = None
    """The gRPC target of event-store, such as `dns:///event-store:9090`."""
    auth_target: str | None = None
    """The gRPC target of auth, such as `dns:///auth:9090`."""
    catalog_command_target: str | None = None
    """The gRPC target of catalog-command, such as `dns:///catalog-command:9090`."""
    catalog_query_target: str | None = None
    """The gRPC target of catalog-query, such as `dns:///catalog-query:9090`."""
    worker_target: str | None = None
    """The gRPC target of worker, such as `dns:///worker:9090`."""


class DatabaseSettings(ServiceSettings):
    """Settings of a service that owns databases."""

    database_urls: tuple[str, ...] = Field(min_length=1)
    """One DSN per shard, in shard order, in asyncpg's form."""
    migration_database_urls: tuple[str, ...] | None = None
    """The same databases as their owner; unset: `database_urls`."""
    pool_size: int = Field(default=8, ge=1)
    """Connections per shard. Measured with 64 callers on two cores: writes gain nothing beyond four connections,
    batched reads are fastest with eight (2,800 batches of 64 a second with one, 4,800 with eight, 3,100 with 32)."""
    service_role: str | None = None
    """The role that migrations grant access to; unset: the service's name with underscores."""
