"""Keys of payloads: sealed, one pair per suite, renewed while what was encrypted before still opens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import grpc
import pytest
from almagest.auth.v1 import payload_keys_pb2 as wire
from almagest.auth.v1 import payload_keys_pb2_grpc
from auth.application.payload_keys import ensure_payload_keys, renew_payload_keys, rotate_payload_keys
from auth.bootstrap import assembled, now
from auth.domain.errors import NextKeyTooYoung
from auth.domain.keys import KeyState
from chassis.errors import RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.payloads import PrivateKey, Suite
from chassis.rpc.channel import Channel

STATES = [KeyState.ACTIVE, KeyState.NEXT]


async def test_ten_first_starts_at_once_make_one_pair_per_suite(fresh_settings, fresh_databases):
    """On the first shard, whose rows hold no secret in the clear."""
    async with assembled(fresh_settings) as parts:
        await asyncio.gather(*(ensure_payload_keys(parts.payload_kinds, clock=now) for _ in range(10)))
        keys = await parts.payload_keys.all()
    assert sorted((key.suite, key.state) for key in keys) == sorted(
        (suite, state) for suite in Suite for state in STATES
    )
    secrets = [parts.key_encryption_key.unseal(k.sealed_private_key, context=f"payload key {k.kid}") for k in keys]
    home, other = [await _rows(dsn) for dsn in fresh_databases.owner]
    assert len(home) == len(keys)
    assert other == []
    for row in home:
        assert all(secret not in bytes(row["sealed_private_key"]) for secret in secrets)


@asynccontextmanager
async def _keys_as(workload: str, port: int, identity: Any) -> AsyncIterator[Any]:
    channel = Channel(
        f"127.0.0.1:{port}", service="auth", identity=FileIdentitySource(identity(workload), "almagest.internal")
    )
    try:
        yield payload_keys_pb2_grpc.PayloadKeyServiceStub(channel)
    finally:
        await channel.close()


async def _rows(dsn: str) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch("SELECT * FROM payload_keys")
    finally:
        await connection.close()


@pytest.mark.parametrize("workload", ["catalog-query", "worker", "operator"])
async def test_nobody_but_a_gateway_gets_keys(service, identity, workload):
    """They hold secrets."""
    async with _keys_as(workload, service.port, identity) as stub:
        with pytest.raises(RemoteProblem) as refused:
            await stub.ListPayloadKeys(wire.ListPayloadKeysRequest())
    assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_gateway_gets_keys_whose_ids_are_their_thumbprints(service, identity):
    """Each with its secret, of every suite."""
    async with _keys_as("gateway", service.port, identity) as stub:
        keys = (await stub.ListPayloadKeys(wire.ListPayloadKeysRequest())).keys
    assert {(key.suite, key.state) for key in keys} >= {
        (suite.value, state)
        for suite in Suite
        for state in (wire.PAYLOAD_KEY_STATE_ACTIVE, wire.PAYLOAD_KEY_STATE_NEXT)
    }
    for key in keys:
        assert PrivateKey(Suite(key.suite), key.secret).public.key_id == key.key_id


async def test_keys_are_renewed_when_they_were_used_for_long_enough(fresh_settings):
    """The one that waited is used, another waits, and the old one is kept as retired."""
    moment = now()
    life, young = timedelta(days=30), timedelta(minutes=10)
    async with assembled(fresh_settings) as parts:
        kinds = parts.payload_kinds

        async def renew() -> dict[str, KeyState]:
            await renew_payload_keys(kinds, clock=lambda: moment, lifetime=life, published_for=young)
            return {key.kid: key.state for key in await parts.payload_keys.all()}

        await ensure_payload_keys(kinds, clock=lambda: moment)
        first = await renew()
        with pytest.raises(NextKeyTooYoung):
            await rotate_payload_keys(kinds, clock=lambda: moment, published_for=young)
        moment += life - timedelta(seconds=1)
        assert await renew() == first
        moment += timedelta(seconds=1)
        second = await renew()
        for kid, state in first.items():
            assert second[kid] == (KeyState.RETIRED if state is KeyState.ACTIVE else KeyState.ACTIVE)
        assert len(second) == len(first) + len(Suite)
        moment += life - timedelta(seconds=1)
        assert await renew() == second
        moment += timedelta(seconds=1)
        assert sum(state is KeyState.RETIRED for state in (await renew()).values()) == 2 * len(Suite)
