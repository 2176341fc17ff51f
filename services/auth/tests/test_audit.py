"""Every act that matters is in the audit, in the transaction of the act, and gets to the log once and in order."""

import json
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from almagest.auth.events.v1 import audit_pb2 as events
from almagest.auth.v1 import audit_pb2 as audit_wire
from almagest.auth.v1 import auth_pb2 as wire
from almagest.auth.v1.audit_pb2_grpc import AuditServiceStub
from almagest.eventstore.v1 import event_store_pb2
from almagest.rpc.v1 import problem_pb2
from auth.adapters.audit import write
from auth.adapters.audit_relay import AuditRelay
from auth.application.keys import ensure_keys, rotate_keys
from auth.bootstrap import assembled, now
from auth.domain.audit import NOBODY, Wanted
from auth.domain.identifiers import bucket_in
from chassis.caller import set_origin
from chassis.errors import RemoteProblem
from chassis.ids import uuid7


class Log:
    """Keeps what is appended, by append id; may fail, before or after it has written."""

    def __init__(self) -> None:
        self.appends: dict[str, event_store_pb2.Append] = {}
        self.streams: dict[str, list[str]] = {}
        self.calls = 0
        self.lose_answers = 0
        self.refuse = 0

    async def Append(self, request: event_store_pb2.AppendRequest, *, timeout: float) -> event_store_pb2.AppendResponse:
        assert timeout > 0
        self.calls += 1
        answer = event_store_pb2.AppendResponse()
        for append in request.appends:
            if self.refuse:
                self.refuse -= 1
                answer.results.add().problem.reason = "TOO_BUSY"
                continue
            known = self.appends.get(append.append_id)
            if known is None:
                self.appends[append.append_id] = append
                self.streams.setdefault(append.stream, []).append(append.append_id)
            answer.results.add().appended.replayed = known is not None
        if self.lose_answers:
            self.lose_answers -= 1
            raise RemoteProblem(problem_pb2.Problem(code=grpc.StatusCode.UNAVAILABLE.value[0], reason="UNAVAILABLE"))
        return answer


async def of(parts: Any, subject: str | UUID, **wanted: Any) -> list[Any]:
    """The audit of a subject, the oldest first."""
    page = await parts.audit.page(Wanted(subject_id=UUID(str(subject)), limit=100, **wanted))
    return list(reversed(page))


def names(found: list[Any]) -> list[str]:
    return [opened.entry.type for opened in found]


async def test_what_a_person_does_with_sessions_is_told(service, parts, newcomer, log_in, admin):
    """Created by whom, logged in from where, tried and failed, reused, logged out."""
    user = await newcomer()
    set_origin("192.0.2.1", "a browser")
    first = await log_in(user)
    with pytest.raises(RemoteProblem):
        await service.gateway.LogIn(wire.LogInRequest(email=user.email, password="not the right password"))
    refreshing = wire.RefreshSessionRequest(refresh_token=first.refresh_token)
    await service.gateway.RefreshSession(refreshing)
    with pytest.raises(RemoteProblem):
        await service.gateway.RefreshSession(refreshing)
    await service.gateway.LogOut(wire.LogOutRequest(refresh_token=(await log_in(user)).refresh_token))
    found = await of(parts, user.user_id)
    assert names(found) == [
        "UserCreated",
        "LoggedIn",
        "LogInFailed",
        "RefreshTokenReused",
        "LoggedIn",
        "LoggedOut",
    ]
    assert found[0].event.act.actor_id == admin.user_id
    assert {opened.event.act.workload for opened in found} == {"spiffe://almagest.internal/gateway"}
    assert found[2].origin == {"address": "192.0.2.1", "user_agent": "a browser", "email": user.email}
    assert found[1].origin == {"address": "192.0.2.1", "user_agent": "a browser"}


async def test_nothing_personal_stands_in_the_clear(service, parts, newcomer, log_in, databases):
    """And it ends with the key of whom it is about."""
    user = await newcomer()
    set_origin("192.0.2.77", "a very telling browser")
    await log_in(user)
    set_origin("", "")
    dump = b""
    for dsn in databases.owner:
        connection = await asyncpg.connect(dsn)
        dump += b"".join(row[0] for row in await connection.fetch("SELECT payload FROM audit_events"))
        await connection.close()
    assert dump
    for secret in (b"192.0.2.77", b"telling", user.email.encode()):
        assert secret not in dump
    await parts.subjects.forget(UUID(user.user_id))
    [logged_in] = [opened for opened in await of(parts, user.user_id) if opened.entry.type == "LoggedIn"]
    assert logged_in.origin == {}
    assert logged_in.event.session_id


