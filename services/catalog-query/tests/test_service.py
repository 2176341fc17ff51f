"""The service as its callers see it: over mTLS, with a real event store and real Postgres behind it."""

import asyncio
import json
import time
import urllib.request
import uuid
from typing import Any

import asyncpg
import grpc
import orjson
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import query_pb2
from almagest.eventstore.v1 import event_pb2
from chassis.errors import RemoteProblem
from google.protobuf.duration_pb2 import Duration
from harness.tokens import TransactionTokens


def violations(refused: Any) -> dict[str, str]:
    return {one.field: one.description for one in refused.value.problem.violations}


async def test_a_write_is_read_with_its_token(system, build):
    """A read that carries the token of a write sees it, as a document with its keys in order."""
    sku = build.fresh()
    token = await system.append(
        sku, build.created(sku, build.car(text="A wagon.")), build.price(), events.ProductPublished()
    )
    product = await system.get(sku, token)
    assert product.revision == 2
    document = orjson.loads(product.document)
    assert list(document) == [
        "product_id", "sku", "kind", "name", "text", "category", "status", "attributes", "price", "revision", "created_at",
        "updated_at",
    ]  # fmt: skip
    assert document["price"] == {"amount": "12999.00", "currency": "EUR"}
    assert document["status"] == "published"
    assert document["created_at"].endswith("Z")
    # The answer's own token is at least as new, and good for the next read.
    answered = event_pb2.ConsistencyToken.FromString(build.decoded(product.consistency_token))
    assert (answered.shard, answered.bucket) == (token.shard, token.bucket)
    assert answered.position >= token.position


async def test_a_product_that_is_not_there_is_not_found(system, build):
    """By name, as a status with its reason."""
    with pytest.raises(RemoteProblem) as refused:
        await system.get("nobody")
    assert refused.value.code is grpc.StatusCode.NOT_FOUND
    assert refused.value.problem.reason == "PRODUCT_NOT_FOUND"


async def test_a_token_ahead_of_the_log_is_answered_with_the_position(system, build):
    """Unavailable for now, with where we are, and within the time of the call."""
    sku = build.fresh()
    token = await system.append(sku, build.created(sku))
    await system.get(sku, token)
    token.position += 1000
    request = query_pb2.GetProductRequest(product_id=build.id_of(sku), consistency_token=build.opaque(token))
    with pytest.raises(RemoteProblem) as refused:
        await system.query.GetProduct(request, metadata=system.person, timeout=2.0)
    assert refused.value.problem.reason == "NOT_YET_VISIBLE"
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    assert int(refused.value.problem.metadata["position"]) == token.position - 1000
    assert refused.value.retry_after == 1


async def test_each_item_of_a_batch_has_its_own_person_and_wait(system, build, transaction_tokens):
    """One is answered, and each of the others says why not; the order is that of the request."""
    sku = build.fresh()
    other = build.fresh()
    token = await system.append(sku, build.created(sku))
    await system.get(sku, token)
    ahead = event_pb2.ConsistencyToken.FromString(token.SerializeToString())
    ahead.position += 99
    items = [
        query_pb2.GetProductItem(product_id=build.id_of(sku), transaction_token=system.token),
        query_pb2.GetProductItem(product_id=build.id_of(sku)),
        query_pb2.GetProductItem(
            product_id=build.id_of(sku), transaction_token=transaction_tokens(scopes=["jobs:read"])
        ),
        query_pb2.GetProductItem(
            product_id=build.id_of(sku), transaction_token=transaction_tokens(key=TransactionTokens.stranger())
        ),
        query_pb2.GetProductItem(product_id=build.id_of(sku), transaction_token=transaction_tokens(lifetime=-5)),
        query_pb2.GetProductItem(product_id=build.id_of(sku), transaction_token=transaction_tokens(workload="worker")),
        query_pb2.GetProductItem(product_id=build.id_of(other), transaction_token=system.token),
        query_pb2.GetProductItem(product_id="x", transaction_token=system.token),
        query_pb2.GetProductItem(product_id=build.id_of(sku), transaction_token=system.token, consistency_token="?"),
        query_pb2.GetProductItem(
            product_id=build.id_of(sku),
            transaction_token=system.token,
            consistency_token=build.opaque(ahead),
            timeout=Duration(nanos=50_000_000),
        ),
        query_pb2.GetProductItem(
            product_id=build.id_of(sku), transaction_token=system.token, consistency_token=build.opaque(token)
        ),
    ]
    answer = await system.query.BatchGetProducts(query_pb2.BatchGetProductsRequest(items=items))
    assert [one.problem.reason or one.product.revision for one in answer.results] == [
        0, "TOKEN_MISSING", "SCOPE_MISSING", "TOKEN_INVALID", "TOKEN_EXPIRED", "TOKEN_OF_ANOTHER",
        "PRODUCT_NOT_FOUND", "INVALID_REQUEST", "INVALID_REQUEST", "NOT_YET_VISIBLE", 0,
    ]  # fmt: skip


