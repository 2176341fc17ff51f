"""Signed requests (RFC 9421): a profile with one way to write everything, so that what is signed is what is acted on.

The RFC lets a signer choose much. Each choice that does not matter to us is one more way to make two readers see two
things, so here there are none: one signature, plain components each named once, one spelling of the parameters (that of
the serialisation in RFC 9651, 4.1, which every library writes), base64 with nothing hidden in its last bits. See
docs/adr/0031.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TAG: Final = "almagest"
LONGEST_SECONDS: Final = 300
"""How long a signature may be good for."""
HMAC_SHA256: Final = "hmac-sha256"
ED25519: Final = "ed25519"
KEY_BYTES: Final = 32
_LARGEST_BASE = 64 * 1024
_MOST_COMPONENTS = 32
_KNOWN_LISTS = 128
_LABELLED = re.compile(rb"([a-z*][a-z0-9_.*-]{0,63})=(.*)", re.DOTALL)
_COMPONENT = rb"\"@?[a-z0-9!#$%&'*+.^_`|~-]+\""
_INPUT = re.compile(
    rb"\((" + _COMPONENT + rb"(?: " + _COMPONENT + rb")*)\)((?:;[a-z]+=(?:[0-9]{1,12}|\"[ !#-\[\]-~]*\"))+)"
)
_PARAMETER = re.compile(r";([a-z]+)=(?:([0-9]+)|\"([^\"]*)\")")
_SIGNATURE = re.compile(rb":([A-Za-z0-9+/]+={0,2}):")
_NONCE = re.compile(r"[A-Za-z0-9+/_=-]{16,128}")
_NUMBERS = frozenset({"created", "expires"})
_TEXTS = frozenset({"nonce", "keyid", "tag", "alg"})
_REQUIRED = (_NUMBERS | _TEXTS) - {"alg"}
_PARAMS = b'"@signature-params": '


class SignatureMalformed(ValueError):
    """It is no signature of this profile. The text says why, to whoever wrote it."""


class SignatureNotCurrent(ValueError):
    """It is not yet good, or not any more."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature says of itself. `text` is its spelling, which is signed, too."""

    components: tuple[bytes, ...]
    created: int
    expires: int
    nonce: str
    key_id: str
    algorithm: str | None
    text: bytes = field(repr=False)

    def check_time(self, now: float, *, skew: float) -> None:
        """See that it is good at a moment, for a clock that may be wrong by `skew` seconds.

        Raises:
            SignatureNotCurrent
        """
        if self.created > now + skew:
            raise SignatureNotCurrent("The signature was created in the future.")
        if self.expires <= now:
            raise SignatureNotCurrent("The signature has expired.")

    def base(self, values: Mapping[bytes, bytes]) -> bytes:
        """What is signed (RFC 9421, 2.5), of the values of the components.

        Raises:
            SignatureMalformed: A component is not there.
        """
        lines: list[bytes] = []
        for name in self.components:
            value = values.get(name)
            if value is None:
                raise SignatureMalformed(f"{name.decode()} is signed, and is not in the request.")
            if b"\n" in value or b"\r" in value:
                raise SignatureMalformed(f"{name.decode()} has more than one line.")
            lines.append(b'"%b": %b\n' % (name, value))
        return b"".join(lines) + _PARAMS + self.text


