"""Access keys over mTLS: who may have them made, replaced and revoked; what is kept of them; what they are exchanged for."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import grpc
import pytest
from almagest.auth.v1 import access_keys_pb2 as wire
from almagest.auth.v1 import auth_pb2
from almagest.auth.v1.access_keys_pb2_grpc import AccessKeyServiceStub
from auth.bootstrap import bootstrap
from auth.domain.identifiers import bucket_in
from chassis.errors import RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.ids import uuid7
from chassis.process import running
from chassis.rpc.channel import Channel
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HMAC, ED25519 = wire.ACCESS_KEY_KIND_HMAC_SHA256, wire.ACCESS_KEY_KIND_ED25519
MOST = 5


class Key(NamedTuple):
    """What a client has of a key."""

    key_id: str
    kind: int
    secret: bytes

    def signs(self, base: bytes) -> bytes:
        if self.kind == HMAC:
            return hmac.digest(self.secret, base, "sha256")
        return Ed25519PrivateKey.from_private_bytes(self.secret).sign(base)


@pytest.fixture(scope="module")
async def keys(settings, identity, service) -> AsyncIterator[AccessKeyServiceStub]:
    """The gateway at a replica that lets a person have few keys."""
    del service
    few = settings.model_copy(update={"access_keys_per_person": MOST})
    async with running("auth", few, bootstrap) as bound:
        source = FileIdentitySource(identity("gateway"), "almagest.internal")
        channel = Channel(f"127.0.0.1:{bound.grpc_port}", service="auth", identity=source)
        yield AccessKeyServiceStub(channel)
        await channel.close()


def wanted(**changes: Any) -> wire.CreateAccessKeyRequest:
    fields = {"name": "till 4", "kind": HMAC, "command_id": str(uuid7())}
    return wire.CreateAccessKeyRequest(**{**fields, **changes})


def base_of(
    key_id: str, *, created: float | None = None, lasts: int = 60, tag: str = "almagest", alg: str = ""
) -> bytes:
    begin = int(time.time() if created is None else created)
    named = f';alg="{alg}"' if alg else ""
    text = (
        f'("@method");created={begin};expires={begin + lasts};nonce="{uuid7().hex}";keyid="{key_id}"{named};tag="{tag}"'
    )
    return f'"@method": GET\n"@signature-params": {text}'.encode()


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(RemoteProblem) as failure:
        await call
    return failure.value.code, failure.value.problem.reason


async def reason_of(call: Any) -> str | None:
    try:
        await call
    except RemoteProblem as problem:
        return problem.problem.reason
    return None


async def exchanged(keys, key: Key, base: bytes | None = None) -> wire.ExchangeAccessKeyResponse:
    base = base_of(key.key_id) if base is None else base
    return await keys.ExchangeAccessKey(wire.ExchangeAccessKeyRequest(signature_base=base, signature=key.signs(base)))


@pytest.fixture
def made(keys, acting):
    """Makes a key for the person who asks."""

    async def make(user: auth_pb2.User, **changes: Any) -> Key:
        answer = await keys.CreateAccessKey(wanted(**changes), metadata=await acting(user.email))
        return Key(answer.access_key.access_key_id, answer.access_key.kind, answer.secret)

    return make


@pytest.fixture
def by_key(keys):
    """Metadata of a request that a key has signed."""

    async def sign(key: Key) -> tuple[tuple[str, str], ...]:
        return (("txn-token", (await exchanged(keys, key)).transaction_token),)

    return sign


class TestMaking:
    async def test_a_key_lives_with_its_person_and_tells_its_secret_once(self, keys, newcomer, acting):
        """Its id carries its person's bucket; looking at it again shows everything else."""
        user = await newcomer(roles=[auth_pb2.ROLE_EDITOR])
        metadata = await acting(user.email)
        answer = await keys.CreateAccessKey(wanted(scopes=["catalog:read"]), metadata=metadata)
        assert len(answer.secret) == 32
        key = answer.access_key
        assert bucket_in(UUID(key.access_key_id)) == bucket_in(UUID(user.user_id))
        assert (key.user_id, list(key.scopes), key.kind) == (user.user_id, ["catalog:read"], HMAC)
        assert not key.HasField("last_used_at")
        assert key.expires_at.ToDatetime(UTC) - key.created_at.ToDatetime(UTC) == pytest.approx(
            timedelta(days=90), abs=timedelta(seconds=5)
        )
        shown = await keys.GetAccessKey(wire.GetAccessKeyRequest(access_key_id=key.access_key_id), metadata=metadata)
        assert shown.access_key == key
        listed = await keys.ListAccessKeys(wire.ListAccessKeysRequest(), metadata=metadata)
        assert list(listed.access_keys) == [key]

    async def test_a_secret_is_sealed_in_the_database_for_its_own_row(self, keys, newcomer, made, databases, parts):
        """The bytes are nowhere in the row, and do not open in the place of another key's."""
        user = await newcomer()
        one, other = await made(user), await made(user)
        rows: dict[str, Any] = {}
        for dsn in databases.owner:
            connection = await asyncpg.connect(dsn)
            for row in await connection.fetch("SELECT * FROM access_keys WHERE user_id = $1", UUID(user.user_id)):
                rows[str(row["id"])] = row
            await connection.close()
        sealed = rows[one.key_id]["sealed_secret"]
        assert not any(one.secret in value for value in rows[one.key_id].values() if isinstance(value, bytes))
        assert parts.key_encryption_key.unseal(sealed, context=f"access key {one.key_id}") == one.secret
        with pytest.raises(Exception, match="was changed after it was sealed"):
            parts.key_encryption_key.unseal(sealed, context=f"access key {other.key_id}")

    async def test_the_same_command_makes_one_key_and_tells_no_secret_twice(self, keys, newcomer, acting):
        """And with another request it is refused."""
        metadata = await acting((await newcomer()).email)
        request = wanted()
        first = await keys.CreateAccessKey(request, metadata=metadata)
        again = await keys.CreateAccessKey(request, metadata=metadata)
        assert (again.access_key, again.secret, again.replayed) == (first.access_key, b"", True)
        other = wanted(command_id=request.command_id, name="till 5")
        assert await refused(keys.CreateAccessKey(other, metadata=metadata)) == (
            grpc.StatusCode.FAILED_PRECONDITION, "COMMAND_REUSED",
        )  # fmt: skip

    async def test_a_person_has_few_keys_however_many_ask_at_once(self, keys, newcomer, acting):
        """Those that are good are counted; of a race no more than there is room for get one."""
        metadata = await acting((await newcomer()).email)
        answers = await asyncio.gather(
            *(keys.CreateAccessKey(wanted(), metadata=metadata) for _ in range(3 * MOST)), return_exceptions=True
        )
        good = [answer for answer in answers if not isinstance(answer, BaseException)]
        reasons = {answer.problem.reason for answer in answers if isinstance(answer, RemoteProblem)}
        assert (len(good), reasons) == (MOST, {"TOO_MANY_ACCESS_KEYS"})
        revoke = wire.RevokeAccessKeyRequest(access_key_id=good[0].access_key.access_key_id)
        await keys.RevokeAccessKey(revoke, metadata=metadata)
        await keys.CreateAccessKey(wanted(), metadata=metadata)

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"name": ""}, "name"),
            ({"kind": 0}, "kind"),
            ({"kind": 7}, "kind"),
            ({"public_key": b"x" * 32}, "public_key"),
            ({"kind": ED25519, "public_key": b"x" * 31}, "public_key"),
            ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires_at"),
            ({"expires_at": datetime(2999, 1, 1, tzinfo=UTC)}, "expires_at"),
            ({"command_id": "x"}, "command_id"),
        ],
    )
    async def test_wrong_fields_are_named(self, keys, newcomer, acting, changes, field):
        """With their names on the wire."""
        metadata = await acting((await newcomer()).email)
        with pytest.raises(RemoteProblem) as failure:
            await keys.CreateAccessKey(wanted(**changes), metadata=metadata)
        assert [violation.field for violation in failure.value.problem.violations] == [field]

    async def test_a_key_does_no_more_than_its_person(self, keys, newcomer, acting):
        """Neither than whoever asks: a narrowed token makes narrow keys."""
        user = await newcomer(roles=[auth_pb2.ROLE_EDITOR])
        refusal = (grpc.StatusCode.PERMISSION_DENIED, "SCOPES_NOT_HELD")
        too_much = wanted(scopes=["users:write"])
        assert await refused(keys.CreateAccessKey(too_much, metadata=await acting(user.email))) == refusal
        narrow = await acting(user.email, "catalog:read")
        assert await refused(keys.CreateAccessKey(wanted(scopes=["catalog:write"]), metadata=narrow)) == refusal
        made = await keys.CreateAccessKey(wanted(), metadata=narrow)
        assert list(made.access_key.scopes) == ["catalog:read"]


