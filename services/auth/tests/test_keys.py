"""Signing keys: sealed, shared by replicas, rotated without refusing what was signed before."""
# ruff: noqa: ASYNC110 - what becomes so is asked for until it is, within a deadline

import asyncio
import base64
import json
import os
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from almagest.auth.v1 import auth_pb2 as wire
from auth.adapters.jose import KeyForge, KeyRing
from auth.adapters.sealing import KeyEncryptionKey, KeyEncryptionKeyError
from auth.application.keys import ensure_keys, rotate_keys
from auth.bootstrap import assembled, bootstrap, now
from auth.domain.errors import InvalidAccessToken, NextKeyTooYoung
from auth.domain.keys import KeyState
from chassis.process import running
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import OKPKey


def ring(parts: Any, **changes: Any) -> KeyRing:
    fields: dict[str, Any] = {
        "keys": parts.signing_keys,
        "key_encryption_key": parts.key_encryption_key,
        "overlap": timedelta(minutes=20),
        "clock": now,
    }
    return KeyRing(**{**fields, **changes})


async def rows(databases: Any) -> list[list[Any]]:
    """What each shard's table of keys holds."""
    found: list[list[Any]] = []
    for dsn in databases.owner:
        connection = await asyncpg.connect(dsn)
        found.append(await connection.fetch("SELECT * FROM signing_keys ORDER BY state"))
        await connection.close()
    return found


async def test_replicas_that_start_at_once_agree_on_the_keys(fresh_settings, fresh_databases, calling):
    """One active and one next key, on the first shard only, and every replica publishes both."""
    async with (
        running("auth", fresh_settings, bootstrap) as first,
        running("auth", fresh_settings, bootstrap) as second,
        calling("gateway", first.grpc_port) as one,
        calling("gateway", second.grpc_port) as two,
    ):
        sets = [json.loads((await stub.GetJwks(wire.GetJwksRequest())).jwks) for stub in (one, two)]
    assert sets[0] == sets[1]
    assert len(sets[0]["keys"]) == 2
    home, other = await rows(fresh_databases)
    assert [row["state"] for row in home] == ["active", "next"]
    assert other == []


async def test_ten_first_starts_at_once_make_two_keys(fresh_settings, fresh_databases):
    """The advisory lock lets one make them."""
    async with assembled(fresh_settings) as parts:
        made = await asyncio.gather(
            *(ensure_keys(keys=parts.signing_keys, forge=parts.forge, clock=now) for _ in range(10))
        )
    assert all(keys == made[0] for keys in made)
    assert [len(keys) for keys in await rows(fresh_databases)] == [2, 0]


async def test_the_published_set_holds_public_halves_under_their_thumbprints(service):
    """RFC 7517 and 7638: nothing private, and the name is made from the key."""
    keys = json.loads((await service.gateway.GetJwks(wire.GetJwksRequest())).jwks)["keys"]
    for key in keys:
        assert key.keys() == {"kty", "crv", "x", "kid", "use", "alg"}
        assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("OKP", "Ed25519", "sig", "Ed25519")
        assert OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": key["x"]}).thumbprint() == key["kid"]


async def test_a_row_alone_signs_nothing(fresh_settings, fresh_databases):
    """The private key stands nowhere in it; only the key-encryption key opens it, and only in its own row."""
    async with assembled(fresh_settings) as parts:
        keys = await ensure_keys(keys=parts.signing_keys, forge=parts.forge, clock=now)
        key, other = keys
        private = parts.key_encryption_key.unseal(key.sealed_private_key, context=f"signing key {key.kid}")
        assert Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw() == key.public_key
        for row in (await rows(fresh_databases))[0]:
            assert all(private not in (value if isinstance(value, bytes) else str(value).encode()) for value in row)
        with pytest.raises(KeyEncryptionKeyError, match="changed"):
            parts.key_encryption_key.unseal(key.sealed_private_key, context=f"signing key {other.kid}")
        with pytest.raises(KeyEncryptionKeyError, match="sealed with"):
            KeyEncryptionKey(os.urandom(32)).unseal(key.sealed_private_key, context=f"signing key {key.kid}")


@pytest.mark.parametrize("position", [0, 1, 9, 21, -1])
def test_a_sealed_key_that_was_changed_does_not_open(position: int):
    """Not one bit of version, key id, nonce, content or tag."""
    key = KeyEncryptionKey(os.urandom(32))
    sealed = bytearray(key.seal(b"secret", context="c"))
    assert key.unseal(bytes(sealed), context="c") == b"secret"
    sealed[position] ^= 1
    with pytest.raises(KeyEncryptionKeyError):
        key.unseal(bytes(sealed), context="c")


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" * 9, b"\x01" * 20])
def test_a_truncated_sealed_key_does_not_open(sealed: bytes):
    """Nor does anything shorter."""
    with pytest.raises(KeyEncryptionKeyError):
        KeyEncryptionKey(bytes(32)).unseal(sealed, context="c")