@pytest.mark.parametrize("count", [0, 513])
async def test_a_batch_has_a_size(system, build, count):
    """Neither nothing nor without bound."""
    sku = build.fresh()
    item = query_pb2.GetProductItem(product_id=build.id_of(sku), transaction_token=system.token)
    with pytest.raises(RemoteProblem) as refused:
        await system.query.BatchGetProducts(query_pb2.BatchGetProductsRequest(items=[item] * count))
    assert "items" in violations(refused)


async def test_lists_and_searches_go_over_both_shards(system, build):
    """With filter, order, pages, and a wait for writes of both shards."""
    tokens = []
    ours = build.fresh()
    for number in range(12):
        sku = build.fresh()
        description = build.car(f"Car {number:02}", make=ours if number % 2 else "Ford", text=f"{ours} paint {number}")
        tokens.append(await system.append(sku, build.created(sku, description), build.price(f"{number}.00")))
    assert {token.shard for token in tokens} == {0, 1}
    waits = [build.opaque(token) for token in tokens]
    request = query_pb2.ListProductsRequest(
        filter=query_pb2.ProductFilter(make=ours.upper(), currency="EUR"),
        sort=query_pb2.PRODUCT_SORT_PRICE_DESCENDING,
        page_size=4,
        consistency_tokens=waits,
    )
    names: list[str] = []
    while True:
        page = await system.query.ListProducts(request, metadata=system.person)
        names += [orjson.loads(document)["name"] for document in page.documents]
        assert {one.shard for one in page.positions} == {0, 1}
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert names == [f"Car {number:02}" for number in (11, 9, 7, 5, 3, 1)]
    found = await system.query.SearchProducts(
        query_pb2.SearchProductsRequest(text=f"{ours} 11", consistency_tokens=waits), metadata=system.person
    )
    assert [orjson.loads(document)["name"] for document in found.documents] == ["Car 11"]


async def test_a_page_token_is_only_good_for_its_own_question(system, build):
    """Another filter, order or text with it is refused; another page size is fine."""
    for _ in range(4):
        sku = build.fresh()
        await system.get(sku, await system.append(sku, build.created(sku)))
    page = await system.query.ListProducts(query_pb2.ListProductsRequest(page_size=1), metadata=system.person)
    good = query_pb2.ListProductsRequest(page_size=3, page_token=page.next_page_token)
    assert len((await system.query.ListProducts(good, metadata=system.person)).documents) == 3
    for other in (
        query_pb2.ListProductsRequest(page_token=page.next_page_token, sort=query_pb2.PRODUCT_SORT_NAME_DESCENDING),
        query_pb2.ListProductsRequest(page_token=page.next_page_token, filter=query_pb2.ProductFilter(make="Ford")),
        query_pb2.ListProductsRequest(page_token="nonsense"),
    ):
        with pytest.raises(RemoteProblem) as refused:
            await system.query.ListProducts(other, metadata=system.person)
        assert refused.value.problem.reason == "BAD_PAGE_TOKEN"
        assert list(violations(refused)) == ["page_token"]
    with pytest.raises(RemoteProblem):
        search = query_pb2.SearchProductsRequest(text="v", page_token=page.next_page_token)
        await system.query.SearchProducts(search, metadata=system.person)