class TestOthers:
    async def test_people_do_not_see_the_keys_of_others(self, keys, newcomer, acting, made):
        """Whether there are any is not told either."""
        user, other = await newcomer(), await newcomer()
        key = await made(user)
        metadata = await acting(other.email)
        missing = (grpc.StatusCode.NOT_FOUND, "ACCESS_KEY_NOT_FOUND")
        for key_id in (key.key_id, str(uuid7())):
            for call in (
                keys.GetAccessKey(wire.GetAccessKeyRequest(access_key_id=key_id), metadata=metadata),
                keys.RevokeAccessKey(wire.RevokeAccessKeyRequest(access_key_id=key_id), metadata=metadata),
                keys.RotateAccessKey(
                    wire.RotateAccessKeyRequest(access_key_id=key_id, command_id=str(uuid7())), metadata=metadata
                ),
            ):
                assert await refused(call) == missing
        assert await refused(keys.CreateAccessKey(wanted(user_id=user.user_id), metadata=metadata)) == missing
        for user_id in (user.user_id, str(uuid7())):
            listing = keys.ListAccessKeys(wire.ListAccessKeysRequest(user_id=user_id), metadata=metadata)
            assert await refused(listing) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")

    async def test_an_admin_keeps_the_keys_of_others(self, keys, newcomer, acting, admin):
        """Made for them, with what they may do."""
        user = await newcomer()
        metadata = await acting(admin.email)
        made = await keys.CreateAccessKey(wanted(user_id=user.user_id), metadata=metadata)
        assert set(made.access_key.scopes) == {"catalog:read", "jobs:read"}
        listed = await keys.ListAccessKeys(wire.ListAccessKeysRequest(user_id=user.user_id), metadata=metadata)
        assert list(listed.access_keys) == [made.access_key]
        revoke = wire.RevokeAccessKeyRequest(access_key_id=made.access_key.access_key_id)
        assert (await keys.RevokeAccessKey(revoke, metadata=metadata)).access_key.HasField("revoked_at")

    async def test_a_key_keeps_itself_and_no_other(self, keys, newcomer, acting, made, by_key):
        """Whoever has stolen one makes no second with it, and replaces it by none that lives longer."""
        user = await newcomer()
        soon = datetime.now(UTC) + timedelta(days=2)
        key, other = await made(user, expires_at=soon), await made(user)
        metadata = await by_key(key)
        refusal = (grpc.StatusCode.PERMISSION_DENIED, "NOT_BY_ACCESS_KEY")
        revoke = wire.RevokeAccessKeyRequest(access_key_id=other.key_id)
        rotate = wire.RotateAccessKeyRequest(access_key_id=other.key_id, command_id=str(uuid7()))
        assert await refused(keys.CreateAccessKey(wanted(), metadata=metadata)) == refusal
        assert await refused(keys.RevokeAccessKey(revoke, metadata=metadata)) == refusal
        assert await refused(keys.RotateAccessKey(rotate, metadata=metadata)) == refusal
        itself = wire.RotateAccessKeyRequest(access_key_id=key.key_id, command_id=str(uuid7()))
        followed = await keys.RotateAccessKey(itself, metadata=metadata)
        assert followed.access_key.expires_at.ToDatetime(UTC) < soon + timedelta(minutes=1)

    async def test_a_lesser_key_of_an_admin_gets_hold_of_no_greater_one(self, keys, admin, made, by_key, acting):
        """With users:write alone it may not replace what may do more than it."""
        greater = await made(admin)
        lesser = await made(admin, scopes=["users:read", "users:write"])
        rotate = wire.RotateAccessKeyRequest(access_key_id=greater.key_id, command_id=str(uuid7()))
        refusal = await refused(keys.RotateAccessKey(rotate, metadata=await by_key(lesser)))
        assert refusal == (grpc.StatusCode.PERMISSION_DENIED, "SCOPES_NOT_HELD")
        for key in (greater, lesser):
            revoke = wire.RevokeAccessKeyRequest(access_key_id=key.key_id)
            await keys.RevokeAccessKey(revoke, metadata=await acting(admin.email))


