"""Transaction tokens: what is taken, and everything that is not."""

import asyncio
import base64
import contextvars
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from chassis.caller import set_caller
from chassis.errors import PermissionDenied, Unauthenticated, Unavailable
from chassis.identity.spiffe import SpiffeId
from chassis.tokens import TokenVerifier, accept_tokens_of
from harness.tokens import TransactionTokens

GATEWAY = SpiffeId.of("gateway", "almagest.internal")


class Keys:
    """Publishes a JWK set, and counts how often it is asked."""

    def __init__(self, jwks: bytes) -> None:
        self.jwks = jwks
        self.asked = 0
        self.away = False

    async def __call__(self) -> bytes:
        self.asked += 1
        if self.away:
            raise OSError("auth is away")
        return self.jwks


Verify = Callable[[str], Awaitable[Any]]


@pytest.fixture
def keys(transaction_tokens: TransactionTokens) -> Keys:
    return Keys(transaction_tokens.jwks)


@pytest.fixture
def verifier(keys: Keys) -> TokenVerifier:
    """A verifier in the calls of the gateway."""
    set_caller(GATEWAY)
    return TokenVerifier(trust_domain="almagest.internal", fetch_jwks=keys)


async def test_a_good_token_gives_its_claims(verifier: TokenVerifier, transaction_tokens: TransactionTokens) -> None:
    """Subject, scopes, roles, transaction and asking workload are as signed."""
    claims = await verifier.verify(transaction_tokens(subject="anna", roles=("editor",), claims={"txn": "t1"}))
    assert (claims.subject, claims.transaction_id) == ("anna", "t1")
    assert claims.roles == {"editor"}
    assert "catalog:write" in claims.scopes
    assert claims.requesting_workload == GATEWAY
    claims.require("catalog:write", "catalog:read")
    with pytest.raises(PermissionDenied, match="users:write"):
        claims.require("catalog:read", "users:write")


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _parts(token: str) -> tuple[dict[str, Any], str, str]:
    header, payload, signature = token.split(".")
    return orjson.loads(base64.urlsafe_b64decode(header + "==")), payload, signature


def _without_algorithm(sign: TransactionTokens) -> str:
    header, payload, _ = _parts(sign())
    return f"{_b64(orjson.dumps(header | {'alg': 'none'}))}.{payload}."


def _hmac_with_the_public_key(sign: TransactionTokens) -> str:
    header, payload, _ = _parts(sign())
    signed = f"{_b64(orjson.dumps(header | {'alg': 'HS256'}))}.{payload}"
    public = base64.urlsafe_b64decode(orjson.loads(sign.jwks)["keys"][0]["x"] + "==")
    return f"{signed}.{_b64(hmac.new(public, signed.encode(), hashlib.sha256).digest())}"


def _with_another_payload(sign: TransactionTokens) -> str:
    mine, other = sign(roles=("viewer",)), sign(roles=("admin",))
    return ".".join((mine.split(".")[0], other.split(".")[1], mine.split(".")[2]))


def _now() -> int:
    return int(time.time())


@pytest.mark.parametrize(
    "forge",
    [
        lambda _sign: "",
        lambda _sign: "a.b.c",
        lambda _sign: "é.b.c",
        lambda _sign: "x" * 10_000,
        lambda sign: sign()[:-4],
        lambda sign: sign(lifetime=-1),
        lambda sign: sign(lifetime=61),
        lambda sign: sign(claims={"iat": _now() + 600, "exp": _now() + 630}),
        lambda sign: sign(claims={"nbf": _now() + 600}),
        lambda sign: sign(claims={"iat": None}),
        lambda sign: sign(claims={"exp": None}),
        lambda sign: sign(claims={"exp": "tomorrow"}),
        lambda sign: sign(claims={"exp": True}),
        lambda sign: sign(claims={"aud": "elsewhere.example"}),
        lambda sign: sign(claims={"aud": ["almagest.internal", "elsewhere.example"]}),
        lambda sign: sign(claims={"aud": None}),
        lambda sign: sign(claims={"sub": None}),
        lambda sign: sign(claims={"sub": 7}),
        lambda sign: sign(claims={"txn": ""}),
        lambda sign: sign(claims={"iss": None}),
        lambda sign: sign(claims={"scope": {"catalog": "read"}}),
        lambda sign: sign(claims={"req_wl": "spiffe://elsewhere.example/gateway"}),
        lambda sign: sign(claims={"req_wl": "gateway"}),
        lambda sign: sign(header={"typ": "JWT"}),
        lambda sign: sign(header={"typ": "at+jwt"}),
        lambda sign: sign(header={"typ": None}),
        lambda sign: sign(header={"kid": None}),
        lambda sign: sign(header={"kid": "somebody else's"}),
        lambda sign: sign(key=sign.stranger()),
        _without_algorithm,
        _hmac_with_the_public_key,
        _with_another_payload,
    ],
)
async def test_a_bad_token_is_refused(
    verifier: TokenVerifier, transaction_tokens: TransactionTokens, forge: Callable[[TransactionTokens], str]
) -> None:
    """Missing, mangled, forged, expired, too long-lived, meant for others or of another kind: all of them."""
    await verifier.verify(transaction_tokens())
    with pytest.raises(Unauthenticated):
        await verifier.verify(forge(transaction_tokens))


