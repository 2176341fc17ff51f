"""What the gateway needs of others. In earnest these are the adapters, in its tests fakes that hold to the same
contract.

Calls that fail raise `chassis.errors.RemoteProblem` with the problem that the service named. All of them end by the
deadline of the request. Messages are those of the services: this is their published language, and a third form of the
same fields would only be one more to keep right.
"""

import enum
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from almagest.auth.v1 import access_keys_pb2, audit_pb2, auth_pb2, people_pb2, privacy_pb2
from almagest.catalog.v1 import changes_pb2, command_pb2, past_pb2, projections_pb2, query_pb2, schedules_pb2
from almagest.jobs.v1 import jobs_pb2

from gateway.application.nonces import Nonces
from gateway.application.payloads import PayloadKeys

BATCH_SECONDS = 120.0
"""For a thousand passwords: hashing them takes as long as it is meant to."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, proven by a transaction token that the services verify for themselves.

    `expires_at` is in seconds since the epoch. The last three say by what the token may be revoked.
    """

    subject: str
    token: str
    expires_at: float
    scopes: frozenset[str] = frozenset()
    session_id: str = ""
    access_key_id: str = ""
    generation: int = 0

    def __repr__(self) -> str:
        return f"Person({self.subject})"

    def sees(self, user_id: str) -> bool:
        """Whether all that is known of somebody is this person's to see: it is themselves, or they manage people."""
        return user_id == self.subject or "users:read" in self.scopes


class Auth(Protocol):
    """People and sessions."""

    async def log_in(self, request: auth_pb2.LogInRequest) -> auth_pb2.LogInResponse:
        """Start a session."""
        ...

    async def refresh(self, request: auth_pb2.RefreshSessionRequest) -> auth_pb2.Tokens:
        """Go on with a session."""
        ...

    async def log_out(self, request: auth_pb2.LogOutRequest) -> None:
        """End a session."""
        ...

    async def exchange(self, access_token: str, bound_to: str = "") -> auth_pb2.ExchangeTokenResponse:
        """Vouch for an access token, which is bound to the key of this thumbprint, with a transaction token."""
        ...

    async def create_user(self, request: auth_pb2.CreateUserRequest, person: Person) -> auth_pb2.User:
        """Create a person."""
        ...

    async def get_user(self, request: auth_pb2.GetUserRequest, person: Person) -> auth_pb2.User:
        """Find a person."""
        ...

    async def create_users(
        self, request: people_pb2.BatchCreateUsersRequest, person: Person
    ) -> people_pb2.BatchCreateUsersResponse:
        """Create people, each on their own."""
        ...

    async def list_users(self, request: people_pb2.ListUsersRequest, person: Person) -> people_pb2.ListUsersResponse:
        """A page of people."""
        ...

    async def update_user(self, request: people_pb2.UpdateUserRequest, person: Person) -> auth_pb2.User:
        """Change a person."""
        ...

    async def change_password(self, request: people_pb2.ChangePasswordRequest, person: Person) -> None:
        """Set another password."""
        ...

    async def list_sessions(self, user_id: str, person: Person) -> people_pb2.ListSessionsResponse:
        """The sessions of a person; without an id of whoever asks."""
        ...

    async def end_session(self, session_id: str, person: Person) -> None:
        """End a session."""
        ...

    async def audit(
        self, request: audit_pb2.ListAuditEventsRequest, person: Person
    ) -> audit_pb2.ListAuditEventsResponse:
        """A page of the audit."""
        ...


class AccessKeys(Protocol):
    """What programs sign their requests with."""

    async def create(
        self, request: access_keys_pb2.CreateAccessKeyRequest, person: Person
    ) -> access_keys_pb2.CreateAccessKeyResponse:
        """Make a key."""
        ...

    async def get(self, key_id: str, person: Person) -> access_keys_pb2.AccessKey:
        """One key."""
        ...

    async def list(self, user_id: str, person: Person) -> access_keys_pb2.ListAccessKeysResponse:
        """A person's keys; without an id those of whoever asks."""
        ...

    async def rotate(
        self, request: access_keys_pb2.RotateAccessKeyRequest, person: Person
    ) -> access_keys_pb2.RotateAccessKeyResponse:
        """Replace a key."""
        ...

    async def revoke(self, key_id: str, person: Person) -> access_keys_pb2.AccessKey:
        """End a key."""
        ...

    async def verification(self, key_id: str) -> access_keys_pb2.GetVerificationKeyResponse:
        """What signatures of a key are verified with."""
        ...

    async def exchange(self, base: bytes, signature: bytes) -> auth_pb2.ExchangeTokenResponse:
        """Vouch for a signed request with a transaction token."""
        ...


