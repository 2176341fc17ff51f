"""The fixtures that other tests stand on."""

import asyncio

import asyncpg
import orjson
import pytest
from harness.tokens import TransactionTokens
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import KeySet
from redis.asyncio import Redis


async def test_a_fresh_database_is_empty_and_belongs_to_the_owner(postgres):
    """Each call gives another database; a service's role gets in, and may do nothing yet."""
    first, second = postgres.create_database(), postgres.create_database()
    assert first != second
    owner = await asyncpg.connect(first)
    await owner.execute("CREATE TABLE things (id int)")
    service = await asyncpg.connect(postgres.service_dsn(first, "event_store"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.fetch("SELECT * FROM things")
    await service.close()
    assert await owner.fetchval("SHOW fsync") == "off"
    await owner.close()
    other = await asyncpg.connect(second)
    assert await other.fetch("SELECT FROM pg_tables WHERE schemaname = 'public'") == []
    await asyncio.wrap_future(postgres.drop_database(second))
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
        await other.execute("SELECT 1")
    other.terminate()


async def test_valkey_answers_at_its_url(valkey):
    """redis-py connects with the URL alone."""
    async with Redis.from_url(valkey.url) as redis:
        assert await redis.ping()


def test_an_identity_directory_holds_what_cert_manager_would_write(identity):
    """The three files of a workload's identity, the same at each call."""
    directory = identity("worker")
    assert {path.name for path in directory.iterdir()} == {"tls.crt", "tls.key", "ca.crt"}
    assert identity("worker") == directory


def test_transaction_tokens_verify_with_their_key_set_and_can_be_forged(transaction_tokens):
    """Usual claims by default, any claim and header replaced or left out, any key."""
    keys = KeySet.import_key_set(orjson.loads(transaction_tokens.jwks))
    assert "d" not in orjson.loads(transaction_tokens.jwks)["keys"][0]
    token = jwt.decode(transaction_tokens(subject="me", roles=["viewer"]), keys, algorithms=["Ed25519"])
    assert token.header["typ"] == "txntoken+jwt"
    assert token.claims["scope"] == "catalog:read jobs:read"
    assert token.claims["exp"] - token.claims["iat"] == 60
    forged = jwt.decode(
        transaction_tokens(claims={"aud": None, "iss": "me"}, header={"typ": "JWT"}), keys, algorithms=["Ed25519"]
    )
    assert "aud" not in forged.claims
    assert (forged.claims["iss"], forged.header["typ"]) == ("me", "JWT")
    with pytest.raises(BadSignatureError):
        jwt.decode(transaction_tokens(key=TransactionTokens.stranger()), keys, algorithms=["Ed25519"])
