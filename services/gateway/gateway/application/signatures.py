"""Signed requests: whose key signed this, and was it signed for this, now, and only once?

What a request asks for is what its signature covers: a part that changes what happens must be covered if it is there.
Everything is looked at before the body is, and the nonce is claimed last, so that nobody uses up nonces but those who
hold the key.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from almagest.auth.v1 import access_keys_pb2
from chassis import signatures
from chassis.deadlines import set_deadline, timeout_for
from chassis.errors import RemoteProblem
from chassis.revocations import Revocation, Revocations, Revoked
from chassis.signatures import Signed, VerificationKey
from grpc import StatusCode

from gateway.application.nonces import Nonces, NoncesAway
from gateway.application.people import EXCHANGE_SECONDS, People
from gateway.application.ports import AccessKeys, Person

KEY_SECONDS: Final = 60.0
"""How long a key is used without being asked for anew."""
_UNKNOWN_SECONDS: Final = 2.0
_REMEMBERED_BEYOND: Final = 60.0
_MOST_KEYS = 10_000
_PURPOSE: Final = "signature"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_TARGET = (frozenset({b"@target-uri"}), frozenset({b"@authority", b"@path", b"@query"}))
BOUND: Final = frozenset(
    {b"content-digest", b"content-type", b"content-encoding", b"idempotency-key", b"if-match", b"almagest-encrypt-to"}
)
"""Headers that change what a request does: covered if they are there."""
_KINDS = {
    access_keys_pb2.ACCESS_KEY_KIND_HMAC_SHA256: signatures.HMAC_SHA256,
    access_keys_pb2.ACCESS_KEY_KIND_ED25519: signatures.ED25519,
}


_Fetch: TypeAlias = "asyncio.Task[tuple[VerificationKey | RemoteProblem, float]]"


class SignatureInvalid(Exception):
    """It does not prove what it would have to. The text says why."""


class SignatureExpired(Exception):
    """It is not good now. The text says why."""


class SignatureReplayed(Exception):
    """Its nonce came before."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came: what the server read of it, and its headers in their order."""

    method: str
    scheme: str
    raw_path: bytes
    query: bytes
    headers: Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Verified:
    """A request that a key has signed."""

    base: bytes
    signature: bytes
    key_id: str
    ends: float
    """When the signature does, in seconds since the epoch."""
    digest: bytes | None
    """The SHA-256 digest that its body must have; None: it must be empty."""


