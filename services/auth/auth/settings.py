"""What the auth service is told by its environment."""

from datetime import timedelta
from pathlib import Path

from chassis.settings import DatabaseSettings
from pydantic import Field


class Settings(DatabaseSettings):
    """Databases, key-encryption key, and how long what we issue is good for."""

    key_encryption_key_file: Path | None = None
    """32 random bytes in base64, kept apart from the databases and their backups; with a KMS, such a key as the KMS has
    wrapped it. All but `migrate` need it."""
    older_key_encryption_key_files: tuple[Path, ...] = ()
    """The files of earlier key-encryption keys, as a JSON list, until everything is sealed with the present one."""
    key_management_socket: Path | None = None
    """The Unix domain socket of a KMS plugin (Kubernetes' KMS v2) that has wrapped those keys. It is asked once, at the
    start. `python -m auth wrap-key` makes a key, or wraps one."""
    key_management_seconds: float = Field(default=20.0, gt=0, le=300)
    """How long the plugin may take for each answer, and to be there."""
    search_directories: tuple[Path, ...] = ()
    """Where the logs and traces of all services are, as a JSON list, if auth can read them: they are searched for the
    traces of people who were forgotten. What is not named here is named in the certificate as not searched."""
    erasure_look_seconds: float = Field(default=1.0, gt=0)
    """How often a replica looks whether there are traces of a forgotten person to be searched for."""
    access_token_seconds: int = Field(default=600, ge=10, le=3600)
    """How long an access token is good for."""
    session_seconds: int = Field(default=14 * 24 * 3600, ge=60)
    """When a session ends at the latest, however often it is refreshed."""
    session_idle_seconds: int = Field(default=3 * 24 * 3600, ge=3600)
    """When a session ends that nobody refreshes: after a long weekend, unless it is told otherwise."""
    transaction_token_seconds: int = Field(default=60, ge=5, le=60)
    """How long a transaction token is good for, and with it the work of a session that has ended."""
    key_publication_seconds: int = Field(default=600, ge=0)
    """How long a signing key is published before it may sign: longer than verifiers keep the key set."""
    key_refresh_seconds: float = Field(default=10, gt=0)
    """How often a replica looks whether another one has rotated the signing keys or the data keys."""

    redis_url: str | None = None
    """Where tries of passwords are counted for all replicas together; unset: each counts alone."""

    payload_key_days: int = Field(default=30, ge=1, le=366)
    """How long bodies are encrypted to a key before the next one is published in its place."""
    payload_key_look_seconds: float = Field(default=600, gt=0)
    """How often a replica looks whether that is so."""
    access_keys_per_person: int = Field(default=20, ge=1, le=1000)
    """How many access keys that are good one person may have."""
    access_key_days: int = Field(default=90, ge=1)
    """How long an access key is good for, unless it is asked for otherwise."""
    access_key_longest_days: int = Field(default=366, ge=1)
    """How long an access key may be good for."""

    @property
    def payload_key_lifetime(self) -> timedelta:
        """How long a payload key is used."""
        return timedelta(days=self.payload_key_days)

    @property
    def payload_key_overlap(self) -> timedelta:
        """How long a retired payload key opens what was encrypted to it."""
        return timedelta(days=1)

    @property
    def access_lifetime(self) -> timedelta:
        """How long an access token is good for."""
        return timedelta(seconds=self.access_token_seconds)

    @property
    def session_lifetime(self) -> timedelta:
        """How long a session may go on."""
        return timedelta(seconds=self.session_seconds)

    @property
    def session_idle_limit(self) -> timedelta:
        """How long a session goes on without being refreshed."""
        return timedelta(seconds=self.session_idle_seconds)

    @property
    def transaction_lifetime(self) -> timedelta:
        """How long a transaction token is good for."""
        return timedelta(seconds=self.transaction_token_seconds)

    @property
    def key_publication(self) -> timedelta:
        """How long a signing key is published before it may sign."""
        return timedelta(seconds=self.key_publication_seconds)

    @property
    def key_settlement(self) -> timedelta:
        """How long it takes until every replica has read of a change of data keys, with time to spare."""
        return timedelta(seconds=2 * self.key_refresh_seconds + 1)

    @property
    def key_overlap(self) -> timedelta:
        """How long a retired key stays published: as long as what it signed last may live, and some more."""
        return self.access_lifetime + self.key_publication