class CatalogCommand(Protocol):
    """Changes of the catalog."""

    async def execute(self, item: command_pb2.CommandItem) -> command_pb2.Executed:
        """Decide an item. It goes on when the caller goes away: its outcome is in the log either way."""
        ...


class CatalogQuery(Protocol):
    """Reads of the catalog."""

    async def product(self, item: query_pb2.GetProductItem) -> query_pb2.ProductDocument:
        """One product."""
        ...

    async def products(self, items: Sequence[query_pb2.GetProductItem]) -> Sequence[query_pb2.GetProductResult]:
        """Many products, in their order."""
        ...

    async def list_products(
        self, request: query_pb2.ListProductsRequest, person: Person
    ) -> query_pb2.ListProductsResponse:
        """A page."""
        ...

    async def search_products(
        self, request: query_pb2.SearchProductsRequest, person: Person
    ) -> query_pb2.SearchProductsResponse:
        """A page of matches."""
        ...

    async def history(
        self, request: query_pb2.GetProductHistoryRequest, person: Person
    ) -> query_pb2.GetProductHistoryResponse:
        """A page of changes."""
        ...

    async def product_as_of(
        self, request: past_pb2.GetProductAsOfRequest, person: Person
    ) -> past_pb2.GetProductAsOfResponse:
        """One product at a moment."""
        ...

    async def list_as_of(
        self, request: past_pb2.ListProductsAsOfRequest, person: Person
    ) -> past_pb2.ListProductsAsOfResponse:
        """A page at a moment."""
        ...

    async def search_as_of(
        self, request: past_pb2.SearchProductsAsOfRequest, person: Person
    ) -> past_pb2.SearchProductsAsOfResponse:
        """A page of matches at a moment."""
        ...

    async def diff(self, request: past_pb2.DiffProductRequest, person: Person) -> past_pb2.DiffProductResponse:
        """How two versions differ."""
        ...

    async def explain(self, request: past_pb2.ExplainFieldRequest, person: Person) -> past_pb2.ExplainFieldResponse:
        """Where a value comes from."""
        ...

    async def schedules(
        self, request: schedules_pb2.ListSchedulesRequest, person: Person
    ) -> schedules_pb2.ListSchedulesResponse:
        """A page of what is planned."""
        ...

    async def projections(self, person: Person) -> query_pb2.GetProjectionStatusResponse:
        """How far the read models are behind."""
        ...


class Operators(Protocol):
    """Looking after projections. For admins."""

    async def list_projections(
        self, request: projections_pb2.ListProjectionsRequest, person: Person
    ) -> projections_pb2.ListProjectionsResponse:
        """Projections with their generations."""
        ...

    async def list_parked(
        self, request: projections_pb2.ListParkedEventsRequest, person: Person
    ) -> projections_pb2.ListParkedEventsResponse:
        """A page of what could not be applied."""
        ...

    async def retry_parked(
        self, request: projections_pb2.RetryParkedEventsRequest, person: Person
    ) -> projections_pb2.RetryParkedEventsResponse:
        """Try one again, or all."""
        ...

    async def skip_parked(
        self, request: projections_pb2.SkipParkedEventRequest, person: Person
    ) -> projections_pb2.SkipParkedEventResponse:
        """Leave one out."""
        ...

    async def rebuild(self, request: projections_pb2.RebuildRequest, person: Person) -> projections_pb2.RebuildResponse:
        """Begin a generation."""
        ...

    async def compare(self, request: projections_pb2.CompareRequest, person: Person) -> None:
        """Let a generation be compared anew."""
        ...

    async def list_differences(
        self, request: projections_pb2.ListDifferencesRequest, person: Person
    ) -> projections_pb2.ListDifferencesResponse:
        """A page of what a comparison found."""
        ...

    async def switch(
        self, request: projections_pb2.SwitchGenerationRequest, person: Person
    ) -> projections_pb2.SwitchGenerationResponse:
        """Let reads go to a generation."""
        ...

    async def drop(self, request: projections_pb2.DropGenerationRequest, person: Person) -> None:
        """Drop a generation."""
        ...

    async def list_drift(
        self, request: projections_pb2.ListDriftRequest, person: Person
    ) -> projections_pb2.ListDriftResponse:
        """A page of what has drifted."""
        ...

    async def repair(
        self, request: projections_pb2.RepairProductRequest, person: Person
    ) -> projections_pb2.RepairProductResponse:
        """Write a product's rows anew."""
        ...