class TestRotation:
    async def test_both_are_good_until_the_chosen_end(self, keys, newcomer, acting, made):
        """And the old one does not outlive it."""
        user = await newcomer()
        metadata = await acting(user.email)
        old = await made(user)
        until = datetime.now(UTC) + timedelta(seconds=1.5)
        rotate = wire.RotateAccessKeyRequest(access_key_id=old.key_id, command_id=str(uuid7()), old_until=until)
        answer = await keys.RotateAccessKey(rotate, metadata=metadata)
        new = Key(answer.access_key.access_key_id, answer.access_key.kind, answer.secret)
        assert new.secret != old.secret
        for key in (old, new):
            assert (await exchanged(keys, key)).transaction_token
        await asyncio.sleep((until - datetime.now(UTC)).total_seconds() + 0.01)
        assert await refused(exchanged(keys, old)) == (grpc.StatusCode.UNAUTHENTICATED, "ACCESS_KEY_NOT_VALID")
        assert (await exchanged(keys, new)).transaction_token
        again = await keys.RotateAccessKey(rotate, metadata=metadata)
        assert (again.access_key.access_key_id, again.secret, again.replayed) == (new.key_id, b"", True)

    async def test_without_an_overlap_the_old_one_ends_at_once(self, keys, newcomer, acting, made):
        """With its tokens; and what has ended is not rotated."""
        user = await newcomer()
        metadata = await acting(user.email)
        old = await made(user)
        rotate = wire.RotateAccessKeyRequest(access_key_id=old.key_id, command_id=str(uuid7()))
        await keys.RotateAccessKey(rotate, metadata=metadata)
        assert await refused(exchanged(keys, old)) == (grpc.StatusCode.UNAUTHENTICATED, "ACCESS_KEY_NOT_VALID")
        rotate.command_id = str(uuid7())
        assert await refused(keys.RotateAccessKey(rotate, metadata=metadata)) == (
            grpc.StatusCode.FAILED_PRECONDITION, "ACCESS_KEY_ENDED",
        )  # fmt: skip


