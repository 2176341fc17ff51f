"""Who may call which RPC: what is declared, written down by hand and not derived from the services' own policies.

A row per RPC: the services that serve it, the workloads that are let in, whether a person must stand behind the call,
and the scopes that they need. An RPC without a row fails the build (`test_every_rpc_has_a_row`): add it here, in the
words of the decision, and the matrix does the rest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

WORKLOADS: Final = (
    "gateway",
    "auth",
    "catalog-command",
    "catalog-query",
    "event-store",
    "worker",
    "operator",
    "nobody",
)
"""Every identity of the trust domain, and one that no row names."""
SERVERS: Final = ("auth", "catalog-command", "catalog-query", "event-store", "worker")


@dataclass(frozen=True)
class Row:
    """What is declared of an RPC.

    Attributes:
        servers: who serves it.
        callers: who is let in; all others are not.
        person: whether a valid transaction token of a person must come along.
        scopes: what that token must allow.
    """

    servers: frozenset[str]
    callers: frozenset[str]
    person: bool = False
    scopes: frozenset[str] = frozenset()


def _rows(
    server: str, service: str, callers: str, names: str, *, person: bool = False, scopes: str = ""
) -> dict[str, Row]:
    row = Row(frozenset(server.split()), frozenset(callers.split()), person or bool(scopes), frozenset(scopes.split()))
    return {f"/almagest.{service}/{name}": row for name in names.split()}


_READERS = "catalog-command catalog-query worker"

ROWS: Final[Mapping[str, Row]] = {
    # People, their sessions and tokens: the gateway stands before all of it.
    **_rows("auth", "auth.v1.AuthService", "gateway", "CreateUser", scopes="users:write"),
    **_rows("auth", "auth.v1.AuthService", "gateway", "GetUser", person=True),
    **_rows("auth", "auth.v1.AuthService", "gateway", "LogIn RefreshSession LogOut ExchangeToken"),
    **_rows("auth", "auth.v1.AuthService", "worker", "DelegateToken"),
    **_rows(
        "auth",
        "auth.v1.AuthService",
        "gateway catalog-command catalog-query event-store worker",
        "GetJwks WatchRevocations",
    ),
    **_rows(
        "auth",
        "auth.v1.AccessKeyService",
        "gateway",
        "CreateAccessKey GetAccessKey ListAccessKeys RotateAccessKey RevokeAccessKey",
        person=True,
    ),
    **_rows("auth", "auth.v1.AccessKeyService", "gateway", "GetVerificationKey ExchangeAccessKey"),
    **_rows("auth", "auth.v1.PayloadKeyService", "gateway", "ListPayloadKeys"),
    **_rows("auth", "auth.v1.PeopleService", "gateway", "BatchCreateUsers", scopes="users:write"),
    **_rows("auth", "auth.v1.PeopleService", "gateway", "ListUsers", scopes="users:read"),
    **_rows(
        "auth", "auth.v1.PeopleService", "gateway", "UpdateUser ChangePassword ListSessions EndSession", person=True
    ),
    **_rows("auth", "auth.v1.AuditService", "gateway", "ListAuditEvents", scopes="audit:read"),
    **_rows(
        "auth", "auth.v1.AuditService", "gateway catalog-command catalog-query event-store worker", "ReportDenials"
    ),
    # People are forgotten on behalf of somebody; keys are rotated by those who run the system.
    **_rows("auth", "auth.v1.PrivacyService", "gateway", "ForgetPerson GetErasure", person=True),
    **_rows("auth", "auth.v1.PrivacyService", "operator", "RotateDataKeys"),
    # The log: services read it on their own account; auth writes its audit; people's writes carry a token per item.
    **_rows("event-store", "eventstore.v1.EventStoreService", "catalog-command auth", "Append"),
    **_rows(
        "event-store", "eventstore.v1.EventStoreService", _READERS, "GetAppend ReadStream BatchReadStreams ReadAll"
    ),
    **_rows("event-store", "eventstore.v1.EventStoreService", "catalog-query worker", "Subscribe"),
    **_rows("event-store", "eventstore.v1.EventStoreService", "catalog-command catalog-query", "PutSnapshots"),
    **_rows("event-store", "eventstore.v1.EventStoreService", "catalog-command operator", "SetStreamMetadata"),
    **_rows("event-store", "eventstore.v1.EventStoreService", f"{_READERS} operator", "GetStreamMetadata GetShardMap"),
    **_rows(
        "event-store",
        "eventstore.v1.EventStoreAdministrationService",
        "operator",
        "Verify MoveBuckets CancelMove ListMoves ArchiveEvents ListArchives",
    ),
    # The write side: each item carries its person.
    **_rows("catalog-command", "catalog.v1.CatalogCommandService", "gateway worker", "ExecuteCommands"),
    # The read side.
    **_rows(
        "catalog-query",
        "catalog.v1.CatalogQueryService",
        "gateway worker",
        "GetProduct ListProducts SearchProducts",
        scopes="catalog:read",
    ),
    **_rows("catalog-query", "catalog.v1.CatalogQueryService", "gateway worker", "BatchGetProducts"),
    **_rows("catalog-query", "catalog.v1.CatalogQueryService", "gateway", "GetProductHistory", scopes="catalog:read"),
    **_rows("catalog-query", "catalog.v1.CatalogQueryService", "gateway operator", "GetProjectionStatus"),
    **_rows(
        "catalog-query", "catalog.v1.CatalogChangesService", "gateway worker", "SubscribeChanges", scopes="catalog:read"
    ),
    **_rows(
        "catalog-query",
        "catalog.v1.CatalogPastService",
        "gateway",
        "GetProductAsOf ListProductsAsOf SearchProductsAsOf DiffProduct ExplainField",
        scopes="catalog:read",
    ),
    **_rows("catalog-query", "catalog.v1.CatalogScheduleService", "gateway", "ListSchedules", scopes="catalog:write"),
    **_rows("catalog-query", "catalog.v1.CatalogScheduleService", "worker", "ListDueSchedules ReportRefusals"),
    **_rows(
        "catalog-query",
        "catalog.v1.CatalogProjectionService",
        "gateway",
        "ListProjections ListParkedEvents ListDifferences ListDrift",
        scopes="projections:read",
    ),
    **_rows(
        "catalog-query",
        "catalog.v1.CatalogProjectionService",
        "gateway",
        "RetryParkedEvents SkipParkedEvent Rebuild Compare SwitchGeneration DropGeneration RepairProduct",
        scopes="projections:write",
    ),
    # What is left of a person in the stores of a service: asked by auth before it says that nothing is.
    **_rows("catalog-query event-store worker", "auth.v1.PersonalDataService", "auth", "SearchPersonalData"),
    # Jobs.
    **_rows("worker", "jobs.v1.JobsService", "gateway", "SubmitImport", scopes="jobs:write catalog:write"),
    **_rows("worker", "jobs.v1.JobsService", "gateway", "GetJob ListJobs WatchJob ListRefusedRows", scopes="jobs:read"),
    **_rows("worker", "jobs.v1.JobsService", "gateway", "CancelJob", scopes="jobs:write"),
}

EVERYBODY: Final[Mapping[str, frozenset[str]]] = {
    "/grpc.health.v1.Health/Check": frozenset(WORKLOADS),
    "/grpc.health.v1.Health/List": frozenset(WORKLOADS),
    "/grpc.health.v1.Health/Watch": frozenset(WORKLOADS),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": frozenset({"operator"}),
}
"""What every server serves beside its own."""

UNIMPLEMENTED: Final = frozenset({"/grpc.health.v1.Health/List"})
"""Of those, what the library that serves them does not implement: who is let in learns that."""

NOT_SERVED: Final[frozenset[str]] = frozenset()
"""RPCs that are described and that no server serves; with a reason beside each."""


def undecided(described: Iterable[str]) -> list[str]:
    """RPCs without a row, and rows without an RPC."""
    return sorted(set(described) ^ (set(ROWS) | NOT_SERVED))
