"""The gateway on fakes: implementations of the ports that keep their contracts, small and in memory."""

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import grpc
import httpx
import orjson
import pytest
from almagest.auth.v1 import auth_pb2
from almagest.catalog.v1 import changes_pb2, command_pb2, past_pb2, projections_pb2, query_pb2, schedules_pb2
from almagest.eventstore.v1 import event_pb2
from almagest.jobs.v1 import jobs_pb2
from almagest.rpc.v1 import problem_pb2
from chassis.errors import RemoteProblem
from chassis.http import Readiness
from chassis.telemetry.logging import configure_logging
from chassis.telemetry.tracing import configure_tracing, shutdown_tracing
from gateway.app import create_app
from gateway.application.changes import Feeds
from gateway.application.ports import (
    Auth,
    CatalogCommand,
    CatalogQuery,
    Changes,
    Claim,
    KeyMemory,
    Operators,
    Person,
    Ports,
    Remembered,
    Worker,
)
from gateway.application.quotas import Quotas
from gateway.settings import Settings
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

PASSWORD = "correct horse battery staple"


def problem(code: grpc.StatusCode, reason: str, message: str = "No.", **metadata: str) -> RemoteProblem:
    return RemoteProblem(problem_pb2.Problem(code=code.value[0], reason=reason, message=message, metadata=metadata))


def violation(code: grpc.StatusCode, reason: str, field: str, description: str) -> RemoteProblem:
    return RemoteProblem(
        problem_pb2.Problem(
            code=code.value[0],
            reason=reason,
            message=description,
            violations=[problem_pb2.FieldViolation(field=field, description=description)],
        )
    )


def jwt(subject: str, **claims: object) -> str:
    """A token in the shape of one; the gateway leaves its proof to others."""
    parts = [{"alg": "Ed25519"}, {"sub": subject, **claims}, {"signature": uuid.uuid4().hex}]
    return ".".join(base64.urlsafe_b64encode(orjson.dumps(part)).rstrip(b"=").decode() for part in parts)


def position_token(position: int) -> str:
    message = event_pb2.ConsistencyToken(epoch=1, bucket=0, shard=0, position=position)
    return base64.urlsafe_b64encode(message.SerializeToString()).rstrip(b"=").decode()


