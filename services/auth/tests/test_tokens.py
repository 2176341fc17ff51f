"""Access tokens are exchanged for transaction tokens; everything else that looks like a token is not."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import grpc
import pytest
from almagest.auth.v1 import auth_pb2 as wire
from chassis.caller import set_caller
from chassis.errors import RemoteProblem, Unauthenticated
from chassis.identity.spiffe import SpiffeId
from chassis.ids import uuid7
from chassis.tokens import TokenVerifier
from joserfc import jws
from joserfc.jwk import OKPKey


def encoded(part: object) -> str:
    content = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token, unverified."""
    header, payload = (json.loads(base64.urlsafe_b64decode(part + "===")) for part in token.split(".")[:2])
    return header, payload


async def exchange(service: Any, token: str, *scopes: str) -> wire.ExchangeTokenResponse:
    return await service.gateway.ExchangeToken(wire.ExchangeTokenRequest(access_token=token, scopes=scopes))


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(RemoteProblem) as failure:
        await call
    return failure.value.code, failure.value.problem.reason


@pytest.fixture
def verifier(service: Any) -> TokenVerifier:
    """What every other service verifies with, in calls of the gateway."""
    set_caller(SpiffeId.of("gateway", "almagest.internal"))

    async def fetch() -> bytes:
        return (await service.worker.GetJwks(wire.GetJwksRequest())).jwks

    return TokenVerifier(trust_domain="almagest.internal", fetch_jwks=fetch)


async def test_every_service_can_verify_a_transaction_token(service, newcomer, log_in, verifier):
    """It says who, with which scopes and roles, on which workload's request, for a minute at most."""
    user = await newcomer(roles=[wire.ROLE_EDITOR])
    answer = await exchange(service, (await log_in(user)).access_token)
    claims = await verifier.verify(answer.transaction_token)
    assert claims.subject == user.user_id
    assert claims.scopes == {"catalog:read", "catalog:write", "jobs:read", "jobs:write"}
    assert claims.roles == {"editor"}
    assert str(claims.requesting_workload) == "spiffe://almagest.internal/gateway"
    assert claims.expires_at == answer.expires_at.seconds
    assert claims.expires_at <= time.time() + 60
    header, payload = read(answer.transaction_token)
    assert header["typ"] == "txntoken+jwt"
    assert payload["iss"] == "spiffe://almagest.internal/auth"
    assert payload["aud"] == "almagest.internal"
    assert payload["exp"] - payload["iat"] == 60


async def test_each_exchange_is_a_transaction_of_its_own(service, newcomer, log_in, verifier):
    """Their ids differ."""
    tokens = await log_in(await newcomer())
    answers = [await exchange(service, tokens.access_token) for _ in range(2)]
    ids = {(await verifier.verify(answer.transaction_token)).transaction_id for answer in answers}
    assert len(ids) == 2


async def test_scopes_narrow_and_never_widen(service, newcomer, log_in, verifier):
    """A viewer's token can be had for less than a viewer may do, not for more."""
    tokens = await log_in(await newcomer())
    narrow = await exchange(service, tokens.access_token, "catalog:read")
    assert (await verifier.verify(narrow.transaction_token)).scopes == {"catalog:read"}
    for scopes in (("catalog:read", "catalog:write"), ("users:write",), ("*",), ("",)):
        assert await refusal(exchange(service, tokens.access_token, *scopes)) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "SCOPES_NOT_HELD",
        )


