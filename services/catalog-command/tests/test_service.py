# Fixtures are asked for by name; how many a test needs says nothing about it.
"""The service as others see it: over real mTLS, in front of the real event store."""

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from almagest.catalog.events.v1.product_events_pb2 import PriceSet, ProductCreated
from almagest.catalog.v1 import command_pb2, command_pb2_grpc
from almagest.eventstore.v1 import event_pb2
from catalog_command.bootstrap import POLICY, SERVICE, bootstrap
from catalog_command.settings import Settings
from chassis.errors import RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.process import Assembly, running
from chassis.rpc.channel import Channel
from chassis.telemetry.tracing import flush_tracing
from google.protobuf.duration_pb2 import Duration

METHOD = f"/{SERVICE.full_name}/ExecuteCommands"
TRUST_DOMAIN = "almagest.internal"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@dataclass
class Client:
    """A workload that calls the service, on behalf of one person."""

    stub: Any
    token: str

    async def __call__(self, *items: command_pb2.CommandItem, timeout: float = 10) -> list[command_pb2.CommandResult]:
        for item in items:
            item.transaction_token = item.transaction_token or self.token
        answer = await self.stub.ExecuteCommands(command_pb2.ExecuteCommandsRequest(items=items), timeout=timeout)
        assert len(answer.results) == len(items)
        return list(answer.results)

    async def executed(self, *items: command_pb2.CommandItem) -> list[command_pb2.Executed]:
        results = await self(*items)
        for result in results:
            assert result.WhichOneof("outcome") == "executed", result.problem
        return [result.executed for result in results]

    async def problem(self, item: command_pb2.CommandItem) -> Any:
        result = (await self(item))[0]
        assert result.WhichOneof("outcome") == "problem", result
        return result.problem


@dataclass
class Service:
    """A running catalog-command."""

    target: str
    traces: Path
    connect: Callable[..., Any]


@pytest.fixture
def start(identity, transaction_tokens, tmp_path):
    """Runs the service over an event store for the length of a block."""

    @asynccontextmanager
    async def started(event_store: str, **settings: Any) -> AsyncIterator[Service]:
        async def jwks() -> bytes:
            return transaction_tokens.jwks

        @asynccontextmanager
        async def assembled(chosen: Settings, chassis: Any) -> AsyncIterator[Assembly]:
            chassis.verify_with(jwks)
            async with bootstrap(chosen, chassis) as assembly:
                yield assembly

        chosen = Settings(
            identity_directory=identity("catalog-command"),
            event_store_target=event_store,
            trace_directory=tmp_path,
            drain_seconds=0.2,
            **settings,
        )

        @asynccontextmanager
        async def connect(workload: str = "gateway", *, token: str | None = None) -> AsyncIterator[Client]:
            source = FileIdentitySource(identity(workload), TRUST_DOMAIN, service=workload)
            async with Channel(target, service="catalog-command", identity=source) as channel:
                stub = command_pb2_grpc.CatalogCommandServiceStub(channel)
                yield Client(stub, transaction_tokens(workload=workload) if token is None else token)

        async with running("catalog-command", chosen, assembled) as bound:
            target = f"127.0.0.1:{bound.grpc_port}"
            yield Service(target, tmp_path, connect)

    return started


@pytest.fixture
async def service(start, store) -> AsyncIterator[Service]:
    async with start(store.target) as running_service:
        yield running_service


@pytest.fixture
async def gateway(service) -> AsyncIterator[Client]:
    async with service.connect() as client:
        yield client


@pytest.fixture
def sku(example) -> str:
    return example.sku()


@pytest.fixture
def product(example, sku) -> str:
    return example.id_of(sku)