class TestExchange:
    @pytest.mark.parametrize("kind", [HMAC, ED25519])
    async def test_a_signed_request_gets_a_token_with_the_scopes_of_its_key(self, keys, newcomer, made, service, kind):
        """It names its key; what the key may do less, the token may not; and the use is noted."""
        user = await newcomer(roles=[auth_pb2.ROLE_EDITOR])
        key = await made(user, kind=kind, scopes=["catalog:read", "jobs:read"])
        answer = await exchanged(keys, key)
        found = claims(answer.transaction_token)
        assert (found["sub"], found["key"], found["scope"]) == (user.user_id, key.key_id, "catalog:read jobs:read")
        assert "sid" not in found
        assert found["exp"] - found["iat"] <= 60
        metadata = (("txn-token", answer.transaction_token),)
        shown = await keys.GetAccessKey(wire.GetAccessKeyRequest(access_key_id=key.key_id), metadata=metadata)
        assert shown.access_key.last_used_at.ToDatetime(UTC) == pytest.approx(
            datetime.now(UTC), abs=timedelta(seconds=10)
        )

    async def test_a_public_key_of_the_clients_own_is_all_that_is_known(self, keys, newcomer, acting):
        """Nothing is told back, and what the client signs is taken."""
        private = Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        user = await newcomer()
        answer = await keys.CreateAccessKey(wanted(kind=ED25519, public_key=public), metadata=await acting(user.email))
        assert (answer.secret, answer.access_key.public_key) == (b"", public)
        key_id = answer.access_key.access_key_id
        material = await keys.GetVerificationKey(wire.GetVerificationKeyRequest(access_key_id=key_id))
        assert (material.kind, material.key) == (ED25519, public)
        assert await exchanged(keys, Key(key_id, ED25519, private.private_bytes_raw()))

    async def test_what_a_key_has_not_just_signed_is_exchanged_for_nothing(self, keys, newcomer, made):
        """So a gateway that was taken over has no tokens for keys that it has not heard of lately."""
        user = await newcomer()
        key, other = await made(user, kind=ED25519), await made(user, kind=ED25519)
        wrong = (grpc.StatusCode.UNAUTHENTICATED, "SIGNATURE_INVALID")
        good = base_of(key.key_id)
        for base, signature in (
            (good, other.signs(good)),
            (good, key.signs(good)[:-1] + b"\xff"),
            (good.replace(b"GET", b"PUT"), key.signs(good)),
            (good, b""),
            *(
                (base, key.signs(base))
                for base in (
                    base_of(key.key_id, created=time.time() - 400),
                    base_of(key.key_id, created=time.time() + 400),
                    base_of(key.key_id, lasts=400),
                    base_of(key.key_id, tag="other"),
                    base_of(key.key_id, alg="hmac-sha256"),
                    base_of("nobody"),
                    b"",
                    b"x" * 100_000,
                )
            ),
        ):
            call = keys.ExchangeAccessKey(wire.ExchangeAccessKeyRequest(signature_base=base, signature=signature))
            assert await refused(call) == wrong
        unknown = base_of(str(uuid7()))
        call = keys.ExchangeAccessKey(
            wire.ExchangeAccessKeyRequest(signature_base=unknown, signature=key.signs(unknown))
        )
        assert await refused(call) == (grpc.StatusCode.UNAUTHENTICATED, "ACCESS_KEY_NOT_VALID")

    async def test_a_revoked_key_and_its_tokens_are_worthless(self, keys, newcomer, made, acting, by_key):
        """The tokens that it had got, too, and revoking twice is no error; its secret is forgotten."""
        user = await newcomer()
        key = await made(user)
        metadata, mine = await by_key(key), await acting(user.email)
        revoke = wire.RevokeAccessKeyRequest(access_key_id=key.key_id)
        first = await keys.RevokeAccessKey(revoke, metadata=mine)
        assert await keys.RevokeAccessKey(revoke, metadata=mine) == first
        material = keys.GetVerificationKey(wire.GetVerificationKeyRequest(access_key_id=key.key_id))
        invalid = (grpc.StatusCode.UNAUTHENTICATED, "ACCESS_KEY_NOT_VALID")
        assert await refused(material) == invalid
        assert await refused(exchanged(keys, key)) == invalid
        listening = wire.GetAccessKeyRequest(access_key_id=key.key_id)
        async with asyncio.timeout(30):
            while (reason := await reason_of(keys.GetAccessKey(listening, metadata=metadata))) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert reason == "TOKEN_REVOKED"


