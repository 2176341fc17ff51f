"""CatalogCommandService on the wire: each item is translated, executed beside the others, and answered in its place."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import grpc
from almagest.catalog.v1 import command_pb2, command_pb2_grpc
from chassis.deadlines import remaining
from chassis.errors import ErrorTable, InvalidRequest
from chassis.telemetry.tracing import context_from, inject, span_context_from, traceparent_of, tracer
from chassis.tokens import TokenVerifier
from opentelemetry.trace import Span, Status, StatusCode

from catalog_command.application.execute_commands import ExecuteCommands
from catalog_command.entrypoints.translation import execute_of, names_of

SCOPE = "catalog:write"
LONGEST_EXECUTION = 30.0
"""Seconds that an item may take when its caller set no earlier end."""


class CatalogCommandServicer(command_pb2_grpc.CatalogCommandServiceServicer):
    """Decides about changes of the catalog."""

    def __init__(
        self, *, execute: ExecuteCommands, verifier: TokenVerifier, errors: ErrorTable, maximum_items: int
    ) -> None:
        self._execute = execute
        self._verifier = verifier
        self._errors = errors
        self._maximum_items = maximum_items

    async def ExecuteCommands(  # noqa: N802 - the name on the wire
        self,
        request: command_pb2.ExecuteCommandsRequest,
        context: grpc.aio.ServicerContext[command_pb2.ExecuteCommandsRequest, command_pb2.ExecuteCommandsResponse],
    ) -> command_pb2.ExecuteCommandsResponse:
        """Execute the items, each on its own product; items on the same product in their order."""
        del context
        if not request.items:
            raise InvalidRequest([("items", "must be at least one")])
        if len(request.items) > self._maximum_items:
            raise InvalidRequest([("items", f"must be at most {self._maximum_items}")], reason="TOO_MANY_ITEMS")
        refused = await self._refused_tokens(request.items)
        left = remaining()
        deadline = time.monotonic() + (LONGEST_EXECUTION if left is None else min(left, LONGEST_EXECUTION))
        now = datetime.now(UTC)
        around = inject()
        results = await asyncio.gather(
            *(
                self._item(item, refused.get(item.transaction_token), now=now, deadline=deadline, around=around)
                for item in request.items
            )
        )
        return command_pb2.ExecuteCommandsResponse(results=results)

    async def _refused_tokens(self, items: Sequence[command_pb2.CommandItem]) -> dict[str, Exception]:
        """The tokens of the request that do not let their bearer write, each with why."""
        refused: dict[str, Exception] = {}
        for token in {item.transaction_token for item in items}:
            try:
                (await self._verifier.verify(token)).require(SCOPE)
            except Exception as error:  # noqa: BLE001 - it is answered to each of the items that carry the token
                refused[token] = error
        return refused

    async def _item(
        self, item: command_pb2.CommandItem, refused: Exception | None, *, now: datetime, deadline: float, around: str
    ) -> command_pb2.CommandResult:
        traceparent = item.traceparent or around
        parent = span_context_from(traceparent)
        span: Span | None = None
        if parent is None:
            traceparent = around
        elif parent.trace_flags.sampled:
            span = tracer().start_span(
                f"execute {names_of(item)}",
                context=context_from(traceparent),
                attributes={"almagest.product_id": item.product_id, "almagest.command_id": item.command_id},
            )
            traceparent = traceparent_of(span.get_span_context())
        try:
            if refused is not None:
                result = self._problem(refused)
            else:
                result = await self._executed(item, now=now, deadline=deadline, traceparent=traceparent)
            if span is not None:
                _tell(span, result)
            return result
        finally:
            if span is not None:
                span.end()

    async def _executed(
        self, item: command_pb2.CommandItem, *, now: datetime, deadline: float, traceparent: str
    ) -> command_pb2.CommandResult:
        try:
            request = execute_of(item, now=now, deadline=deadline, traceparent=traceparent)
            executed = await self._execute(request)
        except Exception as error:  # noqa: BLE001 - the error table tells the caller, and the log what nobody expects
            return self._problem(error)
        return command_pb2.CommandResult(
            executed=command_pb2.Executed(
                product_id=request.product_id,
                revision=executed.revision,
                consistency_token=executed.consistency_token,
                changed=executed.changed,
                created=executed.created,
                replayed=executed.replayed,
            )
        )

    def _problem(self, error: Exception) -> command_pb2.CommandResult:
        return command_pb2.CommandResult(problem=self._errors.problem(error))


def _tell(span: Span, result: command_pb2.CommandResult) -> None:
    """Tell those who look at the trace what came of it."""
    if result.WhichOneof("outcome") == "problem":
        span.set_status(Status(StatusCode.ERROR, result.problem.reason))
    else:
        executed = result.executed
        span.set_attributes({"almagest.revision": executed.revision, "almagest.changed": executed.changed})