class Signatures:
    """Verifies signed requests."""

    def __init__(
        self,
        keys: AccessKeys,
        nonces: Nonces,
        people: People,
        *,
        revocations: Revocations,
        skew: float,
        reads_without_memory: bool,
    ) -> None:
        self._access_keys = keys
        self._nonces = nonces
        self._people = people
        self._revocations = revocations
        self._skew = skew
        self._reads_without_memory = reads_without_memory
        self._keys: OrderedDict[str, tuple[VerificationKey | RemoteProblem, float]] = OrderedDict()
        self._fetching: dict[str, _Fetch] = {}
        revocations.listen(self._heard)

    async def verify(self, asked: Asked) -> Verified:
        """See that a key has signed this request, and that it comes for the first time.

        Raises:
            SignatureInvalid, SignatureExpired, SignatureReplayed
            NoncesAway: whether it comes for the first time cannot be known.
            RemoteProblem: auth does not know the key, or cannot be asked.
        """
        values = _values(asked)
        try:
            signed, signature = signatures.read(values.get(b"signature-input", b""), values.get(b"signature", b""))
            _check_coverage(signed, values)
            digest = values.get(b"content-digest")
            expected = None if digest is None else signatures.digest_of(digest)
            base = signed.base(values)
        except signatures.SignatureMalformed as error:
            raise SignatureInvalid(str(error)) from None
        now = time.time()
        try:
            signed.check_time(now, skew=self._skew)
        except signatures.SignatureNotCurrent as error:
            raise SignatureExpired(str(error)) from None
        key = await self._key(signed.key_id)
        if signed.algorithm not in (None, key.kind):
            raise SignatureInvalid(f'The parameter alg must be that of the key: "{key.kind}".')
        if not key.verify(base, signature):
            raise SignatureInvalid("The signature does not match the request.")
        await self._claim(signed, now=now, safe=asked.method in _SAFE)
        return Verified(base, signature, signed.key_id, float(signed.expires), expected)

    async def person(self, verified: Verified) -> Person:
        """The person for whom a signed request is.

        Raises:
            RemoteProblem: auth does not vouch for the key any more, or cannot be asked.
        """
        return await self._people.vouched(
            f"key {verified.key_id}", lambda: self._access_keys.exchange(verified.base, verified.signature)
        )

    async def _claim(self, signed: Signed, *, now: float, safe: bool) -> None:
        try:
            first = await self._nonces.claim(
                _PURPOSE,
                f"{signed.key_id}:{signed.nonce}",
                seconds=signed.expires - now + _REMEMBERED_BEYOND,
                # What was claimed before the memory was lost must not be claimed again after it.
                since=signed.created - 2 * self._skew,
            )
        except NoncesAway:
            if safe and self._reads_without_memory:
                return
            raise
        if not first:
            raise SignatureReplayed

    async def _key(self, key_id: str) -> VerificationKey:
        found = self._keys.get(key_id)
        if found is None or time.monotonic() >= found[1]:
            if not _is_id(key_id):
                raise SignatureInvalid("The parameter keyid must be the id of an access key.")
            task = self._fetching.get(key_id)
            if task is None:
                # One for all who wait, in the trace of the first, but not with its deadline.
                task = asyncio.create_task(self._fetched(key_id))
                self._fetching[key_id] = task
                task.add_done_callback(lambda done: self._finished(key_id, done))
            async with asyncio.timeout(timeout_for(EXCHANGE_SECONDS)):
                found = await asyncio.shield(task)
        if isinstance(found[0], RemoteProblem):
            raise found[0]
        return found[0]

    async def _fetched(self, key_id: str) -> tuple[VerificationKey | RemoteProblem, float]:
        set_deadline(EXCHANGE_SECONDS)
        seconds = KEY_SECONDS
        try:
            answer = await self._access_keys.verification(key_id)
            key: VerificationKey | RemoteProblem = VerificationKey(_KINDS[answer.kind], answer.key)
            seconds = min(seconds, answer.expires_at.ToNanoseconds() / 1e9 - time.time())
        except RemoteProblem as problem:
            if problem.code is not StatusCode.UNAUTHENTICATED:
                raise
            # A stranger's ids must not make us ask auth at the stranger's rate.
            key, seconds = problem, _UNKNOWN_SECONDS
        found = (key, time.monotonic() + seconds)
        if not self._revocations.covers(Person("", "", 0, access_key_id=key_id)):
            self._keys[key_id] = found
            self._keys.move_to_end(key_id)
            while len(self._keys) > _MOST_KEYS:
                self._keys.popitem(last=False)
        return found

    def _finished(self, key_id: str, task: _Fetch) -> None:
        self._fetching.pop(key_id, None)
        if not task.cancelled():
            # Looked at, so that a failure that nobody waits for any more does not complain.
            task.exception()

    def _heard(self, revocation: Revocation) -> None:
        if revocation.kind is Revoked.ACCESS_KEY:
            self._keys.pop(revocation.id, None)


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _values(asked: Asked) -> dict[bytes, bytes]:
    """The values of all components that there are, with nothing for headers that came more than once: no two readers
    need agree on which of them counts.
    """
    values: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    for name, value in asked.headers:
        if name in values:
            repeated.add(name)
        values[name] = value.strip(b" \t")
    if repeated & BOUND or not repeated.isdisjoint((b"signature", b"signature-input", b"host")):
        raise SignatureInvalid("A header that is signed came more than once.")
    for name in repeated:
        del values[name]
    scheme, host = asked.scheme.encode(), values.get(b"host", b"").lower()
    if scheme == b"https":
        host = host.removesuffix(b":443")
    values[b"@method"] = asked.method.encode()
    values[b"@scheme"] = scheme
    values[b"@authority"] = host
    values[b"@path"] = asked.raw_path
    values[b"@query"] = b"?" + asked.query
    target = asked.raw_path + (values[b"@query"] if asked.query else b"")
    values[b"@request-target"] = target
    values[b"@target-uri"] = b"%b://%b%b" % (scheme, host, target)
    return values


def _check_coverage(signed: Signed, values: Mapping[bytes, bytes]) -> None:
    covered = frozenset(signed.components)
    if b"@method" not in covered or not any(target <= covered for target in _TARGET):
        raise SignatureInvalid('"@method" and "@target-uri" (or "@authority", "@path" and "@query") must be signed.')
    missing = sorted(name.decode() for name in BOUND if name in values and name not in covered)
    if missing:
        raise SignatureInvalid(f"These headers must be signed if they are there: {', '.join(missing)}.")
