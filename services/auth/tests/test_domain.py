"""Ids, sessions, claims and keys, as pure functions."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from auth.domain import claims
from auth.domain.errors import (
    AccessTokenExpired,
    InvalidAccessToken,
    InvalidRefreshToken,
    NextKeyTooYoung,
    ScopesNotHeld,
)
from auth.domain.identifiers import bucket_in, stamped
from auth.domain.keys import KeyState, Rotation, SigningKey, decide_first_keys, decide_rotation, published
from auth.domain.people import Role, User
from auth.domain.sessions import Session, Verdict, hashed, judge, refresh_token, session_of
from chassis.buckets import BUCKETS
from chassis.ids import uuid7
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
IDLE = timedelta(days=2)
ISSUER = "spiffe://almagest.internal/auth"


@given(st.integers(min_value=0, max_value=BUCKETS - 1))
def test_a_stamped_id_carries_its_bucket_and_stays_a_uuid7(bucket: int):
    """Any bucket goes in and comes out, and version, variant and time are untouched."""
    fresh = uuid7()
    made = stamped(fresh, bucket)
    assert bucket_in(made) == bucket
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == fresh.int >> 80


@pytest.mark.parametrize("bucket", [-1, BUCKETS])
def test_a_bucket_out_of_range_is_refused(bucket: int):
    """There are 1024 buckets, as many as ten bits can name."""
    with pytest.raises(ValueError, match="between"):
        stamped(uuid7(), bucket)


def session(**changes: object) -> Session:
    fields: dict[str, object] = {
        "id": uuid7(),
        "user_id": uuid7(),
        "token_hash": b"current",
        "started_at": NOW - timedelta(hours=1),
        "expires_at": NOW + timedelta(hours=1),
    }
    return Session(**{**fields, **changes})


@pytest.mark.parametrize(
    ("presented", "used", "changes", "verdict"),
    [
        (b"current", False, {}, Verdict.CONTINUES),
        (b"earlier", True, {}, Verdict.REUSED),
        (b"guessed", False, {}, Verdict.FOREIGN),
        (b"current", False, {"expires_at": NOW}, Verdict.OVER),
        (b"current", False, {"revoked_at": NOW}, Verdict.OVER),
        (b"earlier", True, {"revoked_at": NOW}, Verdict.OVER),
        (b"guessed", False, {"revoked_at": NOW}, Verdict.FOREIGN),
        (b"current", False, {"started_at": NOW - IDLE}, Verdict.OVER),
        (b"current", False, {"started_at": NOW - IDLE, "refreshed_at": NOW - IDLE / 2}, Verdict.CONTINUES),
        (b"current", False, {"started_at": NOW - 2 * IDLE, "refreshed_at": NOW - IDLE}, Verdict.OVER),
        (b"earlier", True, {"started_at": NOW - IDLE}, Verdict.OVER),
    ],
)
def test_refresh_tokens_are_judged(presented: bytes, used: bool, changes: dict[str, object], verdict: Verdict):  # noqa: FBT001
    """The last token continues, an earlier one is reuse, a guess is nothing, and a session that is over stays so."""
    assert judge(session(**changes), presented=presented, used_before=used, idle_limit=IDLE, now=NOW) is verdict


def test_a_refresh_token_names_its_session():
    """The session, and with it the shard, is read from the token."""
    session_id = uuid7()
    token = refresh_token(session_id, "s" * 43)
    assert session_of(token) == session_id
    assert len(hashed(token)) == 32


@pytest.mark.parametrize(
    "token",
    ["", "x", ".", "a" * 32 + "." + "b" * 42, "A" * 32 + "." + "b" * 43, "a" * 32 + "." + "b" * 43 + "\n", "é" * 76],
)
def test_what_does_not_look_like_a_refresh_token_is_refused(token: str):
    """Nothing is asked of a database about it."""
    with pytest.raises(InvalidRefreshToken):
        session_of(token)


USER = User(
    id=stamped(uuid7(), 7),
    email="ada@example.org",
    first_name="Ada",
    last_name="Lovelace",
    roles=frozenset({Role.EDITOR, Role.VIEWER}),
    created_at=NOW,
)


def access(**changes: object) -> claims.Claims:
    made = claims.access_claims(
        USER, session_id=uuid7(), issuer=ISSUER, token_id=uuid7(), issued_at=NOW, expires_at=NOW + timedelta(minutes=10)
    )
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def test_access_claims_are_read_back():
    """What is written is what is read."""
    read = claims.read_access(access(), issuer=ISSUER, now=NOW)
    assert read.user_id == USER.id


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iss", "spiffe://almagest.internal/gateway"),
        ("iss", None),
        ("aud", "almagest.internal"),
        ("aud", ["almagest"]),
        ("aud", None),
        ("exp", None),
        ("exp", "2026"),
        ("exp", True),
        ("exp", float("inf")),
        ("iat", None),
        ("sub", None),
        ("sub", "ada"),
        ("sub", 7),
        ("sid", None),
        ("sid", "x"),
    ],
)
def test_claims_that_are_not_an_access_token_s_are_refused(name: str, value: object):
    """Each claim that we rely on must be there, ours, and of its type."""
    with pytest.raises(InvalidAccessToken):
        claims.read_access(access(**{name: value}), issuer=ISSUER, now=NOW)


def test_an_access_token_ends_with_its_last_second():
    """There is no leeway: issuer and verifier are the same service."""
    with pytest.raises(AccessTokenExpired):
        claims.read_access(access(), issuer=ISSUER, now=NOW + timedelta(minutes=10))


def test_scopes_only_narrow():
    """No name: all that are held. A name: it, if it is held. One that is not held: refused, and named."""
    held = frozenset({"catalog:read", "jobs:read"})
    assert claims.narrowed(held, []) == held
    assert claims.narrowed(held, ["jobs:read"]) == {"jobs:read"}
    with pytest.raises(ScopesNotHeld) as refusal:
        claims.narrowed(held, ["jobs:read", "users:write", "catalog:write"])
    assert refusal.value.scopes == ("catalog:write", "users:write")


def test_a_transaction_token_lives_for_a_minute_at_most():
    """Whatever the settings say."""
    made = claims.transaction_claims(
        USER,
        scopes=USER.scopes,
        issuer=ISSUER,
        trust_domain="almagest.internal",
        transaction_id=uuid7(),
        requesting_workload="spiffe://almagest.internal/gateway",
        issued_at=NOW,
        lifetime=timedelta(hours=1),
    )
    assert made["exp"] == made["iat"] + 60
    assert made["scope"] == "catalog:read catalog:write jobs:read jobs:write"
    assert made["roles"] == ["editor", "viewer"]
    assert "job_id" not in made


def key(kid: str, state: KeyState, **changes: object) -> SigningKey:
    fields: dict[str, object] = {
        "kid": kid,
        "public_key": b"",
        "sealed_private_key": b"",
        "state": state,
        "created_at": NOW - timedelta(days=1),
    }
    return SigningKey(**{**fields, **changes})


def test_the_first_start_makes_two_keys_and_the_second_none():
    """One signs, one waits; deciding again changes nothing."""
    assert decide_first_keys([]) == Rotation(make=(KeyState.ACTIVE, KeyState.NEXT))
    assert decide_first_keys([key("a", KeyState.ACTIVE), key("b", KeyState.NEXT)]) == Rotation()


def test_a_rotation_retires_activates_and_makes():
    """Retired keys stay as they are."""
    keys = [key("o", KeyState.RETIRED, retired_at=NOW), key("a", KeyState.ACTIVE), key("b", KeyState.NEXT)]
    rotation = decide_rotation(keys, now=NOW, published_for=timedelta(minutes=10))
    assert rotation == Rotation(retire=("a",), activate=("b",), make=(KeyState.NEXT,))


def test_a_key_that_nobody_can_know_yet_does_not_sign():
    """It has to be published first, for as long as verifiers cache."""
    keys = [key("a", KeyState.ACTIVE), key("b", KeyState.NEXT, created_at=NOW - timedelta(minutes=9))]
    with pytest.raises(NextKeyTooYoung):
        decide_rotation(keys, now=NOW, published_for=timedelta(minutes=10))


def test_retired_keys_stay_published_for_the_overlap():
    """What they signed last can still be verified."""
    keys = [
        key("gone", KeyState.RETIRED, retired_at=NOW - timedelta(minutes=20)),
        key("kept", KeyState.RETIRED, retired_at=NOW - timedelta(minutes=19)),
        key("a", KeyState.ACTIVE),
        key("b", KeyState.NEXT),
    ]
    assert [each.kid for each in published(keys, now=NOW, overlap=timedelta(minutes=20))] == ["kept", "a", "b"]