class FakeAuth(Auth):
    """Knows its users, and the access tokens that it gave."""

    def __init__(self) -> None:
        self.users: dict[str, auth_pb2.User] = {}
        self.sessions: dict[str, str] = {}
        self.access: dict[str, str] = {}
        self.created: dict[str, auth_pb2.User] = {}
        self.exchanges = 0
        self.lifetime = 60.0
        self.exchange_gate: asyncio.Event | None = None
        self.add("ada@example.com", "Ada", "Lovelace", auth_pb2.ROLE_ADMIN)

    def add(self, email: str, first: str, last: str, *roles: auth_pb2.Role) -> auth_pb2.User:
        user = auth_pb2.User(user_id=str(uuid.uuid4()), email=email, first_name=first, last_name=last, roles=roles)
        user.created_at.FromJsonString("2026-11-22T16:30:00.123456Z")
        self.users[user.user_id] = user
        return user

    def _tokens(self, user_id: str) -> auth_pb2.Tokens:
        tokens = auth_pb2.Tokens(access_token=jwt(user_id), refresh_token=uuid.uuid4().hex)
        tokens.access_token_expires_at.FromSeconds(int(time.time()) + 600)
        tokens.session_expires_at.FromSeconds(int(time.time()) + 86_400)
        self.access[tokens.access_token] = user_id
        self.sessions[tokens.refresh_token] = user_id
        return tokens

    async def log_in(self, request: auth_pb2.LogInRequest) -> auth_pb2.LogInResponse:
        for user in self.users.values():
            if user.email == request.email and request.password == PASSWORD:
                return auth_pb2.LogInResponse(tokens=self._tokens(user.user_id), user=user)
        raise problem(grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")

    async def refresh(self, request: auth_pb2.RefreshSessionRequest) -> auth_pb2.Tokens:
        user_id = self.sessions.pop(request.refresh_token, None)
        if user_id is None:
            raise problem(grpc.StatusCode.UNAUTHENTICATED, "INVALID_REFRESH_TOKEN")
        return self._tokens(user_id)

    async def log_out(self, request: auth_pb2.LogOutRequest) -> None:
        self.sessions.pop(request.refresh_token, None)

    async def exchange(self, access_token: str) -> auth_pb2.ExchangeTokenResponse:
        self.exchanges += 1
        if self.exchange_gate is not None:
            await self.exchange_gate.wait()
        subject = self.access.get(access_token)
        if subject is None:
            raise problem(grpc.StatusCode.UNAUTHENTICATED, "INVALID_TOKEN")
        answer = auth_pb2.ExchangeTokenResponse(transaction_token=jwt(subject))
        answer.expires_at.FromNanoseconds(int((time.time() + self.lifetime) * 1e9))
        return answer

    async def create_user(self, request: auth_pb2.CreateUserRequest, person: Person) -> auth_pb2.User:
        del person
        if request.command_id in self.created:
            return self.created[request.command_id]
        if any(user.email == request.email for user in self.users.values()):
            raise problem(grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")
        user = self.add(request.email, request.first_name, request.last_name, *request.roles)
        self.created[request.command_id] = user
        return user

    async def get_user(self, request: auth_pb2.GetUserRequest, person: Person) -> auth_pb2.User:
        del person
        for user in self.users.values():
            if request.user_id == user.user_id or request.email == user.email:
                return user
        raise problem(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")


class Catalog(CatalogCommand, CatalogQuery):
    """Both sides of the catalog over one dictionary, with the log as a list of commands per product."""

    def __init__(self) -> None:
        self.held: int | None = None
        self.documents: dict[str, dict[str, object]] = {}
        self.log: dict[str, list[query_pb2.ProductChange]] = {}
        self.answered: dict[str, tuple[bytes, command_pb2.Executed]] = {}
        self.items: list[command_pb2.CommandItem] = []
        self.list_requests: list[query_pb2.ListProductsRequest] = []
        self.moments: list[past_pb2.Moment] = []
        self.diffs: list[past_pb2.DiffProductRequest] = []
        self.history_requests: list[query_pb2.GetProductHistoryRequest] = []
        self.plans: dict[str, schedules_pb2.Schedule] = {}
        self.schedule_requests: list[schedules_pb2.ListSchedulesRequest] = []
        self.position = 0
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.cancelled = 0
        self.began = asyncio.Event()
        self.gave_up = asyncio.Event()

    async def _pass(self) -> None:
        self.began.set()
        if self.failure is not None:
            raise self.failure
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                self.gave_up.set()
                raise

    async def execute(self, item: command_pb2.CommandItem) -> command_pb2.Executed:
        await self._pass()
        self.items.append(item)
        if item.command_id in self.answered:
            fingerprint, executed = self.answered[item.command_id]
            if fingerprint != item.fingerprint:
                raise problem(grpc.StatusCode.INVALID_ARGUMENT, "COMMAND_ID_REUSED")
            replay = command_pb2.Executed()
            replay.CopyFrom(executed)
            replay.replayed = True
            return replay
        executed = self._decide(item)
        self.answered[item.command_id] = (item.fingerprint, executed)
        return executed

    def _decide(self, item: command_pb2.CommandItem) -> command_pb2.Executed:  # noqa: PLR0912, PLR0915 - one per command
        known = self.documents.get(item.product_id)
        revision = int(str(known["revision"])) if known else 0
        if item.HasField("expected_revision") and known and item.expected_revision != revision:
            raise problem(grpc.StatusCode.ABORTED, "REVISION_CONFLICT", actual_revision=str(revision))
        document = dict(known or {})
        created = False
        for command in item.commands:
            match command.WhichOneof("command"):
                case "create":
                    described = self._described(command.create.sku, command.create.description)
                    if known is None:
                        created = True
                        document = {
                            "product_id": item.product_id,
                            "sku": command.create.sku,
                            **described,
                            "status": "draft",
                            "price": None,
                            "created_at": "2026-11-22T16:30:00Z",
                            "updated_at": "2026-11-22T16:30:00Z",
                        }
                    elif any(document[key] != value for key, value in described.items()):
                        raise problem(grpc.StatusCode.ALREADY_EXISTS, "PRODUCT_ALREADY_EXISTS")
                case "set_price" if document:
                    if command.set_price.price.currency == "EUR" and "." not in command.set_price.price.amount:
                        raise violation(
                            grpc.StatusCode.INVALID_ARGUMENT,
                            "INVALID_COMMAND",
                            f"commands[{len(item.commands) - 1}].set_price.price.amount",
                            "must have 2 decimals",
                        )
                    document["price"] = MessageToDict(command.set_price.price)
                case "publish" if document:
                    document["status"] = "published"
                case "unpublish" if document:
                    document["status"] = "draft"
                case "discontinue" if document:
                    document["status"] = "discontinued"
                case "schedule_price" | "schedule_publication" as kind if document:
                    self._schedule(item, getattr(command, kind))
                    document["planned"] = item.command_id
                case "cancel_schedule" if document:
                    plan = self.plans.get(command.cancel_schedule.schedule_id)
                    if plan is None:
                        raise problem(grpc.StatusCode.NOT_FOUND, "SCHEDULE_NOT_FOUND")
                    plan.state = schedules_pb2.SCHEDULE_STATE_CANCELLED
                    document["planned"] = ""
                case "correct_price" if document:
                    document["price"] = MessageToDict(command.correct_price.price)
                case "restore" if document:
                    document["status"] = "draft"
                case "describe" if document:
                    document |= self._described(str(document["sku"]), command.describe.description)
                case _:
                    raise problem(grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND")
        changed = document != known
        if changed:
            self.position += 1
            revision += 1
            document["revision"] = revision
            self.documents[item.product_id] = document
            change = query_pb2.ProductChange(
                revision=revision, type="PriceSet", actor=str(uuid.uuid4()), reason=item.reason, trace_id="0" * 31 + "1"
            )
            change.recorded_at.FromJsonString("2026-11-22T16:30:00Z")
            change.fields.add(field="price.amount", before="null", after='"12.00"')
            self.log.setdefault(item.product_id, []).insert(0, change)
        return command_pb2.Executed(
            product_id=item.product_id,
            revision=revision,
            consistency_token=position_token(self.position),
            changed=changed,
            created=created,
        )

    def _schedule(
        self, item: command_pb2.CommandItem, asked: command_pb2.SchedulePrice | command_pb2.SchedulePublication
    ) -> None:
        if asked.effective_at.seconds < 1_790_000_000:
            raise violation(
                grpc.StatusCode.INVALID_ARGUMENT,
                "TIME_OUT_OF_RANGE",
                "commands[0].schedule_price.effective_at",
                "must be in the future",
            )
        plan = schedules_pb2.Schedule(
            schedule_id=asked.schedule_id,
            product_id=item.product_id,
            effective_at=asked.effective_at,
            state=schedules_pb2.SCHEDULE_STATE_OPEN,
            scheduled_by=str(uuid.uuid4()),
            scheduled_at=asked.effective_at,
            reason=item.reason,
        )
        if isinstance(asked, command_pb2.SchedulePrice):
            plan.price.CopyFrom(asked.price)
        else:
            plan.published = asked.published
            plan.refusal.problem.reason = "USER_NOT_FOUND"
            plan.refusal.refused_at.CopyFrom(asked.effective_at)
            plan.refusal.next_attempt_at.CopyFrom(asked.effective_at)
        self.plans[asked.schedule_id] = plan

    async def schedules(
        self, request: schedules_pb2.ListSchedulesRequest, person: Person
    ) -> schedules_pb2.ListSchedulesResponse:
        del person
        self.schedule_requests.append(request)
        states = request.states or [schedules_pb2.SCHEDULE_STATE_OPEN]
        found = [
            plan for plan in self.plans.values() if plan.state in states and request.product_id in ("", plan.product_id)
        ]
        more = "more" if len(found) > request.page_size else ""
        return schedules_pb2.ListSchedulesResponse(schedules=found[: request.page_size], next_page_token=more)

    @staticmethod
    def _described(sku: str, description: object) -> dict[str, object]:
        del sku
        message = MessageToDict(description, preserving_proto_field_name=True)  # type: ignore[arg-type]
        kind = description.WhichOneof("attributes")  # type: ignore[attr-defined]
        return {
            "kind": kind,
            "name": message.get("name", ""),
            "text": message.get("text"),
            "category": message.get("category"),
            "attributes": message.get(kind, {}),
        }

    async def product(self, item: query_pb2.GetProductItem) -> query_pb2.ProductDocument:
        await self._pass()
        document = self.documents.get(item.product_id)
        if item.consistency_token == position_token(999):
            raise problem(grpc.StatusCode.UNAVAILABLE, "NOT_YET_VISIBLE", position=str(self.position))
        if document is None:
            raise problem(grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND")
        return query_pb2.ProductDocument(
            document=orjson.dumps(document),
            revision=int(str(document["revision"])),
            consistency_token=position_token(self.position),
            held_revision=self.held,
        )

    async def products(self, items: Sequence[query_pb2.GetProductItem]) -> Sequence[query_pb2.GetProductResult]:
        results: list[query_pb2.GetProductResult] = []
        for item in items:
            try:
                results.append(query_pb2.GetProductResult(product=await self.product(item)))
            except RemoteProblem as error:
                results.append(query_pb2.GetProductResult(problem=error.problem))
        return results

    def _page(
        self, request: query_pb2.ListProductsRequest | query_pb2.SearchProductsRequest
    ) -> tuple[list[bytes], str]:
        if request.page_token and not request.page_token.isdigit():
            raise violation(grpc.StatusCode.INVALID_ARGUMENT, "BAD_PAGE_TOKEN", "page_token", "is for another question")
        if request.filter.price_from and not request.filter.currency:
            raise violation(
                grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "filter.currency", "must be set with price_from"
            )
        begin = int(request.page_token or 0)
        documents = sorted(self.documents.values(), key=lambda document: str(document["name"]))
        page = documents[begin : begin + request.page_size]
        following = str(begin + request.page_size) if begin + request.page_size < len(documents) else ""
        return [orjson.dumps(document) for document in page], following

    async def list_products(
        self, request: query_pb2.ListProductsRequest, person: Person
    ) -> query_pb2.ListProductsResponse:
        del person
        await self._pass()
        self.list_requests.append(request)
        documents, following = self._page(request)
        return query_pb2.ListProductsResponse(
            documents=documents,
            next_page_token=following,
            positions=[event_pb2.ShardPosition(shard=shard, position=self.position) for shard in range(2)],
        )

    async def search_products(
        self, request: query_pb2.SearchProductsRequest, person: Person
    ) -> query_pb2.SearchProductsResponse:
        del person
        documents, following = self._page(request)
        return query_pb2.SearchProductsResponse(documents=documents, next_page_token=following)

    async def history(
        self, request: query_pb2.GetProductHistoryRequest, person: Person
    ) -> query_pb2.GetProductHistoryResponse:
        del person
        self.history_requests.append(request)
        if request.product_id not in self.log:
            raise problem(grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND")
        return query_pb2.GetProductHistoryResponse(changes=self.log[request.product_id])

    def _at(self, moment: past_pb2.Moment) -> past_pb2.Resolved:
        """What is asked for by a time is known now, and may still change; a position never does."""
        self.moments.append(moment)
        told = past_pb2.Resolved(settled=moment.HasField("known_at") or moment.HasField("position"))
        told.as_of.CopyFrom(moment.time)
        told.known_at.FromJsonString("2026-11-22T16:30:00Z")
        return told

    async def product_as_of(
        self, request: past_pb2.GetProductAsOfRequest, person: Person
    ) -> past_pb2.GetProductAsOfResponse:
        del person
        found = await self.product(query_pb2.GetProductItem(product_id=request.product_id))
        return past_pb2.GetProductAsOfResponse(product=found, moment=self._at(request.moment))

    async def list_as_of(
        self, request: past_pb2.ListProductsAsOfRequest, person: Person
    ) -> past_pb2.ListProductsAsOfResponse:
        page = await self.list_products(request.page, person)
        return past_pb2.ListProductsAsOfResponse(page=page, moment=self._at(request.moment))

    async def search_as_of(
        self, request: past_pb2.SearchProductsAsOfRequest, person: Person
    ) -> past_pb2.SearchProductsAsOfResponse:
        page = await self.search_products(request.page, person)
        return past_pb2.SearchProductsAsOfResponse(page=page, moment=self._at(request.moment))

    async def diff(self, request: past_pb2.DiffProductRequest, person: Person) -> past_pb2.DiffProductResponse:
        del person
        self.diffs.append(request)
        field = query_pb2.FieldChange(field="price.amount", before='"1.00"', after="null")
        return past_pb2.DiffProductResponse(from_revision=1, to_revision=3, fields=[field])

    async def explain(self, request: past_pb2.ExplainFieldRequest, person: Person) -> past_pb2.ExplainFieldResponse:
        del person
        if request.field != "price.amount":
            raise violation(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_NOT_FOUND", "field", "must be price.amount")
        [*_, first] = self.log[request.product_id]
        first.job_id, first.import_line = "0193a1c2-7f4e-7c3a-9d52-3f1b6f1f0c11", 7
        moment = self._at(request.moment)
        return past_pb2.ExplainFieldResponse(value='"12.00"', before="null", set_by=first, moment=moment, revision=1)

    async def projections(self, person: Person) -> query_pb2.GetProjectionStatusResponse:
        del person
        return query_pb2.GetProjectionStatusResponse(
            projectors=[query_pb2.ProjectorStatus(checkpoint=3, head=5, lag_events=2, lag_seconds=0.5, running=True)]
        )


class FakeWorker(Worker):
    """Jobs that are done when somebody has watched them for three changes."""

    def __init__(self) -> None:
        self.jobs: dict[str, jobs_pb2.Job] = {}
        self.files: dict[str, list[bytes]] = {}
        self.headers: list[jobs_pb2.ImportHeader] = []
        self.by_command: dict[str, str] = {}
        self.aborted = 0
        self.began = asyncio.Event()
        self.gave_up = asyncio.Event()
        self.limit = 50_000_000
        self.watch_gate: asyncio.Event | None = None
        self.unwatched = 0

    async def submit_import(
        self, header: jobs_pb2.ImportHeader, chunks: AsyncIterator[bytes], person: Person
    ) -> jobs_pb2.Job:
        self.headers.append(header)
        self.began.set()
        if header.command_id in self.by_command:
            return self.jobs[self.by_command[header.command_id]]
        parts: list[bytes] = []
        try:
            async for chunk in chunks:
                parts.append(chunk)
                if sum(map(len, parts)) > self.limit:
                    raise problem(grpc.StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE")  # noqa: TRY301 - counted below
        except BaseException:
            self.aborted += 1
            self.gave_up.set()
            raise
        if not parts:
            raise problem(grpc.StatusCode.INVALID_ARGUMENT, "FILE_EMPTY")
        job = jobs_pb2.Job(
            job_id=str(uuid.uuid4()),
            type="import",
            name=header.name,
            state=jobs_pb2.JOB_STATE_QUEUED,
            options=header.options,
            submitted_by=person.subject,
            progress=jobs_pb2.ImportProgress(bytes_total=sum(map(len, parts))),
        )
        job.created_at.FromJsonString("2026-11-22T16:30:00Z")
        self.jobs[job.job_id] = job
        self.files[job.job_id] = parts
        self.by_command[header.command_id] = job.job_id
        return job

    async def get_job(self, job_id: str, person: Person) -> jobs_pb2.Job:
        del person
        if job_id not in self.jobs:
            raise problem(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        return self.jobs[job_id]

    async def list_jobs(self, request: jobs_pb2.ListJobsRequest, person: Person) -> jobs_pb2.ListJobsResponse:
        del person
        kept = [job for job in self.jobs.values() if not request.states or job.state in request.states]
        return jobs_pb2.ListJobsResponse(jobs=kept[: request.page_size])

    async def watch_job(self, job_id: str, person: Person) -> AsyncIterator[jobs_pb2.Job]:
        job = await self.get_job(job_id, person)
        try:
            for state in (jobs_pb2.JOB_STATE_QUEUED, jobs_pb2.JOB_STATE_RUNNING, jobs_pb2.JOB_STATE_SUCCEEDED):
                job.state = state
                job.revision += 1
                yield job
                if self.watch_gate is not None:
                    await self.watch_gate.wait()
        finally:
            self.unwatched += 1

    async def cancel_job(self, job_id: str, person: Person) -> jobs_pb2.Job:
        job = await self.get_job(job_id, person)
        job.cancel_requested = True
        return job

    async def refused_rows(
        self, request: jobs_pb2.ListRefusedRowsRequest, person: Person
    ) -> jobs_pb2.ListRefusedRowsResponse:
        await self.get_job(request.job_id, person)
        row = jobs_pb2.RefusedRow(line=2, problem=problem_pb2.Problem(code=3, reason="INVALID_ROW", message="no JSON"))
        return jobs_pb2.ListRefusedRowsResponse(rows=[row])


class FakeChanges(Changes):
    """A feed over a list, whose cursors are numbers. Each subscription takes one fault, and breaks after so many
    changes.
    """

    def __init__(self) -> None:
        self.log: list[changes_pb2.CatalogChange] = []
        self.faults: list[tuple[int, Exception]] = []
        self.requests: list[changes_pb2.SubscribeChangesRequest] = []
        self.people: list[Person] = []
        self.running = 0
        self.told = 0
        self._more = asyncio.Event()

    def add(self, count: int = 1, **fields: object) -> None:
        for _ in range(count):
            number = len(self.log) + 1
            change = changes_pb2.CatalogChange(
                cursor=str(number), sku=f"sku-{number}", type="PriceSet", kind="car", **fields
            )
            change.recorded_at.FromJsonString("2026-11-22T16:30:00.123456Z")
            change.fields.add(field="price.amount", before="null", after='"12.00"')
            self.log.append(change)
        more, self._more = self._more, asyncio.Event()
        more.set()

    async def subscribe(
        self, request: changes_pb2.SubscribeChangesRequest, person: Person
    ) -> AsyncGenerator[changes_pb2.SubscribeChangesResponse, None]:
        asked = changes_pb2.SubscribeChangesRequest()
        asked.CopyFrom(request)
        self.requests.append(asked)
        self.people.append(person)
        left, fault = self.faults.pop(0) if self.faults else (-1, None)
        self.running += 1
        try:
            at = {"start": 0, "cursor": int(asked.cursor or 0)}.get(asked.WhichOneof("from") or "", len(self.log))
            if left:
                yield changes_pb2.SubscribeChangesResponse(cursor=str(at))
            while True:
                more = self._more
                for change in self.log[at:]:
                    if left == 0:
                        break
                    at, left = at + 1, left - 1
                    self.told += 1
                    yield changes_pb2.SubscribeChangesResponse(changes=[change], cursor=change.cursor)
                if fault is not None and left == 0:
                    raise fault
                if asked.only_recorded:
                    return
                await more.wait()
        finally:
            self.running -= 1


class MemoryKeys(KeyMemory):
    """Remembers in a dictionary, and can be away."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Claim, bytes, bytes]] = {}
        self.away = False

    async def claim(self, key: str, fingerprint: bytes, *, seconds: float) -> Remembered:
        assert seconds > 0
        if self.away or key not in self.known:
            self.known[key] = (Claim.RUNNING, fingerprint, b"")
            return Remembered(Claim.NEW)
        state, known, answer = self.known[key]
        return Remembered(state, answer) if known == fingerprint else Remembered(Claim.OTHER)

    async def done(self, key: str, fingerprint: bytes, answer: bytes = b"") -> None:
        self.known[key] = (Claim.DONE, fingerprint, answer)

    async def forget(self, key: str) -> None:
        self.known.pop(key, None)


class FakeOperators(Operators):
    """One projection with an event that is parked, and two generations."""

    def __init__(self) -> None:
        self.asked: list[tuple[Message, str]] = []
        self.parked = projections_pb2.ParkedEvent(
            parked_id="0199f5a0-7c1e-7d31-9a5b-0d2c3e4f5a6b", projection="products", revision=2, type="PriceBurnt"
        )
        self.comparison = projections_pb2.Comparison(against=1, compared=7, different=2, fields={"document.name": 2})

    async def list_projections(
        self, request: projections_pb2.ListProjectionsRequest, person: Person
    ) -> projections_pb2.ListProjectionsResponse:
        del person
        if request.projection != "products":
            raise problem(grpc.StatusCode.NOT_FOUND, "PROJECTION_NOT_FOUND")
        progress = [projections_pb2.GenerationProgress(checkpoint=3, head=5, lag_seconds=0.5, running=True)]
        generations = [
            projections_pb2.ProjectionGeneration(generation=1, state="serving", progress=progress, held_streams=1),
            projections_pb2.ProjectionGeneration(generation=2, state="ready", comparison=self.comparison),
        ]
        return projections_pb2.ListProjectionsResponse(
            projections=[projections_pb2.Projection(name="products", generations=generations)]
        )

    async def list_parked(
        self, request: projections_pb2.ListParkedEventsRequest, person: Person
    ) -> projections_pb2.ListParkedEventsResponse:
        del person
        following = "" if request.page_token else "more"
        return projections_pb2.ListParkedEventsResponse(parked=[self.parked], next_page_token=following)

    async def retry_parked(
        self, request: projections_pb2.RetryParkedEventsRequest, person: Person
    ) -> projections_pb2.RetryParkedEventsResponse:
        self.asked.append((request, person.subject))
        return projections_pb2.RetryParkedEventsResponse(still_parked=1, parked=[self.parked])

    async def skip_parked(
        self, request: projections_pb2.SkipParkedEventRequest, person: Person
    ) -> projections_pb2.SkipParkedEventResponse:
        self.asked.append((request, person.subject))
        return projections_pb2.SkipParkedEventResponse()

    async def rebuild(self, request: projections_pb2.RebuildRequest, person: Person) -> projections_pb2.RebuildResponse:
        self.asked.append((request, person.subject))
        return projections_pb2.RebuildResponse(generation=2, created=True)

    async def compare(self, request: projections_pb2.CompareRequest, person: Person) -> None:
        self.asked.append((request, person.subject))

    async def list_differences(
        self, request: projections_pb2.ListDifferencesRequest, person: Person
    ) -> projections_pb2.ListDifferencesResponse:
        del request, person
        found = projections_pb2.Difference(key="a", revision=3, kind="field", field="document.name", after='"B"')
        return projections_pb2.ListDifferencesResponse(differences=[found], comparison=self.comparison)

    async def switch(
        self, request: projections_pb2.SwitchGenerationRequest, person: Person
    ) -> projections_pb2.SwitchGenerationResponse:
        self.asked.append((request, person.subject))
        if not request.force and "document.name" not in request.accepted_fields:
            raise problem(grpc.StatusCode.FAILED_PRECONDITION, "GENERATIONS_DIFFER")
        return projections_pb2.SwitchGenerationResponse(previous=1)

    async def drop(self, request: projections_pb2.DropGenerationRequest, person: Person) -> None:
        self.asked.append((request, person.subject))

    async def list_drift(
        self, request: projections_pb2.ListDriftRequest, person: Person
    ) -> projections_pb2.ListDriftResponse:
        del request, person
        return projections_pb2.ListDriftResponse(
            drift=[projections_pb2.Drift(product_id="a", generation=1, kind="different", fields=["document"])]
        )

    async def repair(
        self, request: projections_pb2.RepairProductRequest, person: Person
    ) -> projections_pb2.RepairProductResponse:
        self.asked.append((request, person.subject))
        return projections_pb2.RepairProductResponse(revision=4, changed=1)


class Fakes:
    """All ports, and an application over them."""

    def __init__(self, settings: Settings) -> None:
        self.auth = FakeAuth()
        self.catalog = Catalog()
        self.worker = FakeWorker()
        self.keys = MemoryKeys()
        self.readiness = Readiness()
        self.readiness.serving = True
        self.changes = FakeChanges()
        self.operators = FakeOperators()
        self.feeds = Feeds(per_person=settings.changes_feeds_per_person)
        self.ports = Ports(self.auth, self.catalog, self.catalog, self.worker, self.keys, self.changes, self.operators)
        self.quotas = Quotas()
        self.app = create_app(settings, self.ports, self.readiness, self.quotas, self.feeds)

    def access_token(self) -> str:
        user = next(iter(self.auth.users.values()))
        return self.auth._tokens(user.user_id).access_token


@pytest.fixture(scope="session")
def settings(authority, identity) -> Settings:
    web: Path = authority.issue_web(["localhost", "127.0.0.1"])
    return Settings(
        identity_directory=identity("gateway"),
        tls_certificate=web / "tls.crt",
        tls_key=web / "tls.key",
        request_seconds=5.0,
        drain_seconds=2.0,
        upload_idle_seconds=1.0,
    )


@pytest.fixture(scope="session", autouse=True)
def telemetry(settings: Settings) -> Iterator[None]:
    configure_logging("gateway", "CRITICAL")
    configure_tracing(settings, "gateway")
    yield
    shutdown_tracing()


@pytest.fixture
def fakes(settings: Settings) -> Fakes:
    return Fakes(settings)


@pytest.fixture
async def client(fakes: Fakes) -> AsyncIterator[httpx.AsyncClient]:
    """A client that has logged in, without sockets in between."""
    transport = httpx.ASGITransport(fakes.app)
    headers = {"Authorization": f"Bearer {fakes.access_token()}"}
    async with httpx.AsyncClient(transport=transport, base_url="https://gateway", headers=headers) as client:
        yield client


CAR = {
    "sku": "volvo-v60",
    "kind": "car",
    "name": "Volvo V60",
    "category": "vehicles/estate",
    "attributes": {"make": "Volvo", "model": "V60", "model_year": 2026, "doors": 5},
    "price": {"amount": "52900.00", "currency": "EUR"},
    "publish": True,
}


@pytest.fixture
def car() -> dict[str, object]:
    return orjson.loads(orjson.dumps(CAR))


@pytest.fixture(name="jwt")
def jwt_fixture() -> Callable[..., str]:
    return jwt
