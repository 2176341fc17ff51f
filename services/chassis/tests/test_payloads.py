"""Payloads that only the holder of a key can read."""

import base64

import orjson
import pytest
from chassis.payloads import InvalidPayload, PrivateKey, PublicKey, Suite, header_of, seal, unseal
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import OKPKey
from joserfc.registry import HeaderParameter

SUITES = pytest.mark.parametrize("suite", list(Suite))
KEYS = {suite: PrivateKey.generate(suite) for suite in Suite}


@SUITES
@given(plaintext=st.binary(max_size=3000))
def test_what_is_sealed_opens(suite: Suite, plaintext: bytes) -> None:
    """Any bytes; the header says which key, and what the sender said."""
    key = KEYS[suite]
    message = seal(plaintext, key.public, {"jti": "1", "htm": "POST"})
    assert unseal(message, key) == plaintext
    header = header_of(message)
    assert (header["kid"], header["jti"], header["htm"]) == (key.public.key_id, "1", "POST")


@SUITES
def test_nothing_of_the_plaintext_shows_and_no_two_messages_are_alike(suite: Suite) -> None:
    """Fresh keys each time."""
    key = KEYS[suite].public
    first, second = (seal(b"ada@example.com", key, {}) for _ in range(2))
    assert first != second
    assert b"ada@example.com" not in first
    assert base64.urlsafe_b64encode(b"ada@example.com").rstrip(b"=") not in first


@SUITES
@given(data=st.data())
def test_a_message_that_was_changed_anywhere_does_not_open(suite: Suite, data: st.DataObject) -> None:
    """Any one character, replaced, dropped or doubled, the header's included."""
    key = KEYS[suite]
    message = seal(b'{"email":"ada@example.com"}', key.public, {"htu": "/v1/users"})
    at = data.draw(st.integers(0, len(message) - 1))
    other = data.draw(st.sampled_from(b"ABCxyz019-_.="))
    how = data.draw(st.sampled_from(["replace", "drop", "double", "cut"]))
    changed = {
        "replace": message[:at] + bytes([other]) + message[at + 1 :],
        "drop": message[:at] + message[at + 1 :],
        "double": message[:at] + message[at : at + 1] + message[at:],
        "cut": message[:at],
    }[how]
    if changed == message:
        return
    with pytest.raises(InvalidPayload):
        unseal(changed, key)


@SUITES
def test_a_message_for_another_key_or_of_another_suite_does_not_open(suite: Suite) -> None:
    """A key is good for one suite."""
    message = seal(b"{}", KEYS[suite].public, {})
    with pytest.raises(InvalidPayload):
        unseal(message, PrivateKey.generate(suite))
    for other in set(Suite) - {suite}:
        with pytest.raises(InvalidPayload):
            unseal(message, KEYS[other])


@SUITES
def test_a_key_is_published_and_read_again(suite: Suite) -> None:
    """As a JWK, whose id is its thumbprint."""
    public = KEYS[suite].public
    jwk = public.jwk()
    assert PublicKey.of_jwk(jwk) == public
    assert jwk["use"] == "enc"
    assert jwk["kid"] == public.key_id
    assert KEYS[suite].secret not in repr(KEYS[suite]).encode()


def test_the_thumbprint_and_the_message_are_those_of_the_standard() -> None:
    """Another implementation agrees, in both directions (RFC 7638, RFC 7516)."""
    key = KEYS[Suite.JWE]
    theirs = OKPKey.import_key(
        {
            "kty": "OKP",
            "crv": "X25519",
            "x": key.public.jwk()["x"],
            "d": base64.urlsafe_b64encode(key.secret).rstrip(b"=").decode(),
        }
    )
    assert theirs.thumbprint() == key.public.key_id
    assert jwe.decrypt_compact(seal(b"x", key.public, {}), theirs, algorithms=["ECDH-ES", "A256GCM"]).plaintext == b"x"
    sent = jwe.encrypt_compact({"alg": "ECDH-ES", "enc": "A256GCM"}, b"y", theirs)
    assert unseal(sent.encode(), key) == b"y"