class TestExecution:
    async def test_a_product_lives_its_life(self, gateway, example, sku, product):
        """Created, priced, published, described, hidden, discontinued: each change has its revision and its place in the log."""
        created, *rest = [
            (await gateway.executed(example.item(product, command)))[0]
            for command in (
                example.create(sku, example.car()),
                example.price("12999"),
                example.publish(),
                example.describe(example.car(doors=3)),
                example.unpublish(),
                example.discontinue(),
            )
        ]
        assert (created.product_id, created.revision, created.changed, created.created) == (product, 0, True, True)
        assert [(done.revision, done.changed, done.created) for done in rest] == [(n, True, False) for n in range(1, 6)]
        places = [place_of(done.consistency_token) for done in (created, *rest)]
        assert sorted(places, key=lambda place: place.position) == places
        assert len({(place.shard, place.bucket, place.epoch) for place in places}) == 1

    async def test_what_is_written_is_what_was_asked_normalised(
        self, gateway, store, example, sku, product, transaction_tokens
    ):
        """The log holds canonical values, and who, why and within what."""
        job = str(uuid.uuid4())
        item = example.item(
            product, example.put(sku, example.car(name=" Citroe\u0308n ")), example.price("5"), reason="Spring",
            job_id=job, import_line=3, traceparent=TRACEPARENT, transaction_token=transaction_tokens(subject="someone"),
        )  # fmt: skip
        await gateway.executed(item)
        described, priced = await store.recorded(product)
        event = ProductCreated.FromString(described.payload)
        assert (event.product_id, event.sku, event.description.name) == (product, sku, "Citroën")
        assert PriceSet.FromString(priced.payload).price.amount == "5.00"
        for metadata in (described.metadata, priced.metadata):
            assert (metadata.reason, metadata.job_id, metadata.import_line) == ("Spring", job, 3)
            assert (metadata.actor, metadata.command_id) == ("someone", item.command_id)
            assert metadata.workload == "spiffe://almagest.internal/catalog-command"
            assert metadata.traceparent.startswith(f"00-{TRACE}-")

    async def test_a_batch_is_answered_item_by_item(self, gateway, example):
        """One refused item among many changes nothing for the others; answers come in the order of the items."""
        skus = [example.sku() for _ in range(256)]
        items = [
            example.item(example.id_of(sku), example.put(sku, example.general()), example.price("1")) for sku in skus
        ]
        items[7].commands[0].put.description.name = ""
        results = await gateway(*items)
        assert [result.WhichOneof("outcome") for result in results] == [
            "problem" if index == 7 else "executed" for index in range(256)
        ]
        assert [result.executed.product_id for result in results[:7]] == [item.product_id for item in items[:7]]
        again = await gateway.executed(*(example.item(item.product_id, *item.commands) for item in items[8:]))
        assert not any(done.changed for done in again)

    async def test_items_on_one_product_are_decided_in_their_order(self, gateway, example, sku, product):
        """The second sees what the first did."""
        done = await gateway.executed(
            example.item(product, example.create(sku, example.car())),
            *(example.item(product, example.price(str(amount))) for amount in range(1, 20)),
            example.item(product, example.publish()),
        )
        assert [one.revision for one in done] == list(range(21))

    async def test_sixty_four_calls_with_one_command_id_are_one_append(self, gateway, store, example, sku, product):
        """All get the same answer."""
        item = example.item(product, example.create(sku, example.car()))
        answers = [
            done for answer in await asyncio.gather(*(gateway.executed(item) for _ in range(64))) for done in answer
        ]
        assert {(done.revision, done.consistency_token, done.created) for done in answers} == {
            (0, answers[0].consistency_token, True)
        }
        assert sum(not done.replayed for done in answers) == 1
        async with store.log() as log:
            assert len((await log.read(product, after=-1, deadline=time.monotonic() + 5)).events) == 1

    async def test_a_command_id_is_remembered_by_the_log_and_not_by_the_process(
        self, start, store, example, sku, product
    ):
        """After a restart the same command gets its original answer, and another one under its id is refused."""
        item = example.item(product, example.create(sku, example.car()))
        async with start(store.target) as service, service.connect() as gateway:
            first = (await gateway.executed(item))[0]
            await gateway.executed(example.item(product, example.describe(example.car(doors=3))))
        async with start(store.target) as service, service.connect() as gateway:
            again = (await gateway.executed(item))[0]
            assert again.replayed
            assert (again.revision, again.consistency_token, again.created) == (0, first.consistency_token, True)
            other = example.item(product, example.price("1"), command_id=item.command_id)
            problem = await gateway.problem(other)
            assert (problem.code, problem.reason) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "COMMAND_ID_REUSED")


