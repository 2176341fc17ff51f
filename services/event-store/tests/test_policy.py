"""Who may call what, over real mTLS: the whole table, cell by cell, and the persons of appends."""

import time
import uuid

import grpc
import pytest
from almagest.eventstore.v1 import (
    administration_pb2,
    administration_pb2_grpc,
    event_store_pb2,
    event_store_pb2_grpc,
)
from chassis.errors import RemoteProblem
from event_store.entrypoints.policy import ADMINISTRATION, POLICY, SERVICE

WORKLOADS = ("gateway", "auth", "catalog-command", "catalog-query", "worker", "operator", "event-store")
MAY = {
    "Append": {"catalog-command", "auth"},
    "GetAppend": {"catalog-command", "catalog-query", "worker"},
    "ReadStream": {"catalog-command", "catalog-query", "worker"},
    "BatchReadStreams": {"catalog-command", "catalog-query", "worker"},
    "ReadAll": {"catalog-command", "catalog-query", "worker"},
    "Subscribe": {"catalog-query", "worker"},
    "PutSnapshots": {"catalog-command", "catalog-query"},
    "SetStreamMetadata": {"catalog-command", "operator"},
    "GetStreamMetadata": {"catalog-command", "catalog-query", "worker", "operator"},
    "GetShardMap": {"catalog-command", "catalog-query", "worker", "operator"},
}
MAY_ADMINISTER = {
    method: {"operator"}
    for method in ("Verify", "MoveBuckets", "ListMoves", "CancelMove", "ArchiveEvents", "ListArchives")
}


async def call(client, method):
    """Call a method with an empty request, and answer the reason of its failure, if it fails."""
    administered = method in MAY_ADMINISTER
    request = getattr(administration_pb2 if administered else event_store_pb2, f"{method}Request")()
    stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel) if administered else client.stub
    call_ = getattr(stub, method)(request, timeout=10)
    try:
        if method in {"ReadStream", "ReadAll", "Subscribe", "Verify", "MoveBuckets", "ArchiveEvents"}:
            async for _ in call_:
                break
            call_.cancel()
        else:
            await call_
    except RemoteProblem as problem:
        return problem.reason
    return None


def test_the_table_is_the_one_that_was_meant():
    """No row more or less than above."""
    wanted = {f"/{SERVICE}/{method}": callers for method, callers in MAY.items()}
    wanted |= {f"/{ADMINISTRATION}/{method}": callers for method, callers in MAY_ADMINISTER.items()}
    wanted["/almagest.auth.v1.PersonalDataService/SearchPersonalData"] = {"auth"}
    assert {key: set(rule.callers) for key, rule in POLICY.items()} == wanted


@pytest.mark.parametrize("workload", WORKLOADS)
async def test_each_workload_may_call_what_the_table_says(store, workload):
    """What is not allowed is refused for that reason; what is allowed gets as far as the request itself."""
    async with store.connect(workload) as client:
        for method, callers in (MAY | MAY_ADMINISTER).items():
            reason = await call(client, method)
            if workload in callers:
                assert reason in {None, "INVALID_REQUEST", "UNKNOWN_MOVE"}, (method, reason)
            else:
                assert reason == "CALLER_NOT_ALLOWED", (method, reason)


async def test_a_stranger_does_not_get_in(store):
    """Neither without a certificate nor without TLS."""
    target = f"127.0.0.1:{store.port}"
    authority = (store.settings.identity_directory / "ca.crt").read_bytes()
    nobody = grpc.aio.secure_channel(
        target,
        grpc.ssl_channel_credentials(authority),
        options=[("grpc.ssl_target_name_override", "event-store.almagest.internal")],
    )
    for channel in (nobody, grpc.aio.insecure_channel(target)):
        async with channel:
            stub = event_store_pb2_grpc.EventStoreServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetShardMap(event_store_pb2.GetShardMapRequest(), timeout=5)
            assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: "", "TOKEN_MISSING"),
        (lambda _: "nonsense", "TOKEN_INVALID"),
        (lambda tokens: tokens(key=tokens.stranger()), "TOKEN_INVALID"),
        (lambda tokens: tokens()[:-4] + "AAAA", "TOKEN_INVALID"),
        (lambda tokens: tokens(lifetime=-1), "TOKEN_EXPIRED"),
        (lambda tokens: tokens(lifetime=3600), "TOKEN_INVALID"),
        (lambda tokens: tokens(claims={"aud": "elsewhere"}), "TOKEN_INVALID"),
        (lambda tokens: tokens(header={"typ": "JWT"}), "TOKEN_INVALID"),
        (lambda tokens: tokens(roles=["viewer"]), "SCOPE_MISSING"),
        (lambda tokens: tokens(scopes=["catalog:writer"]), "SCOPE_MISSING"),
    ],
)
async def test_an_append_needs_its_own_persons_token(store, transaction_tokens, make, reason):
    """Missing, forged, expired or insufficient: that append is refused, another person's in the same call is written."""
    stream = store.command.stream()
    item = store.command.item
    refused, written = await store.command.append(
        item(stream, [b"bad"], token=make(transaction_tokens)), item(stream, [b"good"])
    )
    assert refused.problem.reason == reason
    assert refused.problem.code == (7 if reason == "SCOPE_MISSING" else 16)
    assert written.HasField("appended")
    assert [event.payload for event in await store.command.read(stream)] == [b"good"]


