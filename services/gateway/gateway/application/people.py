"""From an access token to the person, by way of auth, at most once a minute for each token.

The transaction token is what the services believe. It lives for a minute; exchanging once a request would double the
cost of each read. It is used until shortly before its end, so that it is still good when the last service in the chain
looks at it.
"""

import asyncio
import base64
import binascii
import contextvars
import math
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from almagest.auth.v1 import auth_pb2
from chassis.deadlines import set_deadline, timeout_for
from chassis.revocations import Revocation, Revocations

from gateway.application.ports import Auth, Person

MARGIN_SECONDS = 10.0
EXCHANGE_SECONDS = 5.0
_BEHIND_SECONDS = 0.25
_TRIES_BEHIND = 4
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LONGEST = 4096


class InvalidAccessToken(Exception):
    """It cannot be an access token, whatever auth would say."""


class People:
    """Remembers at most `capacity` persons by access token, the last used ones, until their tokens are revoked.
    Exchanges of one token that would run side by side are one.
    """

    def __init__(self, auth: Auth, *, capacity: int = 10_000, revocations: Revocations | None = None) -> None:
        self._auth = auth
        self._revocations = revocations or Revocations()
        self._revocations.listen(self._heard)
        self._capacity = capacity
        self._known: OrderedDict[str, tuple[Person, float]] = OrderedDict()
        self._running: dict[str, asyncio.Task[Person]] = {}

    def known(self, access_token: str) -> Person | None:
        """The person, if no exchange is needed for it."""
        found = self._known.get(access_token)
        if found is None:
            return None
        person, until = found
        if time.time() >= until:
            del self._known[access_token]
            return None
        self._known.move_to_end(access_token)
        return person

    async def person(self, access_token: str, *, bound_to: str = "") -> Person:
        """The person whose access token this is, which comes with a proof of the key of this thumbprint, if any.

        What is known of a token with a proof is not known of it without one.

        Raises:
            InvalidAccessToken: It does not even look like one.
            RemoteProblem: Auth does not vouch for it, or cannot be asked.
            TimeoutError: Auth did not answer within the time of the request.
        """
        name = f"{access_token} {bound_to}" if bound_to else access_token
        person = self.known(name)
        if person is not None:
            return person
        if len(access_token) > _LONGEST or _JWT.fullmatch(access_token) is None:
            raise InvalidAccessToken
        return await self.vouched(name, lambda: self._auth.exchange(access_token, bound_to))

    async def vouched(self, name: str, exchange: Callable[[], Awaitable[auth_pb2.ExchangeTokenResponse]]) -> Person:
        """The person for whom something with a name of its own is shown to auth, unless that is known.

        Raises:
            RemoteProblem: Auth does not vouch for it, or cannot be asked.
            TimeoutError: Auth did not answer within the time of the request.
        """
        person = self.known(name)
        if person is not None:
            return person
        task = self._running.get(name)
        if task is None:
            # In the context of whoever came first, for the sake of its trace, but not with its deadline: others wait,
            # too.
            task = asyncio.create_task(self._exchange(name, exchange), context=contextvars.copy_context())
            self._running[name] = task
            task.add_done_callback(lambda done: self._finished(name, done))
        async with asyncio.timeout(timeout_for(EXCHANGE_SECONDS)):
            return await asyncio.shield(task)

    def _finished(self, name: str, task: asyncio.Task[Person]) -> None:
        self._running.pop(name, None)
        if not task.cancelled():
            # Looked at, so that an exchange nobody waits for any more does not complain.
            task.exception()

    def _heard(self, _revocation: Revocation) -> None:
        for access_token, (person, _) in list(self._known.items()):
            if self._revocations.covers(person):
                del self._known[access_token]

    async def _exchange(self, name: str, exchange: Callable[[], Awaitable[auth_pb2.ExchangeTokenResponse]]) -> Person:
        set_deadline(EXCHANGE_SECONDS)
        person = _person(await exchange())
        for _ in range(_TRIES_BEHIND):
            if not self._revocations.covers(person):
                break
            # We have heard of a change before the replica that answered has: it will have in a moment.
            await asyncio.sleep(_BEHIND_SECONDS)
            person = _person(await exchange())
        lifetime = person.expires_at - time.time()
        if lifetime > 0 and not self._revocations.covers(person):
            # An access token that ends before what auth gave for it is good for no longer than it says.
            until = min(person.expires_at - min(MARGIN_SECONDS, lifetime / 3), expiry_of(name))
            self._known[name] = (person, until)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)
        return person


def expiry_of(access_token: str) -> float:
    """When an access token ends, in seconds since the epoch, as it says itself: worth something only once auth has
    vouched for it. Infinite when it does not say.
    """
    try:
        return float(_claims(access_token)["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return math.inf


def _claims(token: str) -> Any:
    payload = token.split(".")[1]
    return orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def _person(answer: auth_pb2.ExchangeTokenResponse) -> Person:
    """The subject is read without a check of the signature: it came from auth itself, and the services check it."""
    try:
        claims = _claims(answer.transaction_token)
        return Person(
            str(claims["sub"]),
            answer.transaction_token,
            answer.expires_at.ToNanoseconds() / 1e9,
            scopes=frozenset(str(claims.get("scope", "")).split()),
            session_id=str(claims.get("sid", "")),
            access_key_id=str(claims.get("key", "")),
            generation=int(claims.get("gen", 0)),
        )
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise RuntimeError("auth answered what is no transaction token") from error
