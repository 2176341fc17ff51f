"""Who may ask for which operation of the HTTP API: what is declared, written down by hand.

A row per operation id of the served OpenAPI document: which persons are let in, which are told that there is nothing
(because it is somebody else's), and what a request looks like that only lacks the right. Persons that a row does not
name are refused: known ones with 403, unknown ones with 401. An operation without a row fails the build: add it here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
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
    """

    persons: frozenset[str]
    hidden: frozenset[str] = frozenset()
    path: Mapping[str, str] = field(default_factory=dict[str, str])
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Callable[[World], Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def public(self) -> bool:
        """Whether nobody is asked who they are."""
        return "public" in self.persons


def _row(
    persons: str, *, hidden: str = "", body: Callable[[World], Any] | None = None, query: str = "", **path: str
) -> Row:
    pairs = dict(pair.split("=") for pair in query.split("&") if pair)
    return Row(frozenset(persons.split()), frozenset(hidden.split()), path, pairs, body)


_EVERYONE = "viewer editor admin other"
_WRITERS = "editor admin other"
_ADMIN = "admin"
_OWNER = "editor admin"
LATER: Final = f"{datetime.now(UTC) + timedelta(days=300):%Y-%m-%dT%H:%M:%SZ}"


def _read(**path: str) -> Row:
    return _row(_EVERYONE, **path)


def _product(**path: str) -> dict[str, str]:
    return {"product_id": "product", **path}


def _write(body: Callable[[World], Any] | None = None) -> Row:
    return _row(_WRITERS, body=body, product_id="product")


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
    "findUser": Row(frozenset({"admin", "editor"}), query={"email": "{email}"}),
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
    # Asked for somebody who is not there: changing a password ends sessions.
    "changePassword": _row(_ADMIN, body=lambda world: {"password": world["password"]}, user_id="nobody"),
    "listSessions": _read(),
    "endSession": _row(_OWNER, hidden="viewer other", session_id="fresh_session"),
    "listAudit": _row(_ADMIN),
    # A person may be forgotten by themselves and by admins. Asked of somebody who is not there, so that nobody is.
    "forgetUser": _row(_ADMIN, body=lambda _: {}, user_id="nobody"),
    "getErasure": _row(_ADMIN, user_id="nobody"),
    # Access keys: everybody's own, and all of them an admin's.
    "createKey": _row(_EVERYONE, body=lambda world: {"name": world["fresh"], "kind": "ed25519"}),
    "listKeys": _read(),
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
    "correctPrice": _write(lambda _: {"amount": "11.00", "currency": "EUR", "effective_from": "2026-01-01T00:00:00Z"}),
    "restoreProduct": _write(lambda _: {"revision": 1}),
    "scheduleChange": _write(lambda _: {"effective_at": LATER, "price": {"amount": "9.00", "currency": "EUR"}}),
    "cancelSchedule": _row(_WRITERS, product_id="product", schedule_id="schedule"),
    # What is planned is for those who plan.
    "listProductSchedules": _row(_WRITERS, product_id="product"),
    "listSchedules": _row(_WRITERS),
    # Jobs: one's own, and all of them an admin's.
    "importProducts": Row(
        frozenset(_WRITERS.split()), query={"dry_run": "true"}, headers={"Content-Type": "application/x-ndjson"}
    ),
    "listJobs": _read(),
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
    "retryParkedEvent": _row(_ADMIN, name="projection", parked_id="nobody"),
    "skipParkedEvent": _row(_ADMIN, body=lambda _: {"reason": "x"}, name="projection", parked_id="nobody"),
    "rebuildProjection": _row(_ADMIN, name="no_projection"),
    "listDifferences": _row(_ADMIN, name="projection", generation="no_generation"),
    "compareGeneration": _row(_ADMIN, name="projection", generation="no_generation"),
    "switchGeneration": _row(_ADMIN, body=lambda _: {}, name="projection", generation="no_generation"),
    "dropGeneration": _row(_ADMIN, name="projection", generation="no_generation"),
    "listDrift": _row(_ADMIN, name="projection"),
    "repairProduct": _row(_ADMIN, body=lambda world: {"product_id": world["product"]}),
}

UNDESCRIBED: Final = frozenset({"/openapi.json", "/docs", "/docs/openapi-3.0.json", "/docs/{name}"})
"""Routes that the document leaves out: the document itself and the page that shows it, both public."""
