"""The profile of RFC 9421: what it reads is what an independent implementation writes, and there is one way to write it."""

import base64
import hmac
import secrets

import pytest
from chassis import signatures
from chassis.signatures import ED25519, HMAC_SHA256, SignatureMalformed, SignatureNotCurrent, VerificationKey
from hypothesis import given
from hypothesis import strategies as st

NONCE = "n" * 22
PARAMS = f'("@method" "@target-uri");created=1000;expires=1060;nonce="{NONCE}";keyid="key";tag="almagest"'
BYTES = base64.b64encode(bytes(range(32))).decode()


def read(text: str = PARAMS, encoded: str = BYTES) -> signatures.Signed:
    return signatures.read(f"sig1={text}".encode(), f"sig1=:{encoded}:".encode())[0]


def test_what_is_read_is_what_was_written():
    """And its own spelling is the last line of what is signed."""
    signed, signature = signatures.read(f"sig1={PARAMS}".encode(), f"sig1=:{BYTES}:".encode())
    assert signed.components == (b"@method", b"@target-uri")
    assert (signed.created, signed.expires, signed.nonce, signed.key_id, signed.algorithm) == (
        1000, 1060, NONCE, "key", None,
    )  # fmt: skip
    assert signature == bytes(range(32))
    base = signed.base({b"@method": b"GET", b"@target-uri": b"https://localhost/", b"other": b"x"})
    assert base == f'"@method": GET\n"@target-uri": https://localhost/\n"@signature-params": {PARAMS}'.encode()
    assert signatures.signed_by_base(base) == signed


def test_the_example_of_the_rfc_verifies():
    """RFC 9421, B.2.6, with its Ed25519 key."""
    public = base64.b64decode("JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")
    base = b'"date": Tue, 20 Apr 2021 02:07:55 GMT\n"@method": POST\n"@path": /foo\n"@authority": example.com\n"content-type": application/json\n"content-length": 18\n"@signature-params": ("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"'
    signature = base64.b64decode(
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    )
    key = VerificationKey(ED25519, public)
    assert key.verify(base, signature)
    assert not key.verify(base + b" ", signature)
    assert not key.verify(base, signature[:-1] + b"\0")
    assert not key.verify(base, b"")


def test_an_hmac_verifies_and_nothing_else_does():
    """Whatever its length."""
    secret = secrets.token_bytes(32)
    key = VerificationKey(HMAC_SHA256, secret)
    right = hmac.digest(secret, b"base", "sha256")
    assert key.verify(b"base", right)
    assert not any(key.verify(b"base", wrong) for wrong in (b"", right[:-1], right + b"\0", right[::-1]))
    assert secret.hex() not in repr(key)


@pytest.mark.parametrize(("kind", "key"), [("none", b"x" * 32), (HMAC_SHA256, b"short"), (ED25519, b"x" * 33)])
def test_a_key_of_another_kind_or_size_is_none(kind, key):
    """An empty secret would verify what anybody signs."""
    with pytest.raises(ValueError, match="key"):
        VerificationKey(kind, key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "()" + PARAMS[27:],
        PARAMS.replace('"@method" "@', '"@method"  "@'),
        PARAMS.replace('("', '( "'),
        PARAMS.replace('"@method"', "@method"),
        PARAMS.replace('"@method"', '"@Method"'),
        PARAMS.replace('"@method"', '"@method";req'),
        PARAMS.replace('"@method"', '"@query-param";name="x"'),
        PARAMS.replace('"@target-uri"', '"@method"'),
        PARAMS.replace('"@target-uri"', " ".join(f'"x{number}"' for number in range(40))),
        PARAMS.replace(";created=1000", ""),
        PARAMS.replace(";expires=1060", ""),
        PARAMS.replace(f';nonce="{NONCE}"', ""),
        PARAMS.replace(';keyid="key"', ""),
        PARAMS.replace(';tag="almagest"', ""),
        PARAMS.replace("almagest", "other"),
        PARAMS.replace("expires=1060", "expires=1301"),
        PARAMS.replace("expires=1060", "expires=1000"),
        PARAMS.replace("created=1000", "created=-1"),
        PARAMS.replace("created=1000", "created=1000.5"),
        PARAMS.replace("created=1000", 'created="1000"'),
        PARAMS.replace('keyid="key"', "keyid=1"),
        PARAMS.replace('keyid="key"', "keyid=key"),
        PARAMS.replace('keyid="key"', 'keyid="a\\"b"'),
        PARAMS.replace(NONCE, "n" * 15),
        PARAMS.replace(NONCE, "n" * 129),
        PARAMS.replace(NONCE, "n" * 20 + "\n"),
        PARAMS + ";created=1000",
        PARAMS + ";unknown=1",
        PARAMS + ";unknown",
        PARAMS + " ",
        PARAMS + ", sig2=" + PARAMS,
        PARAMS.replace(";created", "; created"),
    ],
)
def test_there_is_one_way_to_write_it(text):
    """Nothing is left out, named twice, of another type, or spelt otherwise."""
    with pytest.raises(SignatureMalformed):
        read(text)