async def test_a_token_of_another_workload_is_refused_whether_it_was_seen_before_or_not(
    verifier: TokenVerifier, transaction_tokens: TransactionTokens
) -> None:
    """What was asked for by the gateway counts in its calls, and in those of who may pass it on; elsewhere not."""
    token, foreign = transaction_tokens(), transaction_tokens(workload="worker")

    async def refused(one: str) -> bool:
        try:
            await verifier.verify(one)
        except Unauthenticated as error:
            assert error.reason == "TOKEN_OF_ANOTHER"  # noqa: PT017 - no other refusal will do
            return True
        return False

    assert [await refused(foreign) for _ in range(2)] == [True, True]
    assert not await refused(token)
    set_caller(SpiffeId.of("worker", "almagest.internal"))
    assert [await refused(token) for _ in range(2)] == [True, True]
    assert not await refused(foreign)
    set_caller(SpiffeId.of("catalog-command", "almagest.internal"))
    accept_tokens_of(frozenset({"gateway"}))
    assert not await refused(token)
    assert await refused(foreign)


async def test_outside_a_call_no_token_counts(transaction_tokens: TransactionTokens, keys: Keys) -> None:
    """Nobody has shown it, so nobody is known to be entitled to."""
    verifier = TokenVerifier(trust_domain="almagest.internal", fetch_jwks=keys)
    token = transaction_tokens()
    nowhere = contextvars.Context()
    task = asyncio.get_running_loop().create_task(verifier.verify(token), context=nowhere)
    with pytest.raises(Unauthenticated) as refused:
        await task
    assert refused.value.reason == "TOKEN_OF_ANOTHER"


async def test_a_token_is_verified_once_and_refused_once_it_expires(
    verifier: TokenVerifier, transaction_tokens: TransactionTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was verified is remembered, but not beyond the end of the token."""
    token = transaction_tokens(lifetime=30)
    first = await verifier.verify(token)
    assert await verifier.verify(token) is first
    later = time.time() + 31
    monkeypatch.setattr("chassis.tokens.time.time", lambda: later)
    with pytest.raises(Unauthenticated) as expired:
        await verifier.verify(token)
    assert expired.value.reason == "TOKEN_EXPIRED"


async def test_many_at_once_ask_for_the_keys_once(
    verifier: TokenVerifier, keys: Keys, transaction_tokens: TransactionTokens
) -> None:
    """A cold start under load is one question to auth."""
    await asyncio.gather(*(verifier.verify(transaction_tokens()) for _ in range(50)))
    assert keys.asked == 1


async def test_unknown_keys_do_not_let_a_stranger_set_the_pace(
    verifier: TokenVerifier, keys: Keys, transaction_tokens: TransactionTokens
) -> None:
    """A flood of tokens with made-up key ids asks auth once in a while only."""
    await verifier.verify(transaction_tokens())
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await verifier.verify(transaction_tokens(header={"kid": f"made up {number}"}))
    assert keys.asked == 1


def _set_clock(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    """Stop the verifier's clock. Its own only: the event loop's timers, which other tests' servers wait for, go by the
    same function, and one that is set in a leap ahead is not heard of again.
    """
    monkeypatch.setattr("chassis.tokens.time", SimpleNamespace(monotonic=lambda: now, time=time.time))


async def test_a_new_key_is_found(keys: Keys, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """After auth has rotated its key, the first token signed with the new one is verified."""
    await _refusal(verifier, TransactionTokens()())
    rotated = TransactionTokens()
    keys.jwks = rotated.jwks
    later = time.monotonic() + 6
    _set_clock(monkeypatch, later)
    assert (await verifier.verify(rotated(subject="anna"))).subject == "anna"


async def _refusal(verifier: TokenVerifier, token: str) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(token)
    return refused.value


async def test_keys_that_cannot_be_had_are_not_the_persons_fault(
    verifier: TokenVerifier, keys: Keys, transaction_tokens: TransactionTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While auth is away nobody is told that their token is bad; known keys serve on."""
    keys.away = True
    with pytest.raises(Unavailable):
        await verifier.verify(transaction_tokens())
    keys.away = False
    soon = time.monotonic() + 1
    _set_clock(monkeypatch, soon)
    await verifier.verify(transaction_tokens())
    keys.away = True
    much_later = time.monotonic() + 1000
    _set_clock(monkeypatch, much_later)
    await verifier.verify(transaction_tokens())
    await asyncio.sleep(0)
    await verifier.verify(transaction_tokens())
