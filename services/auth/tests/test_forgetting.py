"""A forgotten person is gone from the database, from every session and key, and a certificate says what was searched."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import pytest
from almagest.auth.v1 import auth_pb2 as wire
from almagest.auth.v1 import privacy_pb2 as privacy
from almagest.auth.v1.privacy_pb2_grpc import PrivacyServiceStub
from auth.adapters.places import EveryPlace
from auth.application.forgetting import Forgetting
from auth.application.people import create_person
from auth.bootstrap import assembled, heed, now
from auth.domain.audit import NOBODY, Wanted
from auth.domain.erasures import Store, Terms
from auth.domain.people import Role, registration
from chassis.caller import set_origin
from chassis.errors import RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.ids import uuid7
from chassis.revocations import Revocations
from chassis.rpc.channel import Channel
from chassis.sealing.subjects import SubjectForgotten
from joserfc import jwt
from joserfc.jwk import KeySet

LAST = "Quetzalcoatlsson"


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(RemoteProblem) as problem:
        await call
    return problem.value.code, problem.value.problem.reason


async def eventually(question: Callable[[], Awaitable[Any]]) -> Any:
    """What is answered once it is something."""
    async with asyncio.timeout(20):
        while not (answer := await question()):  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.02)
    return answer


@pytest.fixture
async def privately(service, identity):
    channel = Channel(
        f"127.0.0.1:{service.port}",
        service="auth",
        identity=FileIdentitySource(identity("gateway"), "almagest.internal"),
    )
    yield PrivacyServiceStub(channel)
    await channel.close()


@pytest.fixture
def certified(privately, admin, acting):
    """The erasure of a person, once everything was searched."""

    async def wait(user_id: str) -> privacy.Erasure:
        metadata = await acting(admin.email)

        async def finished() -> privacy.Erasure | None:
            answer = await privately.GetErasure(privacy.GetErasureRequest(user_id=user_id), metadata=metadata)
            return answer.erasure if answer.erasure.certificate else None

        return await eventually(finished)

    return wait


async def test_a_forgotten_person_is_gone_and_a_certificate_says_so(
    service, privately, certified, newcomer, log_in, acting, admin, parts, databases
):
    """No row, no index, no key, no session, no answer; and what is left of the search is not the person."""
    user = await newcomer(first_name="Xiuhcoatl", last_name=LAST)
    tokens = await log_in(user)
    said = await parts.subjects.seal(UUID(user.user_id), "address", b"192.0.2.7")
    begun = await privately.ForgetPerson(
        privacy.ForgetPersonRequest(user_id=user.user_id), metadata=await acting(admin.email)
    )
    assert begun.erasure.user_id == user.user_id
    assert await refusal(service.gateway.LogIn(wire.LogInRequest(email=user.email, password="x" * 12))) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "INVALID_CREDENTIALS",
    )
    ended = (grpc.StatusCode.UNAUTHENTICATED, "SESSION_ENDED")
    assert (
        await refusal(service.gateway.ExchangeToken(wire.ExchangeTokenRequest(access_token=tokens.access_token)))
        == ended
    )
    lost = await refusal(service.gateway.RefreshSession(wire.RefreshSessionRequest(refresh_token=tokens.refresh_token)))
    assert lost == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_REFRESH_TOKEN")
    with pytest.raises(SubjectForgotten):
        parts.subjects.invalidate(UUID(user.user_id))
        await parts.subjects.open(UUID(user.user_id), "address", said)
    erasure = await certified(user.user_id)
    assert erasure.state == privacy.Erasure.STATE_CERTIFIED
    assert all(store.searched == store.total > 0 and not store.findings for store in erasure.stores)
    assert {store.service for store in erasure.stores} == {"auth"}
    jwks = (await service.gateway.GetJwks(wire.GetJwksRequest())).jwks
    decoded = jwt.decode(erasure.certificate, KeySet.import_key_set(json.loads(jwks)), algorithms=["Ed25519"])
    assert decoded.header["typ"] == "erasure+jwt"
    assert decoded.claims["sub"] == user.user_id
    assert decoded.claims["findings"] == "none"
    assert decoded.claims["subject_key"] == "destroyed"
    assert any("backups" in text for text in decoded.claims["not_covered"])
    assert any("event-store" in text for text in decoded.claims["not_covered"])
    assert not any(needle in json.dumps(decoded.claims) for needle in (user.email, LAST, "Xiuhcoatl"))
    for dsn in databases.owner:
        connection = await asyncpg.connect(dsn)
        counts = [
            await connection.fetchval(f"SELECT count(*) FROM {table} WHERE {column} = $1", user.user_id)  # noqa: S608
            for table, column in (
                ("users", "id"), ("sessions", "user_id"), ("access_keys", "user_id"), ("email_indexes", "user_id"),
            )
        ]  # fmt: skip
        assert counts == [0, 0, 0, 0]
        rows = await connection.fetch("SELECT sealed_terms FROM erasures WHERE user_id = $1", user.user_id)
        assert all(row[0] is None for row in rows)
        rows = await connection.fetch("SELECT wrapped FROM subject_keys WHERE subject_id = $1", user.user_id)
        assert all(row[0] is None for row in rows)
        await connection.close()


async def test_a_person_forgets_themselves_and_nobody_else(privately, certified, newcomer, acting, service):
    """Whether another person exists is not told; the same request again answers the same erasure."""
    one, other = await newcomer(), await newcomer()
    metadata = await acting(one.email)
    not_yours = (grpc.StatusCode.PERMISSION_DENIED, "NOT_ABOUT_YOU")
    for user_id in (other.user_id, str(uuid7())):
        request = privacy.ForgetPersonRequest(user_id=user_id)
        assert await refusal(privately.ForgetPerson(request, metadata=metadata)) == not_yours
        request = privacy.GetErasureRequest(user_id=user_id)
        assert await refusal(privately.GetErasure(request, metadata=metadata)) == not_yours
    await privately.ForgetPerson(privacy.ForgetPersonRequest(user_id=one.user_id), metadata=metadata)
    assert (await certified(one.user_id)).state == privacy.Erasure.STATE_CERTIFIED

    async def refused() -> bool:
        try:
            await privately.ForgetPerson(privacy.ForgetPersonRequest(user_id=one.user_id), metadata=metadata)
        except RemoteProblem as problem:
            return problem.problem.reason == "TOKEN_REVOKED"
        return False

    assert await eventually(refused)


async def test_nobody_and_nonsense_are_told_apart(privately, acting, admin):
    """404 for people and erasures that are not; 400 for what is no id."""
    metadata = await acting(admin.email)
    nobody = str(uuid7())
    for call, request, reason in (
        (privately.ForgetPerson, privacy.ForgetPersonRequest(user_id=nobody), "USER_NOT_FOUND"),
        (privately.GetErasure, privacy.GetErasureRequest(user_id=nobody), "ERASURE_NOT_FOUND"),
        (privately.ForgetPerson, privacy.ForgetPersonRequest(user_id="x"), "INVALID_FIELDS"),
    ):
        assert (await refusal(call(request, metadata=metadata)))[1] == reason


async def test_an_address_is_free_again_unless_it_is_blocked(
    service, privately, newcomer, acting, admin, person, certified
):
    """Blocking keeps a keyed digest, which outlives rotations; an admin asks for it, a person cannot."""
    metadata = await acting(admin.email)
    free, blocked, own = await newcomer(), await newcomer(), await newcomer()
    for user, block, who in ((free, False, metadata), (blocked, True, metadata), (own, True, await acting(own.email))):
        request = privacy.ForgetPersonRequest(user_id=user.user_id, block_email=block)
        await privately.ForgetPerson(request, metadata=who)
    for user in (free, own):
        again = await service.gateway.CreateUser(person(email=user.email), metadata=metadata)
        assert again.user.user_id != user.user_id
    taken = await refusal(service.gateway.CreateUser(person(email=blocked.email), metadata=metadata))
    assert taken == (grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")
    assert (await certified(blocked.user_id)).state == privacy.Erasure.STATE_CERTIFIED


async def test_what_is_left_in_a_log_is_found_and_counted(tmp_path: Path):
    """The address in any case is a finding, a name alone a mention, nothing is nothing."""
    (tmp_path / "a.log").write_text('{"who": "X@EXAMPLE.ORG"}')
    (tmp_path / "b.log").write_text(f"{LAST}")
    (tmp_path / "c.log").write_text("nothing")
    terms = Terms(email="x@example.org", first_name="Xiuhcoatl", last_name=LAST)
    told = [store async for store in EveryPlace(databases=[], directories=[tmp_path], channels={}).search(terms)]
    assert (told[-1].service, told[-1].findings, told[-1].mentions) == ("auth", 1, 1)
    assert told[-1].searched == told[-1].total


class Broken:
    """Places of which the second cannot be reached for a while."""

    def __init__(self) -> None:
        self.down = True
        self.seen: list[Terms] = []

    async def search(self, terms: Terms):
        self.seen.append(terms)
        yield Store("auth", "database", 3, 3, 0, 0)
        if self.down:
            raise ConnectionError("away")
        yield Store("worker", "redis", 5, 5, 2, 0)


async def test_a_search_that_breaks_off_is_taken_up_again(fresh_databases, settings):
    """By anybody, once its lease is over; and the words are kept, sealed, until then."""
    settings = settings.model_copy(
        update={"database_urls": fresh_databases.service, "migration_database_urls": fresh_databases.owner}
    )
    async with assembled(settings) as parts:
        user = await create_person(
            registration(
                email="x@example.org",
                password="a horse of no name",
                first_name="Xiuhcoatl",
                last_name=LAST,
                roles=[Role.VIEWER],
            ),
            command_id=uuid7(),
            people=parts.people,
            common=parts.common,
            hashing=parts.passwords.hash,
            fingerprints=parts.key_encryption_key,
            clock=now,
        )
        moment, places = [now()], Broken()
        forgetting = Forgetting(
            erasures=parts.erasures, places=places, forgotten=parts.subjects.invalidate, clock=lambda: moment[0]
        )
        await forgetting.forget(user.id, asking=user.id, may_forget_others=False)
        with pytest.raises(ConnectionError):
            await forgetting.search()
        assert not await forgetting.search()
        moment[0] += timedelta(minutes=2)
        places.down = False
        assert await forgetting.search()
        assert not await forgetting.search()
        assert places.seen[0] == places.seen[1] == Terms("x@example.org", "Xiuhcoatl", LAST)
        erasure = await forgetting.erasure(user.id, may_see=True)
        assert erasure.findings == 2
        assert erasure.certified_at == moment[0]
        assert repr(places.seen[0]) == "Terms(concealed)"


async def test_another_replica_opens_nothing_of_a_forgotten_person_within_a_second(parts, settings, newcomer):
    """It hears of the revocation, and does not wait until what it remembers of the key is old."""
    user_id = UUID((await newcomer()).user_id)
    async with assembled(settings) as other:
        revocations = Revocations()
        heed(revocations, other)
        sealed = await other.subjects.seal(user_id, "address", b"192.0.2.7")
        watching = asyncio.create_task(other.revocations.watch(revocations))
        try:
            await parts.erasures.forget(user_id, requested_by=user_id, block_email=False, now=now())

            async def forgotten() -> bool:
                try:
                    await other.subjects.open(user_id, "address", sealed)
                except SubjectForgotten:
                    return True
                return False

            async with asyncio.timeout(4):  # a second by design; what is remembered would last five
                await eventually(forgotten)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def test_an_address_that_leads_to_nobody_is_not_kept(service, parts, newcomer):
    """Not even sealed: it may be a forgotten person's. Where the try came from is."""
    user = await newcomer()
    await parts.erasures.forget(UUID(user.user_id), requested_by=UUID(user.user_id), block_email=False, now=now())
    set_origin("192.0.2.99", "a browser")
    try:
        with pytest.raises(RemoteProblem):
            await service.gateway.LogIn(wire.LogInRequest(email=user.email, password="not the right password"))
    finally:
        set_origin("", "")
    tried = await parts.audit.page(Wanted(subject_id=NOBODY, types=frozenset({"LogInFailed"}), limit=100))
    assert {"address": "192.0.2.99", "user_agent": "a browser"} in [one.origin for one in tried]
    assert not any("email" in one.origin for one in tried)