async def test_a_token_in_the_metadata_does_not_stand_for_the_items(store):
    """Only what an item carries speaks for it."""
    item = store.command.item(store.command.stream(), token="")
    answer = await store.command.stub.Append(
        event_store_pb2.AppendRequest(appends=[item]), metadata=(("txn-token", store.command.token),), timeout=10
    )
    assert answer.results[0].problem.reason == "TOKEN_MISSING"


async def test_each_item_acts_for_its_own_person(store, transaction_tokens):
    """Two persons in one call are two actors in the log."""
    command = store.command
    streams = [command.stream(), command.stream()]
    people = ["person-a", "person-b"]
    began = time.time()
    await command.appended(
        *(
            command.item(stream, token=transaction_tokens(subject=person))
            for stream, person in zip(streams, people, strict=True)
        )
    )
    for stream, person in zip(streams, people, strict=True):
        [event] = await command.read(stream)
        assert event.metadata.actor == person
        assert event.recorded_at.ToNanoseconds() / 1e9 >= began - 5


async def test_tokens_of_those_who_ask_for_changes_reach_the_log_and_no_others(store, transaction_tokens):
    """What the gateway and the worker ask of catalog-command is passed on by it; a token that others had is stolen."""
    workloads = ("gateway", "worker", "catalog-command", "catalog-query", "auth")
    items = [
        store.command.item(store.command.stream(), token=transaction_tokens(workload=workload))
        for workload in workloads
    ]
    results = await store.command.append(*items)
    assert [result.problem.reason for result in results] == ["", "", "", "TOKEN_OF_ANOTHER", "TOKEN_OF_ANOTHER"]


async def test_auth_writes_its_audit_and_nothing_else(store):
    """On its own account, for whom it says; its certificate is what is believed."""
    async with store.connect("auth") as auth:
        stream = f"audit-{uuid.uuid4()}"
        item = store.command.item(stream, [b"logged in"], token="")
        item.events[0].metadata.actor = "anna"
        elsewhere = store.command.item(store.command.stream(), token="")
        with_more = store.command.item(f"audit-{uuid.uuid4()}", token="")
        with_more.also.add(stream=store.command.stream(), partition_key=with_more.stream[6:]).any.SetInParent()
        written, refused, partly = await auth.append(item, elsewhere, with_more)
    assert written.HasField("appended")
    assert refused.problem.reason == "CATEGORY_NOT_ALLOWED"
    assert partly.problem.reason == "CATEGORY_NOT_ALLOWED"
    [event] = await store.command.read(stream)
    assert (event.metadata.actor, event.metadata.workload) == ("anna", "spiffe://almagest.internal/auth")


async def test_nobody_else_writes_to_the_audit_or_ends_it(store):
    """Neither those who change the catalog, whoever they do it for, nor those who run the log."""
    stream = f"audit-{uuid.uuid4()}"
    [refused] = await store.command.append(store.command.item(stream))
    assert refused.problem.reason == "CATEGORY_NOT_ALLOWED"
    for workload in ("catalog-command", "operator"):
        async with store.connect(workload) as client:
            request = event_store_pb2.SetStreamMetadataRequest(append_id=str(uuid.uuid4()), stream=stream)
            request.metadata.max_count = 1
            with pytest.raises(RemoteProblem) as problem:
                await client.stub.SetStreamMetadata(request, timeout=10)
            assert problem.value.reason == "CATEGORY_NOT_ALLOWED"