class VerificationKey:
    """Verifies signatures of one key."""

    __slots__ = ("_key", "kind")

    def __init__(self, kind: str, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        if kind not in (HMAC_SHA256, ED25519):
            raise ValueError(f"{kind!r} is no kind of key")
        self.kind = kind
        self._key = (
            hmac.new(key, digestmod="sha256") if kind == HMAC_SHA256 else Ed25519PublicKey.from_public_bytes(key)
        )

    def __repr__(self) -> str:
        return f"VerificationKey({self.kind})"

    def verify(self, base: bytes, signature: bytes) -> bool:
        """Whether this key signed it."""
        if isinstance(self._key, hmac.HMAC):
            # Not hmac.digest, which gives up the interpreter's lock: to get it back among busy threads costs many times
            # what there is to compute.
            keyed = self._key.copy()
            keyed.update(base)
            return hmac.compare_digest(keyed.digest(), signature)
        try:
            self._key.verify(signature, base)
        except InvalidSignature:
            return False
        return True


def read(signature_input: bytes, signature: bytes) -> tuple[Signed, bytes]:
    """What the headers Signature-Input and Signature say, and the signature itself.

    Raises:
        SignatureMalformed
    """
    labelled, named = _LABELLED.fullmatch(signature_input), _LABELLED.fullmatch(signature)
    if labelled is None or named is None or labelled[1] != named[1]:
        raise SignatureMalformed("Signature-Input and Signature must have one member each, with the same label.")
    encoded = _SIGNATURE.fullmatch(named[2])
    if encoded is None:
        raise SignatureMalformed("Signature must be bytes in base64, between colons.")
    return signed(labelled[2]), _decoded(encoded[1])


def signed(text: bytes) -> Signed:
    """What the value of `@signature-params` says.

    Raises:
        SignatureMalformed
    """
    match = _INPUT.fullmatch(text)
    if match is None:
        raise SignatureMalformed(
            "Signature-Input must be a list of plain component names, each in quotes with one space between, then "
            "parameters without spaces (RFC 9651, 4.1)."
        )
    components = _components(match[1])
    found: dict[str, str] = {}
    for name, number, quoted in _PARAMETER.findall(match[2].decode()):
        if name in found or name not in (_NUMBERS if number else _TEXTS):
            raise SignatureMalformed(f"The parameter {name} is unknown, comes twice, or is of the wrong type.")
        found[name] = number or quoted
    if not found.keys() >= _REQUIRED:
        raise SignatureMalformed(f"Signature-Input lacks the parameters {', '.join(sorted(_REQUIRED - found.keys()))}.")
    if found["tag"] != TAG:
        raise SignatureMalformed(f'The parameter tag must be "{TAG}".')
    if _NONCE.fullmatch(found["nonce"]) is None:
        raise SignatureMalformed("The parameter nonce must have 16 to 128 characters of base64.")
    created, expires = int(found["created"]), int(found["expires"])
    if not created < expires <= created + LONGEST_SECONDS:
        raise SignatureMalformed(f"A signature expires after it was created, at most {LONGEST_SECONDS} seconds later.")
    return Signed(
        components=components,
        created=created,
        expires=expires,
        nonce=found["nonce"],
        key_id=found["keyid"],
        algorithm=found.get("alg"),
        text=text,
    )


@lru_cache(maxsize=_KNOWN_LISTS)
def _components(listed: bytes) -> tuple[bytes, ...]:
    """The names of a list: nearly all that come are the same few."""
    components = tuple(name.strip(b'"') for name in listed.split(b" "))
    if len(components) > _MOST_COMPONENTS or len(set(components)) != len(components):
        raise SignatureMalformed(f"At most {_MOST_COMPONENTS} components are signed, each once.")
    return components


def signed_by_base(base: bytes) -> Signed:
    """What a signature base says of its signature.

    Raises:
        SignatureMalformed
    """
    _, marker, text = base.rpartition(b"\n" + _PARAMS)
    if not marker or len(base) > _LARGEST_BASE:
        raise SignatureMalformed("This is no signature base.")
    return signed(text)


def _decoded(encoded: bytes) -> bytes:
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise SignatureMalformed("The base64 is not valid.") from None
    if base64.b64encode(decoded) != encoded:
        # The bits that padding leaves over are zero, or the same signature could be spelt in many ways.
        raise SignatureMalformed("The base64 is not in its one valid form.")
    return decoded


def digest_of(field_value: bytes) -> bytes:
    """The SHA-256 digest that a Content-Digest header (RFC 9530) tells.

    Raises:
        SignatureMalformed: It is not exactly one of that kind.
    """
    name, _, rest = field_value.partition(b"=")
    encoded = _SIGNATURE.fullmatch(rest)
    if name != b"sha-256" or encoded is None:
        raise SignatureMalformed("Content-Digest must be sha-256=:...:, with the digest in base64.")
    digest = _decoded(encoded[1])
    if len(digest) != KEY_BYTES:
        raise SignatureMalformed("A SHA-256 digest has 32 bytes.")
    return digest