def forge(name: str, genuine: str, public: dict[str, Any], transaction: str) -> str:
    """A token that must not pass."""
    head, body, signature = genuine.split(".")
    header, claims = read(genuine)
    stranger = OKPKey.generate_key("Ed25519")

    def signed(head: dict[str, Any], body: dict[str, Any], key: OKPKey = stranger) -> str:
        registry = jws.JWSRegistry(algorithms=["Ed25519", "EdDSA"], strict_check_header=False)
        return jws.serialize_compact(head, json.dumps(body).encode(), key, registry=registry)

    def with_public_key_as_secret(algorithm: str, secret: bytes) -> str:
        message = f"{encoded({**header, 'alg': algorithm})}.{body}"
        return f"{message}.{encoded(hmac.new(secret, message.encode(), hashlib.sha256).digest())}"

    raw = base64.urlsafe_b64decode(public["x"] + "=")
    forgeries: dict[str, Callable[[], str]] = {
        "empty": lambda: "",
        "garbage": lambda: "a.b.c",
        "no text": lambda: "\x00",
        "endless": lambda: "a" * 100_000,
        "alg none": lambda: f"{encoded({'alg': 'none', 'typ': 'at+jwt'})}.{body}.",
        "alg none, key named": lambda: f"{encoded({**header, 'alg': 'none'})}.{body}.",
        "alg None with signature": lambda: f"{encoded({**header, 'alg': 'None'})}.{body}.{signature}",
        "HS256 with the public key": lambda: with_public_key_as_secret("HS256", raw),
        "HS256 with the public JWK": lambda: with_public_key_as_secret("HS256", json.dumps(public).encode()),
        "another key": lambda: signed(header, claims),
        "another key, which it brings along": lambda: signed(
            {**header, "jwk": stranger.as_dict(private=False)}, claims
        ),
        "another key, of its own name": lambda: signed({**header, "kid": stranger.thumbprint()}, claims),
        "no key named": lambda: signed({key: value for key, value in header.items() if key != "kid"}, claims),
        "another name for the algorithm": lambda: f"{encoded({**header, 'alg': 'EdDSA'})}.{body}.{signature}",
        "changed claims": lambda: f"{head}.{encoded({**claims, 'roles': ['admin']})}.{signature}",
        "changed header": lambda: f"{encoded({**header, 'x': 1})}.{body}.{signature}",
        "no signature": lambda: f"{head}.{body}.",
        "a transaction token": lambda: transaction,
    }
    return forgeries[name]()


@pytest.mark.parametrize(
    "name",
    [
        "empty", "garbage", "no text", "endless", "alg none", "alg none, key named", "alg None with signature", "HS256 with the public key",
        "HS256 with the public JWK", "another key", "another key, which it brings along", "another key, of its own name", "no key named",
        "another name for the algorithm", "changed claims", "changed header", "no signature", "a transaction token",
    ],
)  # fmt: skip
async def test_a_forged_access_token_is_refused(service, newcomer, log_in, name: str):
    """Whatever is wrong with it, the answer is the same."""
    genuine = (await log_in(await newcomer())).access_token
    keys = json.loads((await service.gateway.GetJwks(wire.GetJwksRequest())).jwks)["keys"]
    public = next(key for key in keys if key["kid"] == read(genuine)[0]["kid"])
    transaction = (await exchange(service, genuine)).transaction_token
    assert await refusal(exchange(service, forge(name, genuine, public, transaction))) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "INVALID_ACCESS_TOKEN",
    )


@pytest.mark.parametrize(
    ("header", "claims", "reason"),
    [
        ({}, {}, None),
        ({}, {"exp": 1}, "ACCESS_TOKEN_EXPIRED"),
        ({}, {"aud": "almagest.internal"}, "INVALID_ACCESS_TOKEN"),
        ({}, {"aud": "other"}, "INVALID_ACCESS_TOKEN"),
        ({}, {"iss": "spiffe://almagest.internal/gateway"}, "INVALID_ACCESS_TOKEN"),
        ({}, {"sid": str(uuid7())}, "SESSION_ENDED"),
        ({}, {"sub": str(uuid7())}, "INVALID_ACCESS_TOKEN"),
        ({"typ": "JWT"}, {}, "INVALID_ACCESS_TOKEN"),
        ({"typ": "txntoken+jwt"}, {}, "INVALID_ACCESS_TOKEN"),
        ({"typ": None}, {}, "INVALID_ACCESS_TOKEN"),
        ({"crit": ["x"], "x": 1}, {}, "INVALID_ACCESS_TOKEN"),
    ],
)
async def test_what_our_own_key_signed_for_something_else_is_refused(
    service, newcomer, log_in, parts, header, claims, reason
):
    """A right signature is not enough: kind, audience, issuer, time, session and person must fit.

    The first case shows that the forge works.
    """
    genuine = (await log_in(await newcomer())).access_token
    head, body = read(genuine)
    stored = next(key for key in await parts.signing_keys.all() if key.kid == head["kid"])
    private = parts.key_encryption_key.unseal(stored.sealed_private_key, context=f"signing key {stored.kid}")
    key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": encoded(stored.public_key), "d": encoded(private)})
    merged = {name: value for name, value in {**head, **header}.items() if value is not None}
    message = f"{encoded(merged)}.{encoded({**body, **claims})}"
    signature = key.private_key.sign(message.encode())  # type: ignore[union-attr]
    token = f"{message}.{encoded(signature)}"
    if reason is None:
        assert (await exchange(service, token)).transaction_token
    else:
        assert await refusal(exchange(service, token)) == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def set_roles(databases: Any, user: wire.User, *roles: str) -> None:
    for dsn in databases.owner:
        connection = await asyncpg.connect(dsn)
        await connection.execute("UPDATE users SET roles = $1 WHERE id = $2", list(roles), user.user_id)
        await connection.close()