@pytest.mark.parametrize("workload", ["auth", "catalog-command", "catalog-query", "event-store", "worker", "operator"])
async def test_only_the_gateway_asks_about_access_keys(service, identity, workload):
    """Nobody else gets a secret, or a token for one."""
    source = FileIdentitySource(identity(workload), "almagest.internal")
    channel = Channel(f"127.0.0.1:{service.port}", service="auth", identity=source)
    stub = AccessKeyServiceStub(channel)
    try:
        for call in (
            stub.CreateAccessKey(wire.CreateAccessKeyRequest()),
            stub.GetAccessKey(wire.GetAccessKeyRequest()),
            stub.ListAccessKeys(wire.ListAccessKeysRequest()),
            stub.RotateAccessKey(wire.RotateAccessKeyRequest()),
            stub.RevokeAccessKey(wire.RevokeAccessKeyRequest()),
            stub.GetVerificationKey(wire.GetVerificationKeyRequest()),
            stub.ExchangeAccessKey(wire.ExchangeAccessKeyRequest()),
        ):
            code, reason = await refused(call)
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert reason.startswith("CALLER_")
    finally:
        await channel.close()


async def test_keys_are_for_persons_who_are_known(keys, transaction_tokens):
    """Without a token, and with one that a stranger signed."""
    for metadata in ((), (("txn-token", transaction_tokens()),)):
        for call in (
            keys.CreateAccessKey(wanted(), metadata=metadata),
            keys.GetAccessKey(wire.GetAccessKeyRequest(access_key_id=str(uuid7())), metadata=metadata),
            keys.ListAccessKeys(wire.ListAccessKeysRequest(), metadata=metadata),
            keys.RotateAccessKey(wire.RotateAccessKeyRequest(access_key_id=str(uuid7())), metadata=metadata),
            keys.RevokeAccessKey(wire.RevokeAccessKeyRequest(access_key_id=str(uuid7())), metadata=metadata),
        ):
            assert (await refused(call))[0] is grpc.StatusCode.UNAUTHENTICATED