class TestRefusals:
    async def test_a_stale_revision_is_refused_with_the_actual_one(self, gateway, example, sku, product):
        """Nothing is changed by it."""
        await gateway.executed(example.item(product, example.create(sku, example.car())))
        await gateway.executed(example.item(product, example.price("1")))
        problem = await gateway.problem(example.item(product, example.price("2"), expected_revision=0))
        assert (problem.code, problem.reason) == (grpc.StatusCode.ABORTED.value[0], "REVISION_CONFLICT")
        assert dict(problem.metadata) == {"expected_revision": "0", "actual_revision": "1"}
        assert not (await gateway.executed(example.item(product, example.price("1"))))[0].changed

    async def test_refusals_of_the_domain_have_names_and_places(self, gateway, example, sku, product):
        """A program can tell them apart, and a person reads which command it was."""
        missing = await gateway.problem(example.item(product, example.publish()))
        assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND.value[0], "PRODUCT_NOT_FOUND")
        priceless = await gateway.problem(example.item(product, example.create(sku, example.car()), example.publish()))
        assert (priceless.reason, priceless.violations[0].field) == ("PRICE_MISSING", "commands[1]")
        await gateway.executed(example.item(product, example.create(sku, example.car())))
        taken = await gateway.problem(example.item(product, example.create(sku, example.car(doors=3))))
        assert (taken.code, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS.value[0], "PRODUCT_ALREADY_EXISTS")
        kind = await gateway.problem(example.item(product, example.describe(example.truck())))
        assert (kind.code, kind.reason) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "KIND_CHANGED")
        await gateway.executed(example.item(product, example.discontinue()))
        ended = await gateway.problem(example.item(product, example.price("1")))
        assert (ended.code, ended.reason) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "PRODUCT_DISCONTINUED")

    async def test_wrong_fields_are_named_by_their_paths(self, gateway, example, sku, product):
        """All of them, from the root of the item."""
        problem = await gateway.problem(
            example.item(
                product,
                example.create(sku, example.car(doors=8, make="", model_year=3000)),
                example.price("NaN"),
                example.price("1", "eur"),
                example.describe(example.truck(payload_kg=20_000)),
                example.discontinue(""),
                command_pb2.ProductCommand(),
            )
        )
        assert (problem.code, problem.reason) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "INVALID_COMMAND")
        assert [violation.field for violation in problem.violations] == [
            "commands[0].create.description.car.vehicle.model_year",
            "commands[0].create.description.car.vehicle.make",
            "commands[0].create.description.car.doors",
            "commands[1].set_price.price.amount",
            "commands[2].set_price.price.currency",
            "commands[3].describe.description.truck.payload_kg",
            "commands[4].discontinue.reason",
            "commands[5]",
        ]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("command_id", ""), ("command_id", "1"), ("command_id", "{0198c5a2-7c1e-7000-8000-0123456789ab}"),
            ("product_id", "not-a-uuid"), ("job_id", "7"), ("fingerprint", b"x" * 65), ("reason", "x" * 501), ("reason", "a\0b"),
        ],
    )  # fmt: skip
    async def test_a_wrong_field_of_an_item_is_named(self, gateway, example, product, field, value):
        """Identifiers are UUIDs in their usual form; texts have limits."""
        item = example.item(product, example.publish())
        setattr(item, field, value)
        problem = await gateway.problem(item)
        assert problem.reason == "INVALID_COMMAND"
        assert field in [violation.field for violation in problem.violations]

    async def test_a_product_id_that_is_not_that_of_its_sku_is_refused(self, gateway, example):
        """Otherwise one SKU could be two products."""
        problem = await gateway.problem(example.item(str(uuid.uuid4()), example.create("A-1", example.car())))
        assert [violation.field for violation in problem.violations] == ["product_id"]
        assert example.id_of("A-1") in problem.violations[0].description

    async def test_sizes_and_numbers_are_limited_by_name(self, gateway, example, sku, product):
        """Too many items, none, too many commands, none, and an item that is too large."""
        with pytest.raises(RemoteProblem, match="TOO_MANY_ITEMS: items: must be at most 256"):
            await gateway(*(example.item(product, example.publish()) for _ in range(257)))
        with pytest.raises(RemoteProblem, match="INVALID_REQUEST: items: must be at least one"):
            await gateway()
        for commands in ([], [example.publish()] * 17):
            problem = await gateway.problem(example.item(product, *commands))
            assert [violation.field for violation in problem.violations] == ["commands"]
        large = example.item(product, example.put(sku, example.car(text="x" * 300_000)))
        problem = await gateway.problem(large)
        assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "ITEM_TOO_LARGE")

    async def test_a_field_from_the_future_is_refused_and_not_dropped(self, gateway, example, sku, product):
        """What it means is not known here; leaving it out would be another request. So is a command that is not known here."""
        item = example.item(product, example.put(sku, example.car()))
        item.commands[0].put.description.MergeFromString(b"\xfa\x3f\x03new")
        problem = await gateway.problem(item)
        assert (problem.code, problem.reason) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "INVALID_COMMAND")
        unknown = example.item(product, command_pb2.ProductCommand.FromString(b"\xfa\x3f\x03new"))
        assert (await gateway.problem(unknown)).reason == "INVALID_COMMAND"

    async def test_an_item_without_time_is_not_begun(self, gateway, example, sku, product):
        """Its own timeout counts, not only that of the call."""
        late = example.item(product, example.create(sku, example.car()), timeout=Duration())
        assert (await gateway.problem(late)).reason == "DEADLINE_EXCEEDED"
        assert (await gateway.executed(example.item(product, example.create(sku, example.car()))))[0].changed

    @pytest.mark.parametrize("body", [b"\xff\xff\xff\xff", b"\x0a\x04\x0a\x02\xff\xfe", b"\x0a\x7f", b"{}"])
    async def test_bytes_that_are_no_message_are_refused(self, service, identity, gateway, example, sku, product, body):
        """Truncated, of another format, or with text that is not UTF-8: refused without a word about our insides, and the service goes on."""
        source = FileIdentitySource(identity("gateway"), TRUST_DOMAIN, service="gateway")
        async with Channel(service.target, service="catalog-command", identity=source) as channel:
            raw = channel.unary_unary(METHOD)
            with pytest.raises(RemoteProblem) as refused:
                await raw(body, timeout=5)
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED")
        assert (await gateway.executed(example.item(product, example.create(sku, example.car()))))[0].created