async def test_every_wrong_field_is_named_at_once(system):
    """So that nobody mends a request one field at a time."""
    wrong = query_pb2.ListProductsRequest(
        filter=query_pb2.ProductFilter(
            kinds=["car", "boat"],
            make="x" * 201,
            model="\x00",
            model_year_from=2020,
            model_year_to=99999,
            category="/vehicles",
            currency="euro",
            price_from="NaN",
            price_to="1e5",
            statuses=["lost"],
        ),
        sort=99,
        page_size=201,
    )
    with pytest.raises(RemoteProblem) as refused:
        await system.query.ListProducts(wrong, metadata=system.person)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(violations(refused)) == {
        "filter.kinds[1]", "filter.make", "filter.model", "filter.model_year_to", "filter.category", "filter.currency",
        "filter.price_from", "filter.price_to", "filter.statuses[0]", "sort", "page_size",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (query_pb2.ListProductsRequest(filter=query_pb2.ProductFilter(price_from="1")), "filter.currency"),
        (query_pb2.ListProductsRequest(sort=query_pb2.PRODUCT_SORT_PRICE), "filter.currency"),
        (
            query_pb2.ListProductsRequest(filter=query_pb2.ProductFilter(currency="EUR", price_from="2", price_to="1")),
            "filter.price_to",
        ),
        (
            query_pb2.ListProductsRequest(filter=query_pb2.ProductFilter(model_year_from=2, model_year_to=1)),
            "filter.model_year_to",
        ),
        (query_pb2.ListProductsRequest(filter=query_pb2.ProductFilter(kinds=["car"] * 11)), "filter.kinds"),
        (query_pb2.ListProductsRequest(consistency_tokens=["AAAA", "?"]), "consistency_tokens[1]"),
        (query_pb2.ListProductsRequest(consistency_tokens=["AAAA"] * 33), "consistency_tokens"),
        (query_pb2.SearchProductsRequest(text=""), "text"),
        (query_pb2.SearchProductsRequest(text="x" * 201), "text"),
        (query_pb2.SearchProductsRequest(text=" -- "), "text"),
        (query_pb2.GetProductHistoryRequest(product_id="nothing"), "product_id"),
        (query_pb2.GetProductHistoryRequest(product_id=str(uuid.uuid4()), page_size=999), "page_size"),
        (query_pb2.GetProductHistoryRequest(product_id=str(uuid.uuid4()), page_token="e30"), "page_token"),
        (query_pb2.GetProductRequest(product_id="{6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11}"), "product_id"),
        (
            query_pb2.GetProductRequest(product_id=str(uuid.uuid4()), consistency_token="CAEQ_____w8"),
            "consistency_token",
        ),
    ],
)
async def test_a_wrong_field_is_named(system, request_, field):
    """Bounds without a currency, bounds the wrong way round, texts without a word, tokens of nobody."""
    method = type(request_).__name__.removesuffix("Request")
    with pytest.raises(RemoteProblem) as refused:
        await getattr(system.query, method)(request_, metadata=system.person)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in violations(refused)


async def test_the_history_tells_who_changed_what_from_what_to_what_and_why(system, build):
    """Latest first, over pages, each change with the values before and after, its person, trace, job and line."""
    sku = build.fresh()
    await system.append(
        sku, build.created(sku, build.car(doors=5)), traceparent=build.sampled, job_id="job-1", import_line=7
    )
    await system.append(sku, build.price("10.00"), reason="a first price")
    await system.append(sku, events.ProductPublished())
    await system.append(sku, events.ProductDescribed(description=build.car("New name", doors=3)))
    await system.append(sku, build.price("12.50"))
    await system.append(sku, events.ProductDiscontinued(reason="too old"))
    request = query_pb2.GetProductHistoryRequest(product_id=build.id_of(sku), page_size=2)
    changes: list[query_pb2.ProductChange] = []
    pages = 0
    while True:
        page = await system.query.GetProductHistory(request, metadata=system.person)
        changes += page.changes
        pages += 1
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert pages == 3
    told = [
        (one.revision, one.type, {f.field: (json.loads(f.before), json.loads(f.after)) for f in one.fields})
        for one in changes
    ]
    assert told[:5] == [
        (5, "ProductDiscontinued", {"status": ("published", "discontinued")}),
        (4, "PriceSet", {"price.amount": ("10.00", "12.50")}),
        (3, "ProductDescribed", {"name": ("Volvo V60", "New name"), "attributes.doors": (5, 3)}),
        (2, "ProductPublished", {"status": ("draft", "published")}),
        (1, "PriceSet", {"price.amount": (None, "10.00"), "price.currency": (None, "EUR")}),
    ]
    first = changes[-1]
    assert told[-1][2]["attributes.make"] == (None, "Volvo")
    assert (first.job_id, first.import_line, first.trace_id) == ("job-1", 7, build.sampled.split("-")[1])
    assert first.actor == "b7b0a5ac-3a0c-4d5e-9a53-0f6b6c1de111"
    assert [one.reason for one in changes] == ["too old", "", "", "", "a first price", ""]
    assert abs(first.recorded_at.seconds - time.time()) < 60
    with pytest.raises(RemoteProblem) as refused:
        other = query_pb2.GetProductHistoryRequest(product_id=build.id_of("nobody"))
        await system.query.GetProductHistory(other, metadata=system.person)
    assert refused.value.problem.reason == "PRODUCT_NOT_FOUND"


