"""Both sides of the catalog in memory."""

import asyncio
import uuid
from collections.abc import Sequence

import grpc
import orjson
from almagest.catalog.v1 import command_pb2, past_pb2, query_pb2, schedules_pb2
from almagest.eventstore.v1 import event_pb2
from chassis.errors import RemoteProblem
from gateway.application.ports import CatalogCommand, CatalogQuery, Person
from google.protobuf.json_format import MessageToDict

from .fake_answers import position_token, problem, violation


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

    def _held(self, documents: Sequence[bytes]) -> list[query_pb2.HeldProduct]:
        """All products of a page, if anything is held."""
        return [
            query_pb2.HeldProduct(product_id=orjson.loads(document)["product_id"], held_revision=self.held)
            for document in documents
            if self.held is not None
        ]

    def _page(
        self, request: query_pb2.ListProductsRequest | query_pb2.SearchProductsRequest
    ) -> tuple[list[bytes], str]:
        if request.page_token and not request.page_token.isdecimal():
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
            held=self._held(documents),
            positions=[event_pb2.ShardPosition(shard=shard, position=self.position) for shard in range(2)],
        )

    async def search_products(
        self, request: query_pb2.SearchProductsRequest, person: Person
    ) -> query_pb2.SearchProductsResponse:
        del person
        documents, following = self._page(request)
        return query_pb2.SearchProductsResponse(
            documents=documents, next_page_token=following, held=self._held(documents)
        )

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