def test_sealing_twice_gives_different_texts():
    """The nonce is fresh each time."""
    key = KeyEncryptionKey(bytes(32))
    assert key.seal(b"secret", context="c") != key.seal(b"secret", context="c")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot read"), (b"", "32 bytes"), (b"@@@", "not base64"), (base64.b64encode(bytes(31)), "32 bytes")],
)
def test_a_bad_key_file_is_named_and_not_shown(tmp_path, content: bytes | None, problem: str):
    """The error says which file and what is wrong."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyEncryptionKeyError, match=problem) as failure:
        KeyEncryptionKey.read(path)
    assert str(path) in str(failure.value)


async def test_another_key_encryption_key_keeps_the_service_from_starting(fresh_settings, tmp_path):
    """It says what to do, and signs with nothing."""
    async with running("auth", fresh_settings, bootstrap):
        pass
    other = tmp_path / "other"
    other.write_bytes(base64.b64encode(os.urandom(32)))
    with pytest.raises(KeyEncryptionKeyError, match="ALMAGEST_KEY_ENCRYPTION_KEY_FILE"):
        async with running("auth", fresh_settings.model_copy(update={"key_encryption_key_file": other}), bootstrap):
            pytest.fail("it started")


async def test_without_a_key_encryption_key_the_service_does_not_start(fresh_settings):
    """There is no default key."""
    with pytest.raises(KeyEncryptionKeyError, match="not set"):
        async with running("auth", fresh_settings.model_copy(update={"key_encryption_key_file": None}), bootstrap):
            pytest.fail("it started")


async def test_a_rotation_keeps_what_was_signed_before(fresh_settings):
    """The key that waited signs, a new one waits, the old one verifies until its overlap is over."""
    moment = now()
    async with assembled(fresh_settings) as parts:
        before = await ensure_keys(keys=parts.signing_keys, forge=parts.forge, clock=lambda: moment)
        keys = ring(parts, clock=lambda: moment)
        keys.take(before)
        token = keys.sign({"n": 1}, kind="x")
        waited = next(key.kid for key in before if key.state is KeyState.NEXT)

        minutes = timedelta(minutes=10)
        with pytest.raises(NextKeyTooYoung):
            await rotate_keys(keys=parts.signing_keys, forge=parts.forge, clock=lambda: moment, published_for=minutes)
        assert await parts.signing_keys.all() == before

        moment += minutes
        after = await rotate_keys(
            keys=parts.signing_keys, forge=parts.forge, clock=lambda: moment, published_for=minutes
        )
        keys.take(after)
        assert {key.state for key in after} == set(KeyState)
        renewed = keys.sign({"n": 2}, kind="x")
        header = json.loads(base64.urlsafe_b64decode(renewed.split(".")[0] + "=="))
        assert header["kid"] == waited
        assert keys.verify(token, kind="x") == {"n": 1}
        assert keys.verify(renewed, kind="x") == {"n": 2}
        assert len(json.loads(keys.jwks())["keys"]) == 3

        moment += timedelta(minutes=20)
        keys.take(after)
        with pytest.raises(InvalidAccessToken):
            keys.verify(token, kind="x")
        assert len(json.loads(keys.jwks())["keys"]) == 2


async def test_rotations_at_once_leave_one_key_of_each_state(fresh_settings, fresh_databases):
    """They happen one after the other."""
    async with assembled(fresh_settings) as parts:
        await ensure_keys(keys=parts.signing_keys, forge=parts.forge, clock=now)
        await asyncio.gather(
            *(
                rotate_keys(keys=parts.signing_keys, forge=parts.forge, clock=now, published_for=timedelta(0))
                for _ in range(4)
            )
        )
    assert [row["state"] for row in (await rows(fresh_databases))[0]] == ["active", "next", *["retired"] * 4]


async def test_a_running_service_follows_a_rotation_by_another(fresh_settings, calling):
    """Without a restart, and without forgetting the old key."""
    settings = fresh_settings.model_copy(update={"key_refresh_seconds": 0.05})
    async with running("auth", settings, bootstrap) as bound, calling("gateway", bound.grpc_port) as gateway:
        before = json.loads((await gateway.GetJwks(wire.GetJwksRequest())).jwks)["keys"]
        async with assembled(settings) as parts:
            await rotate_keys(keys=parts.signing_keys, forge=parts.forge, clock=now, published_for=timedelta(0))
        async with asyncio.timeout(10):
            while len(after := json.loads((await gateway.GetJwks(wire.GetJwksRequest())).jwks)["keys"]) < 3:
                await asyncio.sleep(0.02)
    assert all(key in after for key in before)


async def test_a_database_that_is_away_leaves_the_keys_that_we_have(parts):
    """The watch goes on, and takes the keys when it is back."""

    class Away:
        asked = 0

        async def all(self) -> Any:
            self.asked += 1
            if self.asked < 3:
                raise OSError("away")
            return stored

    stored = [KeyForge(parts.key_encryption_key).make(state, now=now()) for state in (KeyState.ACTIVE, KeyState.NEXT)]
    keys = ring(parts, keys=Away())
    watch = asyncio.create_task(keys.watch(0.001))
    try:
        async with asyncio.timeout(10):
            while not keys.jwks():
                await asyncio.sleep(0.001)
    finally:
        watch.cancel()
    assert keys.verify(keys.sign({"n": 1}, kind="x"), kind="x") == {"n": 1}