class TestPolicy:
    def test_every_method_has_its_row(self):
        """Writing is for the gateway and the worker, on behalf of a person per item."""
        assert set(POLICY) == {METHOD}
        assert POLICY[METHOD].callers == {"gateway", "worker"}

    @pytest.mark.parametrize("workload", ["gateway", "worker"])
    async def test_who_may_call_may(self, service, example, sku, product, workload):
        """These two may."""
        async with service.connect(workload) as client:
            assert (await client.executed(example.item(product, example.create(sku, example.car()))))[0].created

    @pytest.mark.parametrize("workload", ["auth", "catalog-query", "event-store", "catalog-command", "operator"])
    async def test_who_may_not_call_is_refused(self, service, example, sku, product, workload):
        """Whatever person they bring along."""
        async with service.connect(workload) as client:
            with pytest.raises(RemoteProblem) as refused:
                await client(example.item(product, example.create(sku, example.car())))
        assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED

    async def test_each_item_needs_a_person_who_may_write(self, gateway, transaction_tokens, store, example):
        """No token, a viewer's, an expired, a forged one: that item is refused, the one beside it is not."""
        tokens = {
            "viewer": transaction_tokens(roles=["viewer"]),
            "expired": transaction_tokens(lifetime=-5),
            "forged": transaction_tokens(key=transaction_tokens.stranger()),
            "elsewhere": transaction_tokens(claims={"aud": "example.org"}),
            "garbage": "x.y.z",
        }
        skus = [example.sku() for _ in range(len(tokens) + 1)]
        items = [
            example.item(example.id_of(sku), example.create(sku, example.car()), transaction_token=token)
            for sku, token in zip(skus, [*tokens.values(), gateway.token], strict=True)
        ]
        results = await gateway(*items)
        codes = [result.problem.code for result in results[:-1]]
        assert codes[0] == grpc.StatusCode.PERMISSION_DENIED.value[0]
        assert set(codes[1:]) == {grpc.StatusCode.UNAUTHENTICATED.value[0]}
        assert results[-1].executed.created
        async with store.log() as log:
            for item in items[:-1]:
                assert not (await log.read(item.product_id, after=-1, deadline=time.monotonic() + 5)).events

    async def test_who_may_not_write_may_not_ask_what_writing_would_do(
        self, gateway, transaction_tokens, example, sku, product
    ):
        """A dry run, and a command that changes nothing, never get to the log; the token is looked at all the same."""
        await gateway.executed(example.item(product, example.create(sku, example.car())))
        viewer = transaction_tokens(roles=["viewer"])
        for fields in ({"dry_run": True}, {}):
            item = example.item(product, example.create(sku, example.car()), transaction_token=viewer, **fields)
            problem = await gateway.problem(item)
            assert (problem.code, problem.reason) == (grpc.StatusCode.PERMISSION_DENIED.value[0], "SCOPE_MISSING")

    async def test_a_token_that_another_workload_asked_for_is_refused(
        self, service, example, sku, product, transaction_tokens
    ):
        """The worker has got hold of a token of the gateway's requests: it may write, and not with that."""
        async with service.connect("worker", token=transaction_tokens()) as client:
            problem = await client.problem(example.item(product, example.create(sku, example.car())))
        assert (problem.code, problem.reason) == (grpc.StatusCode.UNAUTHENTICATED.value[0], "TOKEN_OF_ANOTHER")

    async def test_an_item_without_a_token_is_refused(self, service, example, sku, product):
        """There is no person by default."""
        async with service.connect(token="") as client:
            problem = await client.problem(example.item(product, example.create(sku, example.car())))
        assert (problem.code, problem.reason) == (grpc.StatusCode.UNAUTHENTICATED.value[0], "TOKEN_MISSING")