@pytest.mark.parametrize(
    ("signature_input", "signature"),
    [
        (f"sig1={PARAMS}", f"sig2=:{BYTES}:"),
        (f"sig1={PARAMS}", ""),
        ("", f"sig1=:{BYTES}:"),
        (f"sig1={PARAMS}", f"sig1=:{BYTES}"),
        (f"sig1={PARAMS}", f"sig1={BYTES}"),
        (f"sig1={PARAMS}", f"sig1=:{BYTES}:, sig2=:{BYTES}:"),
        (f"sig1={PARAMS}", f"sig1=:{BYTES}:;x"),
        (f"sig1={PARAMS}", f"sig1=:{BYTES.replace('=', '')}:"),
        # The last character says two bits more than the 32 bytes have.
        (f"sig1={PARAMS}", f"sig1=:{BYTES.replace('8=', '9=')}:"),
        (f"sig1={PARAMS}", f"sig1=:{BYTES[:4]}\n{BYTES[4:]}:"),
    ],
)
def test_a_signature_has_one_spelling_too(signature_input, signature):
    """The two headers have one member each, of the same name, and base64 hides nothing."""
    assert BYTES.endswith("8=")
    with pytest.raises(SignatureMalformed):
        signatures.read(signature_input.encode(), signature.encode())


def test_what_is_signed_must_be_there_and_on_one_line():
    """A value with a line break could say the rest of the base itself."""
    signed = read()
    with pytest.raises(SignatureMalformed, match="@target-uri"):
        signed.base({b"@method": b"GET"})
    for hidden in (b'GET\n"@target-uri": https://other/', b"GET\r"):
        with pytest.raises(SignatureMalformed, match="line"):
            signed.base({b"@method": hidden, b"@target-uri": b"https://localhost/"})


@pytest.mark.parametrize(("now", "good"), [(994.9, False), (995, True), (1059.9, True), (1060, False)])
def test_it_is_good_for_its_time(now, good):
    """From its creation, by a clock that may be a little ahead of ours, until it expires."""
    if good:
        read().check_time(now, skew=5)
    else:
        with pytest.raises(SignatureNotCurrent):
            read().check_time(now, skew=5)


@given(st.binary(max_size=400), st.binary(max_size=100))
def test_anything_else_is_malformed_and_nothing_worse(signature_input, signature):
    """Whatever bytes come."""
    for call in (
        lambda: signatures.read(signature_input, signature),
        lambda: signatures.signed(signature_input),
        lambda: signatures.signed_by_base(signature_input),
        lambda: signatures.digest_of(signature),
    ):
        with pytest.raises(SignatureMalformed):
            call()


@given(st.integers(0, len(PARAMS) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_is_signed(position, bit):
    """The whole spelling is part of the base: what still can be read verifies no longer."""
    content = bytearray(PARAMS.encode())
    content[position] ^= 1 << bit
    try:
        changed = signatures.signed(bytes(content))
    except SignatureMalformed:
        return
    values = dict.fromkeys((*read().components, *changed.components), b"value")
    assert changed.base(values) != read().base(values)


@pytest.mark.parametrize(
    "value", ["", BYTES, f":{BYTES}:", f"sha-512=:{BYTES}:", "sha-256=:AAAA:", f"sha-256=:{BYTES}:, sha-512=:AAAA:"]
)
def test_a_digest_is_one_sha_256(value):
    """Others are not looked at, so none may come along."""
    assert signatures.digest_of(f"sha-256=:{BYTES}:".encode()) == bytes(range(32))
    with pytest.raises(SignatureMalformed):
        signatures.digest_of(value.encode())