class Worker(Protocol):
    """Jobs."""

    async def submit_import(
        self, header: jobs_pb2.ImportHeader, chunks: AsyncIterator[bytes], person: Person
    ) -> jobs_pb2.Job:
        """Pass a file on while it comes. An exception out of `chunks` aborts the call, of which nothing is kept, and is
        raised here.
        """
        ...

    async def get_job(self, job_id: str, person: Person) -> jobs_pb2.Job:
        """One job."""
        ...

    async def list_jobs(self, request: jobs_pb2.ListJobsRequest, person: Person) -> jobs_pb2.ListJobsResponse:
        """A page of jobs."""
        ...

    def watch_job(self, job_id: str, person: Person) -> AsyncIterator[jobs_pb2.Job]:
        """The job now, and at each change, until it ends."""
        ...

    async def cancel_job(self, job_id: str, person: Person) -> jobs_pb2.Job:
        """Ask a job to stop."""
        ...

    async def refused_rows(
        self, request: jobs_pb2.ListRefusedRowsRequest, person: Person
    ) -> jobs_pb2.ListRefusedRowsResponse:
        """A page of a report."""
        ...


class Changes(Protocol):
    """The change feed of the catalog."""

    def subscribe(
        self, request: changes_pb2.SubscribeChangesRequest, person: Person
    ) -> AsyncGenerator[changes_pb2.SubscribeChangesResponse, None]:
        """What changes, until it is left, or as long as the person's token is good."""
        ...


class Claim(enum.Enum):
    """What is remembered of an idempotency key."""

    NEW = "new"
    RUNNING = "running"
    DONE = "done"
    OTHER = "other"
    """It was used with another request."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is remembered of an idempotency key, and the answer to it where the log does not know that."""

    claim: Claim
    answer: bytes = b""


class KeyMemory(Protocol):
    """A memory of idempotency keys that may forget: the log decides, this only says no sooner.

    When it is away, every key is new, and nothing raises.
    """

    async def claim(self, key: str, fingerprint: bytes, *, seconds: float) -> Remembered:
        """Remember for at most `seconds` that a request with this key and fingerprint runs, unless the key is known."""
        ...

    async def done(self, key: str, fingerprint: bytes, answer: bytes = b"") -> None:
        """Remember that it was answered, and with what, where the log does not."""
        ...

    async def forget(self, key: str) -> None:
        """Let it be tried again at once."""
        ...


class Erasures(Protocol):
    """The forgetting of people."""

    async def forget(self, user_id: str, person: Person, *, block_email: bool) -> privacy_pb2.Erasure:
        """Forget somebody."""
        ...

    async def get(self, user_id: str, person: Person) -> privacy_pb2.Erasure:
        """An erasure as it stands."""
        ...


@dataclass(frozen=True)
class Ports:
    """All of them, as bootstrap puts them together."""

    auth: Auth
    catalog_command: CatalogCommand
    catalog_query: CatalogQuery
    worker: Worker
    keys: KeyMemory
    changes: Changes
    operators: Operators
    nonces: Nonces
    payload_keys: PayloadKeys
    access_keys: AccessKeys
    erasures: Erasures