class TestFailures:
    async def test_an_event_store_that_is_down_is_told_and_survived(self, start, store_process, example, sku, product):
        """UNAVAILABLE while it is away, with leave to send the same command id again; once it is back, that is done once."""
        store = await store_process.start()
        async with start(store.target) as service, service.connect() as gateway:
            await gateway.executed(example.item(product, example.create(sku, example.car())))
            await store_process.stop()
            item = example.item(product, example.price("1"))
            problem = await gateway.problem(item)
            assert (problem.code, problem.reason) == (grpc.StatusCode.UNAVAILABLE.value[0], "OUTCOME_UNKNOWN")
            assert "safely be sent again" in problem.message
            reading = await gateway.problem(example.item(str(uuid.uuid4()), example.publish()))
            assert reading.code == grpc.StatusCode.UNAVAILABLE.value[0]
            await store_process.start()
            async with asyncio.timeout(20):
                while (result := (await gateway(item))[0]).WhichOneof("outcome") == "problem":
                    assert result.problem.code == grpc.StatusCode.UNAVAILABLE.value[0]
            assert result.executed.revision == 1

    async def test_a_cancelled_call_leaves_the_product_usable(self, gateway, example, sku, product):
        """Whatever became of the cancelled one, the same command id is then answered, and others go on."""
        await gateway.executed(example.item(product, example.create(sku, example.car())))
        items = [example.item(product, example.price(str(amount))) for amount in range(1, 21)]
        calls = [asyncio.ensure_future(gateway(item)) for item in items]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        for call in calls[1::2]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        done = [(await gateway.executed(item))[0] for item in items]
        assert sorted(one.revision for one in done) == list(range(1, 21))
        assert all(one.changed for one in done)


class TestTraces:
    async def test_each_sampled_item_has_a_span_in_its_own_trace(self, service, gateway, example, sku, product):
        """The span continues the item's trace, says what was done, and the log's span continues it in turn."""
        await gateway.executed(
            example.item(product, example.put(sku, example.car()), example.price("1"), traceparent=TRACEPARENT)
        )
        await gateway.problem(example.item(product, example.discontinue(""), traceparent=TRACEPARENT))
        await asyncio.to_thread(flush_tracing)
        spans = [
            orjson.loads(line) for path in service.traces.glob("*.jsonl") for line in path.read_bytes().splitlines()
        ]
        ours = [span for span in spans if span["trace_id"] == TRACE and span["name"].startswith("execute")]
        assert [(span["name"], span["status"]) for span in ours] == [
            ("execute put, set_price", "unset"), ("execute discontinue", "error"),
        ]  # fmt: skip
        assert all(span["parent_id"] == "b7ad6b7169203331" for span in ours)
        assert ours[0]["attributes"]["almagest.product_id"] == product
        appended = [span for span in spans if span["name"] == f"append product-{product}"]
        assert [span["parent_id"] for span in appended] == [ours[0]["span_id"]]

    async def test_an_item_that_is_not_sampled_has_none(self, service, gateway, example, sku, product):
        """Somebody else decided that nobody will look."""
        quiet = TRACEPARENT.removesuffix("01") + "00"
        await gateway.executed(example.item(product, example.put(sku, example.car()), traceparent=quiet))
        await asyncio.to_thread(flush_tracing)
        for path in service.traces.glob("*.jsonl"):
            assert TRACE.encode() not in path.read_bytes()


def place_of(token: str) -> event_pb2.ConsistencyToken:
    return event_pb2.ConsistencyToken.FromString(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
