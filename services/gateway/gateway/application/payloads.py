"""Encrypted payloads at the door: with which keys requests open, and that each of them is good once and soon.

Anybody can encrypt to a published key, so opening proves nothing about who sent a message; that is for tokens and
signatures to say. What it proves is that nobody in between has read it or put it together from others: the protected
header names method and target, when it was made, and an id that is taken once.
"""

import asyncio
import contextvars
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson
import structlog
from chassis.errors import ChassisError
from chassis.payloads import Header, InvalidPayload, PrivateKey, Suite, header_of, unseal

from gateway.application.nonces import Nonces

WINDOW_SECONDS: Final = 300.0
"""How old a message may be."""
SKEW_SECONDS: Final = 5.0
"""How far ahead of ours its clock may be."""
LONGEST_ID: Final = 128
_PURPOSE: Final = "payload"
_REFRESH_SECONDS: Final = 10.0
_AGAIN_SECONDS: Final = 1.0
"""How often auth is asked at most, whatever strangers send."""

_logger = structlog.stdlib.get_logger(__name__)


class UnknownPayloadKey(Exception):
    """The message is encrypted to a key that is not, or no longer, ours."""


class StalePayload(Exception):
    """The message was made too long ago, or in the future."""


class PayloadReplayed(Exception):
    """The message came before."""


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A key of ours; only published ones are told to clients."""

    key_id: str
    key: PrivateKey
    published: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """What a message said."""

    plaintext: bytes
    header: Header


class PayloadKeys(Protocol):
    """Where the keys come from."""

    async def list(self) -> Sequence[OwnKey]:
        """The keys that may still be used."""
        ...


class Payloads:
    """The keys of this process, asked for when they are needed and ten seconds old, and the opening of messages."""

    def __init__(self, keys: PayloadKeys, nonces: Nonces) -> None:
        self._source = keys
        self._nonces = nonces
        self._keys: dict[str, PrivateKey] = {}
        self._jwks = b""
        self._known_at = -math.inf
        self._asked_at = -math.inf
        self._asking: asyncio.Task[None] | None = None

    async def jwks(self) -> bytes:
        """The published keys as a JWK set (RFC 7517); empty when there were none to be had yet."""
        await self._fresh(_REFRESH_SECONDS)
        return self._jwks

    async def opened(self, message: bytes, suite: Suite, *, method: str, target: str) -> Opened:
        """Open a request's message and see that it is good here, now, and for the first time.

        Raises:
            InvalidPayload: it does not open, or its header lacks something or says another request.
            UnknownPayloadKey, StalePayload, PayloadReplayed: as their names say.
            NoncesAway: it cannot be known whether it came before.
        """
        header = header_of(message)
        key = await self._key(_text(header, "kid"))
        if key.suite is not suite:
            raise InvalidPayload(f"the key is not one of {suite}")
        plaintext = unseal(message, key)
        if (_text(header, "htm"), _text(header, "htu")) != (method, target):
            raise InvalidPayload("the message was made for another request: htm and htu are its method and target")
        made_at = header.get("iat")
        if isinstance(made_at, bool) or not isinstance(made_at, int):
            raise InvalidPayload("the header of the message has no iat, in seconds")
        if not -SKEW_SECONDS <= time.time() - made_at <= WINDOW_SECONDS:
            raise StalePayload
        # What was claimed before the memory was lost must not be claimed again after it.
        since = made_at - 2 * SKEW_SECONDS
        if not await self._nonces.claim(_PURPOSE, _text(header, "jti"), seconds=2 * WINDOW_SECONDS, since=since):
            raise PayloadReplayed
        return Opened(plaintext, header)

    async def _key(self, key_id: str) -> PrivateKey:
        await self._fresh(_REFRESH_SECONDS)
        if key_id not in self._keys:
            # Another gateway may have published it since.
            await self._fresh(_AGAIN_SECONDS)
        try:
            return self._keys[key_id]
        except KeyError:
            raise UnknownPayloadKey from None

    async def _fresh(self, seconds: float) -> None:
        """See that the keys are at most so many seconds old, if auth can be asked; else the old ones serve on."""
        now = time.monotonic()
        if self._asking is None and now - self._known_at > seconds and now - self._asked_at > _AGAIN_SECONDS:
            self._asked_at = now
            # In a context of its own: it serves all callers, with nobody's deadline or trace.
            self._asking = asyncio.get_running_loop().create_task(self._ask(), context=contextvars.Context())
        if self._asking is not None:
            await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        try:
            keys = await self._source.list()
        except (ChassisError, TimeoutError) as error:
            _logger.warning("the keys of encrypted payloads cannot be had", problem=str(error))
        else:
            self._known_at = time.monotonic()
            self._keys = {own.key_id: own.key for own in keys}
            jwks: list[Any] = [own.key.public.jwk() for own in keys if own.published]
            self._jwks = orjson.dumps({"keys": jwks})
        finally:
            self._asking = None


def _text(header: Header, name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str) or not value or len(value) > (LONGEST_ID if name in ("jti", "kid") else 8192):
        raise InvalidPayload(f"the header of the message has no {name}, or one that is too long")
    return value