async def test_the_lag_is_told_against_the_heads_of_the_log(system, build, eventually):
    """One projector per pair of shards, running, at the head, with nothing to complain about."""
    sku = build.fresh()
    token = await system.append(sku, build.created(sku))

    async def current() -> bool:
        async with system.replica.connect("operator") as operator:
            status = await operator.GetProjectionStatus(query_pb2.GetProjectionStatusRequest())
        return [
            (one.event_shard, one.read_shard, one.running, one.lag_events, one.lag_seconds, one.error)
            for one in status.projectors
        ] == [
            (event_shard, read_shard, True, 0, 0, "") for event_shard in (0, 1) for read_shard in (0, 1)
        ] and status.projectors[3 * token.shard].head == token.position

    await eventually(current)


ANYBODY = ("gateway", "worker", "operator", "catalog-command", "catalog-query", "event-store", "auth")
ALLOWED = {
    "GetProduct": {"gateway", "worker"},
    "BatchGetProducts": {"gateway", "worker"},
    "ListProducts": {"gateway", "worker"},
    "SearchProducts": {"gateway", "worker"},
    "GetProductHistory": {"gateway"},
    "GetProjectionStatus": {"gateway", "operator"},
}


async def test_only_those_of_the_policy_may_call(system, build):
    """Every method by every workload: refused before anything is looked at, or let in."""
    for caller in ANYBODY:
        async with system.replica.connect(caller) as stub:
            for method, callers in ALLOWED.items():
                request = getattr(query_pb2, f"{method}Request")()
                try:
                    await getattr(stub, method)(request, metadata=system.person)
                    reason = ""
                except RemoteProblem as problem:
                    reason = problem.problem.reason
                assert (reason == "CALLER_NOT_ALLOWED") == (caller not in callers), (caller, method, reason)


@pytest.mark.parametrize("method", ["GetProduct", "ListProducts", "SearchProducts", "GetProductHistory"])
async def test_only_a_person_who_may_read_is_answered(system, transaction_tokens, method):
    """No token, a forged one, an expired one and one without the scope: refused by name."""
    request = getattr(query_pb2, f"{method}Request")()
    for token, reason in (
        (None, "TOKEN_MISSING"),
        (transaction_tokens(key=TransactionTokens.stranger()), "TOKEN_INVALID"),
        (transaction_tokens(lifetime=-5), "TOKEN_EXPIRED"),
        (transaction_tokens(claims={"aud": "elsewhere"}), "TOKEN_INVALID"),
        (transaction_tokens(scopes=["catalog:write"]), "SCOPE_MISSING"),
    ):
        metadata = () if token is None else (("txn-token", token),)
        with pytest.raises(RemoteProblem) as refused:
            await getattr(system.query, method)(request, metadata=metadata)
        assert refused.value.problem.reason == reason


async def test_reads_go_on_while_the_log_is_away_and_the_projection_catches_up_afterwards(
    databases, starter, transaction_tokens, build, eventually
):
    """Also by a process that was started meanwhile, which says how far it is."""
    logs = await databases(2, role="event_store", package="event_store.migrations")
    read = await databases(2)
    person = (("txn-token", transaction_tokens(roles=("viewer",))),)
    wanted = query_pb2.GetProductRequest(product_id=build.id_of("A"))
    async with starter.event_store(logs.service) as event_store:
        port = event_store.port
        async with starter.catalog_query(read, port) as replica, starter.writer(event_store) as write:
            token = await write("A", build.created("A"))
            async with replica.connect("gateway") as query:
                wanted.consistency_token = build.opaque(token)
                await query.GetProduct(wanted, metadata=person)
    async with starter.catalog_query(read, port) as replica, replica.connect("gateway") as query:
        product = (await query.GetProduct(wanted, metadata=person)).product
        assert (
            event_pb2.ConsistencyToken.FromString(build.decoded(product.consistency_token)).position >= token.position
        )
        async with (
            starter.event_store(logs.service, listen=f"127.0.0.1:{port}") as event_store,
            starter.writer(event_store) as write,
        ):
            wanted.consistency_token = build.opaque(await write("A", build.price()))
            answered = await query.GetProduct(wanted, metadata=person, timeout=20)
            assert answered.product.revision == 1


