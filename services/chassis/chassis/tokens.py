"""The person behind a call: transaction tokens, verified by every service for itself.

A transaction token (draft-ietf-oauth-transaction-tokens) lives 60 seconds at most and says on whose behalf a request
runs through the system. No service takes another's word for it. A verification costs about 130 microseconds, so a token
that was verified is remembered until it expires: proof costs one signature check per person and minute, not one per
call.

Nor is a token good in everybody's hands. It names the workload that asked auth for it, and counts in the calls of that
one alone, or by the ways on which the policy lets tokens be passed on (`Rule.tokens_of`). So what leaks from one
service is of no use to the next one.
"""

import asyncio
import base64
import contextvars
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import cast

import orjson
import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from chassis.caller import current_caller, current_method
from chassis.errors import DeadlineExceeded, PermissionDenied, Unauthenticated, Unavailable
from chassis.identity.spiffe import SpiffeId
from chassis.refusals import Refusals
from chassis.revocations import Revocations

ALGORITHM = "Ed25519"
TOKEN_TYPE = "txntoken+jwt"  # noqa: S105 - a media type
MAXIMUM_LIFETIME = 60.0
CLOCK_LEEWAY = 2.0
METADATA_KEY = "txn-token"

_MAXIMUM_TOKEN_BYTES = 4096
_JWKS_MAXIMUM_AGE = 300.0
_JWKS_MINIMUM_INTERVAL = 5.0
_JWKS_TIMEOUT = 5.0
_CACHE_SIZE = 10_000

_logger = structlog.stdlib.get_logger(__name__)
_person: ContextVar["Claims"] = ContextVar("person")
_passed_on: ContextVar[frozenset[str]] = ContextVar("passed_on", default=frozenset())


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified transaction token says."""

    subject: str
    scopes: frozenset[str]
    roles: frozenset[str]
    transaction_id: str
    expires_at: float
    """Seconds since the epoch."""
    token: str = field(repr=False)
    requesting_workload: SpiffeId
    session_id: str = ""
    """The session that it was given in; empty: none, as for a job's."""
    access_key_id: str = ""
    """The access key that signed the request; empty: none."""
    generation: int = 0
    """How often the person's rights had changed."""

    def require(self, *scopes: str) -> None:
        """See that the token has all the scopes.

        Raises:
            PermissionDenied: It lacks one.
        """
        missing = [scope for scope in scopes if scope not in self.scopes]
        if missing:
            raise PermissionDenied(
                f"This needs the scope {' and '.join(missing)}.",
                reason="SCOPE_MISSING",
                metadata={"scopes": " ".join(missing)},
            )


def current_person() -> Claims:
    """The verified person of this RPC.

    Raises:
        LookupError: The method asks for none, or this is no RPC.
    """
    return _person.get()


def person_or_none() -> Claims | None:
    """The verified person of this RPC, if there is one."""
    return _person.get(None)


def set_person(claims: Claims) -> None:
    """Make the rest of this task, and what it starts, act on behalf of a verified person."""
    _person.set(claims)


def accept_tokens_of(services: frozenset[str]) -> None:
    """Take, for the rest of this task, tokens that these services asked for, besides the caller's own."""
    _passed_on.set(services)


def revoked() -> Unauthenticated:
    """The answer to a token that was good before."""
    return _refused("TOKEN_REVOKED", "The transaction token was revoked: its session has ended, or its person changed.")


def _refused(reason: str, message: str) -> Unauthenticated:
    return Unauthenticated(message, reason=reason)


