from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from chassis.settings import ServiceSettings
from pydantic import Field

HttpServer = Literal["granian", "hypercorn", "uvicorn"]


class Settings(ServiceSettings):
    """Settings of the gateway. `listen` is where it serves HTTPS."""

    listen: str = "127.0.0.1:8443"
    """Where HTTPS is served, as host:port."""
    tls_certificate: Path
    """The public certificate, leaf first, in PEM."""
    tls_key: Path
    """Its key, in PEM as PKCS#8."""
    http_server: HttpServer = "granian"
    """Which server serves it: `granian`, `hypercorn` or `uvicorn` (HTTP/1.1 only)."""
    redis_url: str | None = None
    """Where idempotency keys are remembered; unset: only in the log."""
    request_seconds: float = Field(default=10.0, gt=0)
    """How long a request may take. `Prefer: wait=` asks for less."""
    upload_seconds: float = Field(default=3600.0, gt=0)
    """How long the upload of a file may take."""
    upload_idle_seconds: float = Field(default=30.0, gt=0)
    """How long an upload may send nothing."""
    maximum_body_bytes: int = Field(default=1024 * 1024, ge=1024)
    """The largest JSON body. Uploads have the worker's limit."""
    maximum_unpacked_bytes: int = Field(default=1024 * 1024 * 1024, ge=1024)
    """The largest upload with `Content-Encoding: gzip`, unpacked."""
    maximum_header_bytes: int = Field(default=16 * 1024, ge=1024)
    """The names and values of all headers of a request, and its target."""
    payload_encryption: Literal["optional", "required"] = "optional"
    """Whether bodies with personal data must be encrypted (docs/encryption.md), or may be."""
    person_requests_per_minute: int = Field(default=60_000, ge=0)
    """Requests that one person may make a minute, all at once if need be; 0: as many as they like."""
    address_requests_per_minute: int = Field(default=120_000, ge=0)
    """The same for one address (of IPv6, one /64), whoever asks from there."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks, as a JSON list, of proxies whose `X-Forwarded-For` is believed."""
    connection_first_seconds: float = Field(default=10.0, gt=0)
    """How long a connection may be there before its first request has come."""
    connection_idle_seconds: float = Field(default=75.0, gt=0)
    """How long a connection may be there between two requests."""
    connections_per_address: int = Field(default=512, ge=1)
    """Connections that one address may have open; trusted proxies any number."""
    cors_origins: tuple[str, ...] = ()
    """Origins, as a JSON list such as `["https://shop.example"]`, whose pages may call this from a browser."""
    signature_clock_skew_seconds: float = Field(default=5.0, ge=0, le=30)
    """How far ahead the clock of a signed request may be. For twice as long none is taken after Redis has lost what it
    knew."""
    signed_reads_without_redis: bool = False
    """Whether signed reads are answered while Redis is away and nobody can say whether they come twice."""
    changes_heartbeat_seconds: float = Field(default=15.0, ge=0.2, le=60)
    """The longest silence of a change feed."""
    changes_stalled_seconds: float = Field(default=60.0, gt=0)
    """How long the client of a change feed may take nothing before it is let go. It can go on from its last event."""
    changes_feeds_per_person: int = Field(default=8, ge=1)
    """Change feeds that one person may have open at this gateway."""