async def test_two_replicas_answer_and_one_takes_over_from_the_other(databases, starter, transaction_tokens, build):
    """The one that does not project waits for tokens by looking at the checkpoint, and goes on when the other has ended."""
    logs = await databases(2, role="event_store", package="event_store.migrations")
    read = await databases(2)
    person = (("txn-token", transaction_tokens(roles=("viewer",))),)
    async with starter.event_store(logs.service) as event_store, starter.writer(event_store) as write:
        async with starter.catalog_query(read, event_store.port) as second_first:
            await _read_back(second_first, write, build, person, range(4))
            async with starter.catalog_query(read, event_store.port, projection_lease_seconds=1) as second:
                await _read_back(second, write, build, person, range(4, 12))
                await _read_back(second_first, write, build, person, range(12, 20))
        async with starter.catalog_query(read, event_store.port) as third:
            await _read_back(third, write, build, person, range(20, 24))


async def _read_back(replica: Any, write: Any, build: Any, person: Any, numbers: range) -> None:
    async with replica.connect("gateway") as query:
        for number in numbers:
            token = build.opaque(await write(f"S{number}", build.created(f"S{number}")))
            request = query_pb2.GetProductRequest(product_id=build.id_of(f"S{number}"), consistency_token=token)
            assert (await query.GetProduct(request, metadata=person)).product.revision == 0


async def test_a_shard_that_is_away_leaves_the_other_one_answering(system, postgres, build):
    """Per item: what can be read is, the rest says that it cannot, without naming anything inside."""
    by_shard: dict[int, str] = {}
    while len(by_shard) < 2:
        sku = build.fresh()
        token = await system.append(sku, build.created(sku))
        await system.get(sku, token)
        by_shard.setdefault(token.shard, sku)
    database = system.read.owner[0].partition("?")[0].rpartition("/")[2]
    superuser = await asyncpg.connect(postgres.superuser_dsn())
    try:
        await superuser.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT 0')
        await superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database)
        items = [
            query_pb2.GetProductItem(product_id=build.id_of(by_shard[shard]), transaction_token=system.token)
            for shard in (0, 1)
        ]
        answer = await system.query.BatchGetProducts(query_pb2.BatchGetProductsRequest(items=items))
        away, there = answer.results
        assert away.problem.code == grpc.StatusCode.UNAVAILABLE.value[0], away
        assert database not in away.problem.message
        assert there.product.revision == 0
        with pytest.raises(RemoteProblem) as refused:
            await system.query.ListProducts(query_pb2.ListProductsRequest(), metadata=system.person)
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    finally:
        await superuser.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
        await superuser.close()
    token = await system.append(by_shard[0], build.price())
    assert (await system.get(by_shard[0], token)).revision == 1


async def test_a_projection_is_a_trace_linked_to_the_request_that_caused_it(
    databases, starter, build, tmp_path, eventually
):
    """Its own trace, with a link to the recorded request; a request that is not recorded makes none."""
    logs = await databases(2, role="event_store", package="event_store.migrations")
    read = await databases(2)
    async with (
        starter.event_store(logs.service) as event_store,
        starter.catalog_query(read, event_store.port, trace_directory=tmp_path),
        starter.writer(event_store) as write,
    ):
        await write("A", build.created("A"), traceparent=build.sampled[:-1] + "0")
        await write("A", build.price(), traceparent=build.sampled)

        def spans() -> list[dict[str, Any]]:
            file = tmp_path / "catalog-query.jsonl"
            return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

        await eventually(lambda: any(one["name"] == "project products" for one in spans()))
        [span] = [one for one in spans() if one["name"] == "project products"]
        trace_id = build.sampled.split("-")[1]
        assert span["parent_id"] == ""
        assert span["trace_id"] != trace_id
        assert [link["trace_id"] for link in span["links"]] == [trace_id]


async def test_readiness_and_metrics_are_told(system, build, eventually):
    """On the plain HTTP side."""
    sku = build.fresh()
    token = await system.append(sku, build.created(sku))
    await system.get(sku, token)
    base = f"http://127.0.0.1:{system.replica.http_port}"

    def fetch(path: str) -> str:
        with urllib.request.urlopen(base + path, timeout=5) as answer:  # noqa: S310 - our own
            return answer.read().decode()

    assert json.loads(await asyncio.to_thread(fetch, "/readyz"))["ready"] is True
    metrics = await asyncio.to_thread(fetch, "/metrics")
    pair = f'event_shard="{token.shard}",generation="1",projection="products",read_shard="{token.shard}"'
    assert f"almagest_projection_checkpoint{{{pair}}}" in metrics