class TokenVerifier:
    """Verifies transaction tokens with the keys that auth publishes.

    `fetch_jwks` answers a JWK set as JSON. It is asked when a key id is unknown, at most once in five seconds, and when
    the keys are older than five minutes, in which case the old ones serve on while auth cannot be reached.
    """

    def __init__(
        self,
        *,
        trust_domain: str,
        fetch_jwks: Callable[[], Awaitable[bytes]],
        revocations: Revocations | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self.revocations = revocations or Revocations()
        self._refusals = refusals or Refusals()
        self._trust_domain = trust_domain
        self._fetch_jwks = fetch_jwks
        self._keys: dict[str, OKPKey] = {}
        self._fetched_at = -math.inf
        self._attempted_at = -math.inf
        self._fetching: asyncio.Task[None] | None = None
        self._verified: OrderedDict[str, Claims] = OrderedDict()

    async def verify(self, token: str) -> Claims:
        """The claims of a token.

        Raises:
            Unauthenticated: It is missing, forged, expired, revoked, not for us, not the caller's to show, or not of
                the kind that we take.
            Unavailable: The keys are needed and cannot be had.
        """
        claims = self._verified.get(token)
        if claims is not None:
            if claims.expires_at > time.time():
                if self.revocations.covers(claims):
                    raise revoked()
                self._check_way(claims)
                return claims
            self._verified.pop(token, None)
            raise _refused("TOKEN_EXPIRED", "The transaction token has expired.")
        if not token:
            raise _refused("TOKEN_MISSING", "The call carries no transaction token.")
        if len(token) > _MAXIMUM_TOKEN_BYTES:
            raise _refused("TOKEN_INVALID", "The transaction token is too long.")
        claims = await self._verify_anew(token)
        self._verified[token] = claims
        if len(self._verified) > _CACHE_SIZE:
            self._verified.popitem(last=False)
        if self.revocations.covers(claims):
            raise revoked()
        self._check_way(claims)
        return claims

    def _check_way(self, claims: Claims) -> None:
        """See that a token was asked for by who calls, or came by a way on which tokens are passed on."""
        asked_by = claims.requesting_workload.service  # of our trust domain, as the caller of every call let in
        try:
            caller = current_caller()
        except LookupError:
            pass  # nobody is known to have shown it
        else:
            if caller.service == asked_by or asked_by in _passed_on.get():
                return
            self._refusals.add(str(caller), current_method(), "TOKEN_OF_ANOTHER")
        raise _refused("TOKEN_OF_ANOTHER", "The transaction token was given to another workload than the caller.")

    async def _verify_anew(self, token: str) -> Claims:
        key = await self._key(_key_id(token))
        try:
            # The algorithm is ours to say, not the token's: `none`, and HMAC under the public key, end here.
            decoded = jwt.decode(token, key, algorithms=[ALGORITHM])
        except (JoseError, ValueError, TypeError) as error:
            raise _refused("TOKEN_INVALID", "The transaction token is not valid.") from error
        return self._checked(token, decoded.header, decoded.claims)

    def _checked(self, token: str, header: Mapping[str, object], claims: Mapping[str, object]) -> Claims:
        if str(header.get("typ", "")).lower().removeprefix("application/") != TOKEN_TYPE:
            raise _refused("TOKEN_INVALID", "The token is not a transaction token.")
        audience = claims.get("aud")
        if audience not in (self._trust_domain, [self._trust_domain]):
            raise _refused("TOKEN_INVALID", "The transaction token is meant for another trust domain.")
        now = time.time()
        issued, expires = _number(claims, "iat"), _number(claims, "exp")
        if expires <= now:
            raise _refused("TOKEN_EXPIRED", "The transaction token has expired.")
        if issued > now + CLOCK_LEEWAY or ("nbf" in claims and _number(claims, "nbf") > now + CLOCK_LEEWAY):
            raise _refused("TOKEN_INVALID", "The transaction token is not valid yet.")
        if expires - issued > MAXIMUM_LIFETIME:
            raise _refused("TOKEN_INVALID", f"The transaction token lives longer than {MAXIMUM_LIFETIME:g} seconds.")
        _text(claims, "iss")
        workload = _text(claims, "req_wl")
        try:
            requesting_workload = SpiffeId.parse(workload)
        except ValueError:
            requesting_workload = None
        if requesting_workload is None or requesting_workload.trust_domain != self._trust_domain:
            raise _refused("TOKEN_INVALID", "The transaction token was not asked for by one of our workloads.")
        return Claims(
            subject=_text(claims, "sub"),
            scopes=_names(claims, "scope"),
            roles=_names(claims, "roles"),
            transaction_id=_text(claims, "txn"),
            expires_at=expires,
            token=token,
            requesting_workload=requesting_workload,
            session_id=_text(claims, "sid") if "sid" in claims else "",
            access_key_id=_text(claims, "key") if "key" in claims else "",
            generation=int(_number(claims, "gen")) if "gen" in claims else 0,
        )

    async def _key(self, key_id: str) -> OKPKey:
        now = time.monotonic()
        key = self._keys.get(key_id)
        if key is not None:
            if now - self._fetched_at > _JWKS_MAXIMUM_AGE and now - self._attempted_at > _JWKS_MINIMUM_INTERVAL:
                self._begin_fetch(now)
            return key
        # A stranger's key ids must not make us ask auth at the stranger's rate.
        if self._fetching is None and now - self._attempted_at > _JWKS_MINIMUM_INTERVAL:
            self._begin_fetch(now)
        if self._fetching is not None:
            try:
                async with asyncio.timeout(_JWKS_TIMEOUT):
                    await asyncio.shield(self._fetching)
            except TimeoutError as error:
                raise DeadlineExceeded from error
        key = self._keys.get(key_id)
        if key is not None:
            return key
        if not self._keys:
            raise Unavailable(
                "The keys that verify people's tokens cannot be had at the moment.", reason="KEYS_UNAVAILABLE"
            )
        raise _refused("TOKEN_INVALID", "The transaction token is signed by an unknown key.")

    def _begin_fetch(self, now: float) -> None:
        # In a context of its own: it serves all callers, with nobody's deadline, person or trace.
        self._attempted_at = now
        self._fetching = asyncio.get_running_loop().create_task(self._fetch(), context=contextvars.Context())

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(_JWKS_TIMEOUT):
                jwks = orjson.loads(await self._fetch_jwks())
            keys = {
                key.kid: key
                for key in KeySet.import_key_set(jwks).keys
                if isinstance(key, OKPKey)
                and key.kid
                and key.get("crv") == ALGORITHM
                and key.get("use", "sig") == "sig"
            }
        except Exception as error:  # noqa: BLE001 - the caller sees that the key is missing; the reason belongs in the log
            # The next caller may try again soon: only answers, not failures, are spaced out by the full interval.
            self._attempted_at = time.monotonic() - _JWKS_MINIMUM_INTERVAL + 0.5
            _logger.warning("the keys for transaction tokens cannot be had", problem=str(error))
        else:
            self._keys = keys
            self._fetched_at = time.monotonic()
        finally:
            self._fetching = None


def _key_id(token: str) -> str:
    try:
        encoded = token.split(".", 1)[0]
        header = orjson.loads(_base64url(encoded))
        if header.get("alg") != ALGORITHM:
            raise _refused("TOKEN_INVALID", f"The transaction token is not signed with {ALGORITHM}.")
        key_id = header.get("kid")
    except (ValueError, AttributeError) as error:
        raise _refused("TOKEN_INVALID", "The transaction token is not a JWT.") from error
    if not isinstance(key_id, str) or not key_id:
        raise _refused("TOKEN_INVALID", "The transaction token does not name its key.")
    return key_id


def _base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _number(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refused("TOKEN_INVALID", f"The transaction token has no valid {name}.")
    return float(value)


def _text(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise _refused("TOKEN_INVALID", f"The transaction token has no {name}.")
    return value


def _names(claims: Mapping[str, object], name: str) -> frozenset[str]:
    value = claims.get(name, "")
    if isinstance(value, str):
        return frozenset(value.split())
    if isinstance(value, list):
        entries = cast("list[object]", value)
        if all(isinstance(entry, str) for entry in entries):
            return frozenset(str(entry) for entry in entries)
    raise _refused("TOKEN_INVALID", f"The transaction token has no valid {name}.")