async def test_roles_are_those_that_the_person_has_now(service, newcomer, log_in, verifier, databases, monkeypatch):
    """An access token from better days gives no more than its person may do today."""
    monkeypatch.setattr("auth.adapters.postgres._RECENT_SECONDS", 0.0)
    user = await newcomer(roles=[wire.ROLE_ADMIN])
    tokens = await log_in(user)
    await set_roles(databases, user, "viewer")
    claims = await verifier.verify((await exchange(service, tokens.access_token)).transaction_token)
    assert claims.roles == {"viewer"}
    assert claims.scopes == {"catalog:read", "jobs:read"}


def delegation(user_id: str, *scopes: str, job_id: str | None = None) -> wire.DelegateTokenRequest:
    return wire.DelegateTokenRequest(user_id=user_id, job_id=job_id or str(uuid7()), scopes=scopes)


async def test_the_worker_acts_for_the_submitter_of_a_job(service, newcomer, verifier):
    """With the scopes that it names and no others; the token says for which job."""
    user = await newcomer(roles=[wire.ROLE_EDITOR])
    request = delegation(user.user_id, "catalog:write")
    answer = await service.worker.DelegateToken(request)
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(answer.transaction_token)
    assert refused.value.reason == "TOKEN_OF_ANOTHER"
    set_caller(SpiffeId.of("worker", "almagest.internal"))
    claims = await verifier.verify(answer.transaction_token)
    assert claims.subject == user.user_id
    assert claims.scopes == {"catalog:write"}
    assert read(answer.transaction_token)[1]["job_id"] == request.job_id


async def test_a_job_stops_when_its_submitter_may_no_longer_do_it(service, newcomer, databases):
    """The role taken away, or the person gone."""
    user = await newcomer(roles=[wire.ROLE_EDITOR])
    await service.worker.DelegateToken(delegation(user.user_id, "catalog:write"))
    await set_roles(databases, user, "viewer")
    denied = (grpc.StatusCode.PERMISSION_DENIED, "SCOPES_NOT_HELD")
    assert await refusal(service.worker.DelegateToken(delegation(user.user_id, "catalog:write"))) == denied
    for dsn in databases.owner:
        connection = await asyncpg.connect(dsn)
        await connection.execute("DELETE FROM users WHERE id = $1", user.user_id)
        await connection.close()
    gone = (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
    assert await refusal(service.worker.DelegateToken(delegation(user.user_id, "catalog:read"))) == gone


async def test_a_delegation_names_person_job_and_scopes(service, newcomer):
    """None of them is left to be guessed."""
    user = await newcomer()
    for request in (
        delegation(user.user_id),
        delegation("x", "catalog:read"),
        delegation(user.user_id, "catalog:read", job_id="x"),
    ):
        assert (await refusal(service.worker.DelegateToken(request)))[0] is grpc.StatusCode.INVALID_ARGUMENT