async def test_an_act_that_did_not_happen_is_not_in_the_audit(parts, newcomer):
    """And one that happened is."""
    user = await newcomer()
    entry = await parts.audit.entry(events.PasswordChanged(), of=UUID(user.user_id))
    with pytest.raises(ZeroDivisionError):
        async with parts.people._sessions.begin() as unit:
            write(unit, entry)
            await unit.flush()
            _ = 1 / 0
    assert names(await of(parts, user.user_id)) == ["UserCreated"]


async def test_the_service_can_neither_change_nor_delete_the_audit(parts, newcomer, databases):
    """Whoever takes it over may add lies, and not take away what is there."""
    await newcomer()
    for dsn in databases.service:
        connection = await asyncpg.connect(dsn)
        for statement in ("UPDATE audit_events SET type = 'x'", "DELETE FROM audit_events", "TRUNCATE audit_events"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        await connection.close()


async def relayed(relay: AuditRelay) -> None:
    """Take everything there is to the log."""
    for shard in ("users_0", "users_1"):
        # The first time a shard's row is made, the second time it is taken.
        for _ in range(2):
            while await relay.relay(shard):
                pass


async def test_the_audit_gets_to_the_log_once_and_in_order(settings, fresh_databases, identity):
    """Though answers are lost, the log refuses, and other replicas take over."""
    told = settings.model_copy(update={"database_urls": fresh_databases.service})
    async with assembled(told) as parts:
        log = Log()
        people = [UUID(int=uuid7().int & ~1023 | bucket) for bucket in (1, 2, 900, 901)]
        for number in range(25):
            for person in people:
                await parts.audit.record(events.UserChanged(fields=[str(number)]), of=person)
        for log.lose_answers, log.refuse in ((1, 0), (0, 1), (1, 1)):
            with pytest.raises(RemoteProblem):
                await relayed(parts.relay(log))
            for dsn in fresh_databases.owner:
                connection = await asyncpg.connect(dsn)
                await connection.execute("UPDATE audit_relays SET held_until = now() - interval '1 hour'")
                await connection.close()
        relay = parts.relay(log)
        await relayed(relay)
        wanted = {f"audit-{person}": [str(opened.entry.id) for opened in await of(parts, person)] for person in people}
        assert {stream: log.streams[stream] for stream in wanted} == wanted
        assert all(len(ids) == 25 for ids in wanted.values())
        append = log.appends[wanted[f"audit-{people[0]}"][0]]
        assert append.events[0].type == "almagest.auth.events.v1.UserChanged"
        calls = log.calls
        await relayed(relay)
        assert log.calls == calls


async def test_what_commits_late_is_relayed_and_not_overtaken(settings, fresh_databases):
    """Whoever has begun earlier and commits later is waited for."""
    told = settings.model_copy(update={"database_urls": fresh_databases.service})
    async with assembled(told) as parts:
        log = Log()
        relay = parts.relay(log)
        await relayed(relay)
        slow = await parts.audit.entry(events.PasswordChanged(), of=NOBODY)
        async with parts.people._sessions.begin() as unit:
            write(unit, slow)
            await unit.flush()
            await parts.audit.record(events.UserDisabled(), of=NOBODY)
            await relayed(relay)
            assert str(slow.id) not in log.appends
        await relayed(relay)
        assert Counter(append.events[0].type.rpartition(".")[2] for append in log.appends.values()) == {
            "PasswordChanged": 1,
            "UserDisabled": 1,
        }


async def test_one_replica_at_a_time_relays_a_shard(settings, fresh_databases):
    """The other begins when the first has not been heard of for a while."""
    told = settings.model_copy(update={"database_urls": fresh_databases.service})
    async with assembled(told) as parts:
        log = Log()
        await relayed(parts.relay(log))
        await parts.audit.record(events.UserDisabled(), of=NOBODY)
        other = parts.relay(log)
        assert await other.relay("users_0") == 0
        connection = await asyncpg.connect(fresh_databases.owner[0])
        await connection.execute("UPDATE audit_relays SET held_until = now() - interval '1 second'")
        await connection.close()
        assert await other.relay("users_0") == 1


@pytest.fixture
async def reading(service, calling, identity):
    """The audit's service, as the gateway calls it."""
    async with calling("gateway", service.port) as stub:
        channel = stub.LogIn._channel
        yield AuditServiceStub(channel)


async def test_admins_read_the_audit_page_by_page(reading, parts, newcomer, log_in, acting, admin):
    """By subject, type and time, the latest first, over all shards."""
    people = [await newcomer() for _ in range(3)]
    began = now()
    for user in people:
        for _ in range(3):
            await log_in(user)
    metadata = await acting(admin.email)
    request = audit_wire.ListAuditEventsRequest(types=["LoggedIn"], page_size=4)
    request.since.FromDatetime(began)
    found: list[audit_wire.AuditEvent] = []
    while True:
        page = await reading.ListAuditEvents(request, metadata=metadata)
        found += page.events
        if not page.next_page_token:
            break
        assert len(page.events) == 4
        request.page_token = page.next_page_token
    assert Counter(event.subject_id for event in found) >= Counter({user.user_id: 3 for user in people})
    assert {event.type for event in found} == {"LoggedIn"}
    ids = [event.event_id for event in found]
    assert ids == sorted(set(ids), reverse=True)
    assert json.loads(found[0].details)["session_id"]
    one = await reading.ListAuditEvents(
        audit_wire.ListAuditEventsRequest(subject_id=people[0].user_id), metadata=metadata
    )
    assert [event.type for event in one.events] == ["LoggedIn"] * 3 + ["UserCreated"]


async def test_the_audit_is_for_those_who_may_read_it(reading, newcomer, acting):
    """Not even for one's own part: it tells what others did."""
    user = await newcomer(roles=[wire.ROLE_EDITOR])
    for request in (
        audit_wire.ListAuditEventsRequest(),
        audit_wire.ListAuditEventsRequest(subject_id=user.user_id),
    ):
        with pytest.raises(RemoteProblem) as refused:
            await reading.ListAuditEvents(request, metadata=await acting(user.email))
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


@pytest.mark.parametrize(
    "request_",
    [
        audit_wire.ListAuditEventsRequest(types=["Nothing"]),
        audit_wire.ListAuditEventsRequest(types=["Act"]),
        audit_wire.ListAuditEventsRequest(page_size=501),
        audit_wire.ListAuditEventsRequest(page_size=-1),
        audit_wire.ListAuditEventsRequest(page_token="x"),
        audit_wire.ListAuditEventsRequest(subject_id="x"),
    ],
)
async def test_what_cannot_be_asked_is_refused(reading, acting, admin, request_):
    """Naming the field."""
    with pytest.raises(RemoteProblem) as refused:
        await reading.ListAuditEvents(request_, metadata=await acting(admin.email))
    assert refused.value.reason == "INVALID_FIELDS"


async def test_refusals_by_policy_are_told_by_the_services_that_refused(reading, parts, calling, service):
    """Who was refused, where, why and how often; who tells is what the certificate says."""
    method = f"/x/{uuid4().hex}"
    async with calling("worker", service.port) as stub:
        told = AuditServiceStub(stub.LogIn._channel)
        await told.ReportDenials(
            audit_wire.ReportDenialsRequest(
                denials=[audit_wire.Denial(caller="spiffe://x/y", method=method, reason="CALLER_NOT_ALLOWED", count=7)]
            )
        )
    [found] = [one for one in await of(parts, NOBODY) if one.entry.type == "CallsDenied" and one.event.method == method]
    assert (found.event.count, found.event.act.workload) == (7, "spiffe://almagest.internal/worker")


async def test_a_rotation_of_the_signing_key_is_told(settings, fresh_databases):
    """In the transaction that rotates."""
    told = settings.model_copy(update={"database_urls": fresh_databases.service})
    async with assembled(told) as parts:
        await ensure_keys(keys=parts.signing_keys, forge=parts.forge, clock=now)
        keys = await rotate_keys(keys=parts.signing_keys, forge=parts.forge, clock=now, published_for=timedelta(0))
        [rotated] = [one for one in await of(parts, NOBODY) if one.entry.type == "SigningKeyRotated"]
        assert rotated.event.key_id == next(key.kid for key in keys if key.state == "active")
        assert bucket_in(rotated.entry.id) == 0


def test_every_event_has_an_act():
    """Who, when and from where is asked of all of them."""
    for message in events.DESCRIPTOR.message_types_by_name.values():
        if message.name != "Act":
            assert message.fields_by_name["act"].message_type is events.Act.DESCRIPTOR
