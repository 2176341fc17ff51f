"""Who may ask for which operation of the HTTP API: what is declared, written down by hand.

A row per operation id of the served OpenAPI document: which persons are let in, which are told that there is nothing
(because it is somebody else's), and what a request looks like that only lacks the right. Who is let in succeeds, or is
told the reason that the row names; persons that it does not name are refused, known ones with 403, unknown ones with
401, and cannot tell whether what they asked for is there. An operation without a row fails the build: add it here. What
differs by the parameters of an operation has another row, whose name goes on after a colon.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

KNOWN: Final = ("viewer", "editor", "admin", "other")
"""Persons with a session: one of each role, and another editor, to whom none of the objects here belongs."""
UNKNOWN: Final = (
    "anonymous",
    "expired",
    "no algorithm",
    "another algorithm",
    "another key",
    "changed",
    "wrong audience",
    "refresh token",
    "replayed",
)
"""Who comes without a token, or with one that proves nothing: out of date, forged in four ways, meant for our services
or for renewal, or stolen from a session that has ended.
"""

SPENT: Final = "spent_user"
"""A person who is not the same afterwards: another editor who asks for themselves, and somebody new for an admin."""

World = Mapping[str, str]
"""What is there to be asked for: ids of objects, by name. Objects belong to the editor."""


@dataclass(frozen=True)
class Row:
    """What is declared of an operation.

    Attributes:
        persons: who is let in; `public`: everybody.
        hidden: to whom it does not exist (404).
        path: what is put for the parameters of the path, by their names in the world.
        query: the parameters.
        body: makes the JSON body.
        headers: what else goes along.
        reason: what those who are let in are told, as the request is about what is not there; empty: they succeed.
        lists: the object of the editor whose id stands in the answer.
        seen_by: for whom it does; for the others who are let in it does not.
    """

    persons: frozenset[str]
    hidden: frozenset[str] = frozenset()
    path: Mapping[str, str] = field(default_factory=dict[str, str])
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Callable[[World], Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    reason: str = ""
    lists: str = ""
    seen_by: frozenset[str] = frozenset()

    @property
    def public(self) -> bool:
        """Whether nobody is asked who they are."""
        return "public" in self.persons


def _row(
    persons: str,
    *,
    hidden: str = "",
    body: Callable[[World], Any] | None = None,
    query: str = "",
    reason: str = "",
    lists: str = "",
    seen_by: str = "",
    **path: str,
) -> Row:
    pairs = dict(pair.split("=") for pair in query.split("&") if pair)
    return Row(
        frozenset(persons.split()),
        frozenset(hidden.split()),
        path,
        pairs,
        body,
        reason=reason,
        lists=lists,
        seen_by=frozenset(seen_by.split()),
    )


_EVERYONE = "viewer editor admin other"
_WRITERS = "editor admin other"
_ADMIN = "admin"
_OWNER = "editor admin"


def _read(**path: str) -> Row:
    return _row(_EVERYONE, **path)


def _product(**path: str) -> dict[str, str]:
    return {"product_id": "product", **path}


def _write(body: Callable[[World], Any] | None = None) -> Row:
    return _row(_WRITERS, body=body, product_id="product")


def _generation(body: Callable[[World], Any] | None = None) -> Row:
    """Generations come and go with a rebuild, which is not made for this: asked for one that is not there."""
    return _row(_ADMIN, body=body, reason="GENERATION_NOT_FOUND", name="projection", generation="no_generation")


ROWS: Final[Mapping[str, Row]] = {
    # What nobody needs to be known for.
    "health": _row("public"),
    "ready": _row("public"),
    "metrics": _row("public"),
    "listPayloadKeys": _row("public"),
    "logIn": _row("public", body=lambda world: {"email": world["email"], "password": world["password"]}),
    "refreshSession": _row("public", body=lambda world: {"refresh_token": world["fresh_refresh_token"]}),
    "logOut": _row("public", body=lambda _: {"refresh_token": "x" * 43}),
    # People.
    "createUser": _row(
        _ADMIN,
        body=lambda world: {
            "email": f"{world['fresh']}@example.org",
            "password": world["password"],
            "first_name": "A",
            "last_name": "B",
            "roles": ["viewer"],
        },
    ),
    "getMe": _read(),
    "getUser": _row(_OWNER, user_id="user"),
    "findUser": _row(_OWNER, query="email={email}", lists="user", seen_by=_OWNER),
    "findUser: everybody": _row(_ADMIN),
    "createUsers": _row(
        _ADMIN,
        body=lambda world: {
            "users": [
                {
                    "email": f"{world['fresh']}@example.org",
                    "password": world["password"],
                    "first_name": "A",
                    "last_name": "B",
                    "roles": ["viewer"],
                }
            ]
        },
    ),
    "changeUser": _row(_OWNER, body=lambda _: {"first_name": "Ada"}, user_id="user"),
    "changePassword": _row(
        _OWNER, body=lambda world: {"present": world["password"], "password": "a horse of no name"}, user_id=SPENT
    ),
    "listSessions": _row(_EVERYONE, lists="session", seen_by="editor"),
    "listSessions: another's": _row(_OWNER, query="user_id={user}", lists="session", seen_by=_OWNER),
    "endSession": _row(_OWNER, hidden="viewer other", session_id="fresh_session"),
    "listAudit": _row(_ADMIN),
    "forgetUser": _row(_OWNER, user_id=SPENT),
    "getErasure": _row(_ADMIN, user_id="forgotten"),
    # Access keys: everybody's own, and all of them an admin's.
    "createKey": _row(_EVERYONE, body=lambda world: {"name": world["fresh"], "kind": "ed25519"}),
    "createKey: another's": _row(
        _OWNER,
        hidden="viewer other",
        body=lambda world: {"name": world["fresh"], "kind": "ed25519", "user_id": world["user"]},
    ),
    "listKeys": _row(_EVERYONE, lists="key", seen_by="editor"),
    "listKeys: another's": _row(_OWNER, hidden="viewer other", query="user_id={user}", lists="key", seen_by=_OWNER),
    "getKey": _row(_OWNER, hidden="viewer other", key_id="key"),
    "rotateKey": _row(_OWNER, hidden="viewer other", body=lambda _: {}, key_id="fresh_key"),
    "revokeKey": _row(_OWNER, hidden="viewer other", key_id="fresh_key"),
    # The catalog: everybody reads, editors write.
    "getProduct": _read(**_product()),
    "getProductHistory": _read(**_product()),
    "diffProduct": _row(_EVERYONE, query="from=1", product_id="product"),
    "explainField": _row(_EVERYONE, query="field=name", product_id="product"),
    "listProducts": _read(),
    "searchProducts": _row(_EVERYONE, query="text=volvo"),
    "batchGetProducts": _row(_EVERYONE, body=lambda world: {"ids": [world["product"]]}),
    "listVehicles": _read(),
    "getVehicle": _read(**_product()),
    "followChanges": _row(_EVERYONE, query="after=now&follow=false"),
    "createProduct": _row(
        _WRITERS, body=lambda world: {"sku": f"matrix-{world['fresh']}", "kind": "general", "name": "A"}
    ),
    "describeProduct": _write(
        lambda world: {
            "kind": "car",
            "name": world["fresh"],
            "attributes": {"make": "Volvo", "model": "V60", "model_year": 2026},
        }
    ),
    "setPrice": _write(lambda _: {"amount": "12.00", "currency": "EUR"}),
    "publishProduct": _write(lambda _: {}),
    "unpublishProduct": _write(lambda _: {}),
    "discontinueProduct": _row(_WRITERS, body=lambda _: {"reason": "old"}, product_id="fresh_product"),
    "correctPrice": _write(lambda world: {"amount": "11.00", "currency": "EUR", "effective_from": world["since"]}),
    "restoreProduct": _write(lambda _: {"revision": 1}),
    "scheduleChange": _write(
        lambda world: {"effective_at": world["fresh_time"], "price": {"amount": "9.00", "currency": "EUR"}}
    ),
    "cancelSchedule": _row(_WRITERS, product_id="product", schedule_id="schedule"),
    # What is planned is for those who plan.
    "listProductSchedules": _row(_WRITERS, product_id="product"),
    "listSchedules": _row(_WRITERS),
    # Jobs: one's own, and all of them an admin's.
    "importProducts": Row(
        frozenset(_WRITERS.split()), query={"dry_run": "true"}, headers={"Content-Type": "application/x-ndjson"}
    ),
    "listJobs": _row(_EVERYONE, lists="job", seen_by=_OWNER),
    "getJob": _row(_OWNER, hidden="viewer other", job_id="job"),
    "watchJob": _row(_OWNER, hidden="viewer other", job_id="job"),
    "cancelJob": _row(_OWNER, hidden="other", job_id="job"),
    "listRefusedRows": _row(_OWNER, hidden="viewer other", job_id="job"),
    # Projections are looked after by admins only.
    # How fresh reads are is told to everybody who reads.
    "listProjections": _read(),
    "getProjection": _row(_ADMIN, name="projection"),
    "listParkedEvents": _row(_ADMIN, name="projection"),
    "retryParkedEvents": _row(_ADMIN, name="projection"),
    "retryParkedEvent": _row(_ADMIN, reason="PARKED_EVENT_NOT_FOUND", name="projection", parked_id="nobody"),
    "skipParkedEvent": _row(
        _ADMIN,
        body=lambda _: {"reason": "x"},
        reason="PARKED_EVENT_NOT_FOUND",
        name="projection",
        parked_id="nobody",
    ),
    "rebuildProjection": _row(_ADMIN, reason="PROJECTION_NOT_FOUND", name="no_projection"),
    "listDifferences": _generation(),
    "compareGeneration": _generation(),
    "switchGeneration": _generation(lambda _: {}),
    "dropGeneration": _generation(),
    "listDrift": _row(_ADMIN, name="projection"),
    "repairProduct": _row(_ADMIN, body=lambda world: {"product_id": world["product"]}),
}

UNDESCRIBED: Final = frozenset({"/openapi.json", "/docs", "/docs/openapi-3.0.json", "/docs/{name}"})
"""Routes that the document leaves out: the document itself and the page that shows it, both public."""


NOTHING: Final[Mapping[str, str]] = {
    "projection": "no_projection",
    "no_projection": "no_projection",
    "no_generation": "no_generation",
}
"""What is asked for in the place of an object, where that is not an id that nobody has."""


def operation_of(name: str) -> str:
    """The operation that a row is about."""
    return name.partition(":")[0]


def undecided(operations: Mapping[str, tuple[str, str]], routes: Iterable[str]) -> list[str]:
    """Operations without a row, rows without an operation, and routes that are neither described nor known as such."""
    described = {path for _, path in operations.values()}
    return sorted((set(operations) ^ {operation_of(name) for name in ROWS}) | (set(routes) - described ^ UNDESCRIBED))
