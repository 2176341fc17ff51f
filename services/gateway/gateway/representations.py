"""What clients get: the shapes that OpenAPI documents, and how they are made of what the services answer."""

from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from almagest.auth.v1 import auth_pb2
from almagest.catalog.v1 import changes_pb2, command_pb2, past_pb2, query_pb2, schedules_pb2
from almagest.jobs.v1 import jobs_pb2
from almagest.rpc.v1 import problem_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ConfigDict, Field, computed_field

from gateway import types
from gateway.problems import FieldError, public_field


class Shape(BaseModel):
    """A JSON object that the gateway answers."""

    model_config = ConfigDict(frozen=True)


def at(timestamp: Timestamp) -> datetime:
    """The time of a timestamp, in UTC, to the microsecond."""
    return datetime.fromtimestamp(timestamp.seconds, UTC).replace(microsecond=timestamp.nanos // 1000)


def _maybe(message: Any, field: str) -> datetime | None:
    return at(getattr(message, field)) if message.HasField(field) else None


class User(Shape):
    """A person."""

    user_id: types.Uuid
    email: types.Email
    first_name: str
    last_name: str
    roles: tuple[types.Role, ...]
    created_at: datetime

    @computed_field(description="First and last name, as one reads them.", examples=["Ada Lovelace"])
    @property
    def full_name(self) -> str:
        """First and last name, as one reads them."""
        return f"{self.first_name} {self.last_name}".strip()

    @classmethod
    def of(cls, user: auth_pb2.User) -> "User":
        """What auth says of a person."""
        return cls.model_construct(
            user_id=user.user_id,
            email=user.email,
            first_name=user.first_name,
            last_name=user.last_name,
            roles=tuple(_ROLE_NAMES[role] for role in user.roles if role in _ROLE_NAMES),
            created_at=at(user.created_at),
        )


ROLES = {
    "viewer": auth_pb2.ROLE_VIEWER,
    "editor": auth_pb2.ROLE_EDITOR,
    "admin": auth_pb2.ROLE_ADMIN,
}
_ROLE_NAMES = {number: name for name, number in ROLES.items()}


class Tokens(Shape):
    """The tokens of a session."""

    access_token: Annotated[str, Field(description="For the Authorization header.")]
    token_type: Annotated[str, Field(examples=["Bearer"])] = "Bearer"  # noqa: S105 - a name
    expires_at: Annotated[datetime, Field(description="When the access token ends.")]
    refresh_token: Annotated[str, Field(description="For `/v1/sessions:refresh`, good once.")]
    session_expires_at: Annotated[datetime, Field(description="When the session ends at the latest.")]

    @classmethod
    def of(cls, tokens: auth_pb2.Tokens, **more: Any) -> "Tokens":
        """What auth gives."""
        return cls.model_construct(
            access_token=tokens.access_token,
            token_type="Bearer",  # noqa: S106 - a name
            expires_at=at(tokens.access_token_expires_at),
            refresh_token=tokens.refresh_token,
            session_expires_at=at(tokens.session_expires_at),
            **more,
        )


class Session(Tokens):
    """A new session."""

    user: User


class Price(Shape):
    """An exact amount of money."""

    amount: types.Amount
    currency: types.Currency


class ProductDocument(Shape):
    """A product, as the read model has it. This shape is for the documentation: the bytes are passed through."""

    product_id: types.Uuid
    sku: types.Sku
    kind: types.Kind
    name: str
    text: str | None
    category: str | None
    status: types.Status
    attributes: Annotated[dict[str, Any], Field(description="By kind, as in the creation; what is not known is null.")]
    price: Price | None
    revision: types.Revision
    created_at: datetime
    updated_at: datetime


class ProductPage(Shape):
    """A page of products."""

    items: list[ProductDocument]
    next_cursor: Annotated[str | None, Field(description="For the next page; null when this is the last.")]


_EXAMPLE_PATH = "/v1/products/0193a1c2-7f4e-7c3a-9d52-3f1b6f1f0c11"


class Changed(Shape):
    """What became of a write."""

    product_id: types.Uuid
    sku: types.Sku | None
    revision: types.Revision
    changed: Annotated[bool, Field(description="False when the product already was as asked.")]
    created: Annotated[bool, Field(description="Whether the product came into being.")]
    consistency_token: Annotated[str, Field(description="For reads that must see this.", examples=["CAEQWyDXAw"])]
    links: Annotated[
        dict[str, str],
        Field(
            description="Where to go from here.",
            examples=[
                {
                    "self": _EXAMPLE_PATH,
                    "history": f"{_EXAMPLE_PATH}/history",
                    "schedules": f"{_EXAMPLE_PATH}/schedules",
                }
            ],
        ),
    ]


def changed(executed: command_pb2.Executed, sku: str | None) -> dict[str, Any]:
    """What catalog-command did."""
    path = f"/v1/products/{executed.product_id}"
    return {
        "product_id": executed.product_id,
        "sku": sku,
        "revision": executed.revision,
        "changed": executed.changed,
        "created": executed.created,
        "consistency_token": executed.consistency_token,
        "links": {"self": path, "history": path + "/history", "schedules": path + "/schedules"},
    }


class Scheduled(Changed):
    """A plan that was made."""

    schedule_id: types.Uuid


class ItemProblem(Shape):
    """Why there is nothing for one item."""

    reason: str
    message: str
    errors: tuple[FieldError, ...]


def item_problem(problem: problem_pb2.Problem) -> dict[str, Any]:
    """What a service says of an item."""
    return {
        "reason": problem.reason,
        "message": problem.message,
        "errors": [
            {"field": public_field(violation.field), "message": violation.description}
            for violation in problem.violations
        ],
    }


class BatchItem(Shape):
    """One of the products asked for."""

    product_id: types.Uuid
    product: ProductDocument | None
    problem: ItemProblem | None


class Batch(Shape):
    """The products asked for, in the order of the request."""

    items: list[BatchItem]


class FieldChange(Shape):
    """One field of the document, before and after."""

    field: Annotated[str, Field(examples=["price.amount"])]
    before: Any
    after: Any


class FieldFact(Shape):
    """One field of the document at some time."""

    field: Annotated[str, Field(examples=["price.amount"])]
    value: Any


class Change(Shape):
    """One event of a product's life."""

    revision: types.Revision
    type: Annotated[str, Field(description="What happened.", examples=["PriceSet"])]
    recorded_at: datetime
    actor: Annotated[str | None, Field(description="Who: a user id.")]
    reason: Annotated[str | None, Field(description="Why, in the actor's words.")]
    trace_id: str | None
    job_id: str | None
    import_line: int | None
    fields: list[FieldChange]
    position: Annotated[str, Field(description="Where it stands in the log, as `as_of` takes it.", examples=["0:1234"])]
    effective_at: Annotated[
        datetime | None, Field(description="From when what it says holds, if that is not when it was recorded.")
    ]
    effective_until: Annotated[datetime | None, Field(description="Until when, exclusive, if it ends.")]
    schedule_id: Annotated[types.Uuid | None, Field(description="The schedule that it is about.")]
    facts: Annotated[
        list[FieldFact], Field(description="What holds at its own time: what is scheduled, or was corrected.")
    ]
    facts_withheld: Annotated[
        bool, Field(description="Whether `facts` lacks what is scheduled, which takes the right to change the catalog.")
    ]


class HistoryPage(Shape):
    """Changes, latest first."""

    items: list[Change]
    next_cursor: str | None


def change(message: query_pb2.ProductChange) -> dict[str, Any]:
    """A change as catalog-query tells it."""
    return {
        "revision": message.revision,
        "type": message.type,
        "recorded_at": at(message.recorded_at),
        "actor": message.actor or None,
        "reason": message.reason or None,
        "trace_id": message.trace_id or None,
        "job_id": message.job_id or None,
        "import_line": message.import_line or None,
        "fields": [field_change(field) for field in message.fields],
        "position": f"{message.position.shard}:{message.position.position}",
        "effective_at": _maybe(message, "effective_at"),
        "effective_until": _maybe(message, "effective_until"),
        "schedule_id": message.schedule_id or None,
        "facts": [{"field": fact.field, "value": _json(fact.value)} for fact in message.facts],
        "facts_withheld": message.facts_withheld,
    }


def field_change(message: query_pb2.FieldChange) -> dict[str, Any]:
    """One field, before and after."""
    return {"field": message.field, "before": _json(message.before), "after": _json(message.after)}


class Diff(Shape):
    """How two versions differ."""

    product_id: types.Uuid
    from_revision: types.Revision
    to_revision: types.Revision
    fields: list[FieldChange]


class Explanation(Shape):
    """Where the value of a field comes from."""

    product_id: types.Uuid
    field: Annotated[str, Field(examples=["price.amount"])]
    value: Any
    before: Annotated[Any, Field(description="What it replaced.")]
    revision: Annotated[types.Revision, Field(description="The product's, at that moment.")]
    as_of: datetime
    known_at: datetime
    set_by: Annotated[Change | None, Field(description="The event; null when the field never had a value.")]
    scheduled_by: Annotated[
        Change | None, Field(description="The event that had scheduled it, if it was scheduled and has come.")
    ]
    links: Annotated[dict[str, str], Field(examples=[{"history": f"{_EXAMPLE_PATH}/history"}])]


def explanation(request: past_pb2.ExplainFieldRequest, answer: past_pb2.ExplainFieldResponse) -> dict[str, Any]:
    """Where a value comes from, as catalog-query tells it."""
    path = f"/v1/products/{request.product_id}"
    links = {"product": path, "history": f"{path}/history"}
    if answer.set_by.job_id:
        links["job"] = f"/v1/jobs/{answer.set_by.job_id}"
    return {
        "product_id": request.product_id,
        "field": request.field,
        "value": _json(answer.value),
        "before": _json(answer.before),
        "revision": answer.revision,
        "as_of": at(answer.moment.as_of),
        "known_at": at(answer.moment.known_at),
        "set_by": change(answer.set_by) if answer.HasField("set_by") else None,
        "scheduled_by": change(answer.scheduled_by) if answer.HasField("scheduled_by") else None,
        "links": links,
    }


class CatalogChange(Shape):
    """One event of the change feed."""

    cursor: Annotated[str, Field(description="To go on after this change; the `id` of the server-sent event.")]
    type: Annotated[str, Field(description="What happened.", examples=["PriceSet"])]
    product_id: types.Uuid
    sku: Annotated[str, Field(examples=["volvo-v60-2026"])]
    revision: types.Revision
    kind: Annotated[str, Field(examples=["car"])]
    category: Annotated[str, Field(description="After this change.", examples=["vehicles/estate"])]
    recorded_at: datetime
    actor: Annotated[str | None, Field(description="Who: a user id.")]
    reason: Annotated[str | None, Field(description="Why, in the actor's words.")]
    trace_id: str | None
    job_id: str | None
    import_line: int | None
    fields: Annotated[list[FieldChange], Field(description="What it changed.")]
    consistency_token: Annotated[
        str, Field(description="For reads that must see this, in `Almagest-Consistency`.", examples=["CAEQWyDXAw"])
    ]
    unreadable: Annotated[
        bool, Field(description="The change is of a newer version of Almagest, and `fields` do not tell what it was.")
    ]


def catalog_change(message: changes_pb2.CatalogChange) -> dict[str, Any]:
    """A change as the change feed tells it."""
    return {
        "cursor": message.cursor,
        "type": message.type,
        "product_id": message.product_id,
        "sku": message.sku,
        "revision": message.revision,
        "kind": message.kind,
        "category": message.category,
        "recorded_at": at(message.recorded_at),
        "actor": message.actor or None,
        "reason": message.reason or None,
        "trace_id": message.trace_id or None,
        "job_id": message.job_id or None,
        "import_line": message.import_line or None,
        "fields": [
            {"field": field.field, "before": _json(field.before), "after": _json(field.after)}
            for field in message.fields
        ],
        "consistency_token": message.consistency_token,
        "unreadable": message.unreadable,
    }


def _json(text: str) -> orjson.Fragment | None:
    return orjson.Fragment(text) if text else None


class Progress(Shape):
    """How far an import is."""

    bytes_total: int
    bytes_done: int
    rows_done: int
    rows_created: int
    rows_changed: int
    rows_unchanged: int
    rows_refused: int


class ImportOptions(Shape):
    """How to import."""

    format: types.ImportFormat
    on_error: types.OnError
    dry_run: bool
    reason: str | None


class Job(Shape):
    """A piece of work."""

    job_id: types.Uuid
    type: Annotated[str, Field(examples=["import"])]
    name: str | None
    state: types.JobState
    progress: Progress
    options: ImportOptions
    submitted_by: types.Uuid
    attempts: Annotated[int, Field(description="How often a worker has begun it.")]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error: ItemProblem | None
    cancel_requested: bool
    consistency_tokens: Annotated[list[str], Field(description="For reads that must see all that it wrote.")]
    trace_id: str | None
    revision: types.Revision


class JobPage(Shape):
    """Jobs, latest first."""

    items: list[Job]
    next_cursor: str | None


STATES = {
    "queued": jobs_pb2.JOB_STATE_QUEUED,
    "running": jobs_pb2.JOB_STATE_RUNNING,
    "succeeded": jobs_pb2.JOB_STATE_SUCCEEDED,
    "failed": jobs_pb2.JOB_STATE_FAILED,
    "cancelled": jobs_pb2.JOB_STATE_CANCELLED,
}
_STATE_NAMES = {number: name for name, number in STATES.items()}
ENDED = frozenset({jobs_pb2.JOB_STATE_SUCCEEDED, jobs_pb2.JOB_STATE_FAILED, jobs_pb2.JOB_STATE_CANCELLED})
FORMATS = {
    "ndjson": jobs_pb2.IMPORT_FORMAT_NDJSON,
    "csv": jobs_pb2.IMPORT_FORMAT_CSV,
}
_FORMAT_NAMES = {number: name for name, number in FORMATS.items()}


def job(message: jobs_pb2.Job) -> dict[str, Any]:
    """A job as the worker tells it."""
    progress, options = message.progress, message.options
    return {
        "job_id": message.job_id,
        "type": message.type,
        "name": message.name or None,
        "state": _STATE_NAMES.get(message.state, "queued"),
        "progress": {name: getattr(progress, name) for name in Progress.model_fields},
        "options": {
            "format": _FORMAT_NAMES.get(options.format, "ndjson"),
            "on_error": "skip" if options.on_error == jobs_pb2.ON_ERROR_SKIP else "stop",
            "dry_run": options.dry_run,
            "reason": options.reason or None,
        },
        "submitted_by": message.submitted_by,
        "attempts": message.attempts,
        "created_at": at(message.created_at),
        "started_at": _maybe(message, "started_at"),
        "ended_at": _maybe(message, "ended_at"),
        "error": item_problem(message.error) if message.HasField("error") else None,
        "cancel_requested": message.cancel_requested,
        "consistency_tokens": list(message.consistency_tokens),
        "trace_id": message.trace_id or None,
        "revision": message.revision,
    }


class RefusedRow(Shape):
    """A row that was not imported."""

    line: Annotated[int, Field(description="From 1; in CSV the header is line 1.")]
    sku: str | None
    problem: ItemProblem


class RefusedPage(Shape):
    """Refused rows, by line."""

    items: list[RefusedRow]
    next_cursor: str | None


def refused_row(message: jobs_pb2.RefusedRow) -> dict[str, Any]:
    """A row of an import's report."""
    return {"line": message.line, "sku": message.sku or None, "problem": item_problem(message.problem)}


class Projector(Shape):
    """How far one projector is."""

    event_shard: int
    read_shard: int
    checkpoint: int
    head: int
    lag_events: Annotated[int, Field(description="How many positions it is behind.")]
    lag_seconds: Annotated[float, Field(description="The age of the oldest event that is not applied.")]
    running: bool


class Projections(Shape):
    """How far the read models are behind the log."""

    items: list[Projector]


class Health(Shape):
    """That the process lives."""

    status: Annotated[str, Field(examples=["ok"])]


class Ready(Shape):
    """Whether it can do its work, and what each probe said."""

    ready: bool
    probes: dict[str, str]


class ScheduledPrice(Shape):
    """A price that is planned."""

    amount: types.Amount
    currency: types.Currency


class Refusal(Shape):
    """Why a schedule is still open although it was tried to carry it out."""

    reason: Annotated[str, Field(examples=["USER_NOT_FOUND"])]
    message: str
    refused_at: datetime
    attempts: int
    next_attempt_at: datetime


class Schedule(Shape):
    """A plan, and what became of it."""

    schedule_id: types.Uuid
    product_id: types.Uuid
    price: Annotated[ScheduledPrice | None, Field(description="The price that the product gets, if that is the plan.")]
    published: Annotated[bool | None, Field(description="Whether it is published or hidden, if that is the plan.")]
    effective_at: datetime
    state: types.ScheduleState
    scheduled_by: types.Uuid
    scheduled_at: datetime
    reason: str | None
    ended_at: datetime | None
    failure: Annotated[
        str | None,
        Field(
            description="Why it failed: `PRICE_MISSING`, or `SUPERSEDED` by what took effect later and came before it.",
            examples=["PRICE_MISSING"],
        ),
    ]
    refusal: Refusal | None
    links: Annotated[dict[str, str], Field(examples=[{"product": _EXAMPLE_PATH}])]


class SchedulePage(Shape):
    """Schedules, those due first first."""

    items: list[Schedule]
    next_cursor: str | None


SCHEDULE_STATES = {
    "open": schedules_pb2.SCHEDULE_STATE_OPEN,
    "activated": schedules_pb2.SCHEDULE_STATE_ACTIVATED,
    "cancelled": schedules_pb2.SCHEDULE_STATE_CANCELLED,
    "failed": schedules_pb2.SCHEDULE_STATE_FAILED,
}
_SCHEDULE_STATE_NAMES = {number: name for name, number in SCHEDULE_STATES.items()}


def schedule(message: schedules_pb2.Schedule) -> dict[str, Any]:
    """A schedule as catalog-query tells it."""
    is_price = message.WhichOneof("change") == "price"
    path = f"/v1/products/{message.product_id}"
    kept = message.refusal
    return {
        "schedule_id": message.schedule_id,
        "product_id": message.product_id,
        "price": {"amount": message.price.amount, "currency": message.price.currency} if is_price else None,
        "published": None if is_price else message.published,
        "effective_at": at(message.effective_at),
        "state": _SCHEDULE_STATE_NAMES.get(message.state, "open"),
        "scheduled_by": message.scheduled_by,
        "scheduled_at": at(message.scheduled_at),
        "reason": message.reason or None,
        "ended_at": at(message.ended_at) if message.HasField("ended_at") else None,
        "failure": message.failure or None,
        "refusal": {
            "reason": kept.problem.reason,
            "message": kept.problem.message,
            "refused_at": at(kept.refused_at),
            "attempts": kept.attempts,
            "next_attempt_at": at(kept.next_attempt_at),
        }
        if message.HasField("refusal")
        else None,
        "links": {"product": path, "history": f"{path}/history"},
    }