@pytest.mark.parametrize(
    "protected",
    [
        {"alg": "ECDH-ES", "enc": "A128GCM"},
        {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"},
        {"alg": "ECDH-ES", "enc": "A256GCM", "zip": "DEF"},
        {"alg": "ECDH-ES", "enc": "A256GCM", "crit": ["exp"], "exp": 1},
    ],
)
def test_other_algorithms_compression_and_what_must_be_understood_are_refused(protected: dict[str, object]) -> None:
    """The message does not choose."""
    key = KEYS[Suite.JWE]
    theirs = OKPKey.import_key({"kty": "OKP", "crv": "X25519", "x": key.public.jwk()["x"]})
    registry = jwe.JWERegistry(
        {"exp": HeaderParameter("expires", "int")},
        algorithms=["ECDH-ES", "ECDH-ES+A256KW", "A128GCM", "A256GCM", "DEF"],
    )
    message = jwe.encrypt_compact(protected, b"{}", theirs, registry=registry).encode()
    with pytest.raises(InvalidPayload):
        unseal(message, key)


@pytest.mark.parametrize(
    "jwk",
    [
        None,
        [],
        {},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
        {"kty": "OKP", "crv": "X25519", "x": "AAAA"},
        {"kty": "OKP", "crv": "X25519", "x": 7},
        {"kty": "OKP", "crv": "X25519", "x": "A" * 42 + "!"},
        {"kty": "AKP", "alg": Suite.HPKE.value, "pub": "AAAA"},
        {"kty": "AKP", "alg": "ML-KEM-768", "pub": "AAAA"},
        {"kty": "RSA", "n": "AAAA", "e": "AQAB"},
    ],
)
def test_what_is_no_key_of_ours_is_refused(jwk: object) -> None:
    """Of whichever shape."""
    with pytest.raises(InvalidPayload):
        PublicKey.of_jwk(jwk)


def test_a_private_key_is_not_taken_for_a_public_one() -> None:
    """Who sends it has lost it."""
    secret = X25519PrivateKey.generate()
    encoded = base64.urlsafe_b64encode(secret.public_key().public_bytes_raw()).rstrip(b"=").decode()
    with pytest.raises(InvalidPayload, match="private"):
        PublicKey.of_jwk({"kty": "OKP", "crv": "X25519", "x": encoded, "d": encoded})


def test_an_all_zero_key_is_refused() -> None:
    """A point of small order gives a secret that everybody knows (RFC 7748, 6.1)."""
    with pytest.raises(InvalidPayload):
        seal(b"{}", PublicKey(Suite.JWE, bytes(32)), {})


@pytest.mark.parametrize("message", [b"", b".", b"e30", b"!!!.x", b"W10.x", b"A" * 9000, b"\xff\xfe.x", b"e30=.x"])
def test_a_header_that_is_none_is_refused(message: bytes) -> None:
    """Or one of the wrong length, or spelled otherwise."""
    if message == b"e30":
        assert header_of(message) == {}
        return
    with pytest.raises(InvalidPayload):
        header_of(message)


@given(
    changes=st.dictionaries(
        st.sampled_from(["alg", "enc", "epk", "apu", "apv", "kid", "cty", "crit", "zip", "typ", "jwk", "b64"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.sampled_from(["X25519", "OKP"]),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["kty", "crv", "x", "d"]), inner, max_size=4)
            ),
            max_leaves=6,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_header_of_any_shape_is_refused_in_one_way(changes: dict[str, object]) -> None:
    """Whatever a stranger writes into it."""
    key = KEYS[Suite.JWE]
    encoded, _, rest = seal(b"{}", key.public, {"jti": "1"}).partition(b".")
    header = orjson.loads(base64.urlsafe_b64decode(encoded + b"=="))
    changed = base64.urlsafe_b64encode(orjson.dumps({**header, **changes})).rstrip(b"=")
    if changed == encoded:
        return
    with pytest.raises(InvalidPayload):
        unseal(changed + b"." + rest, key)
