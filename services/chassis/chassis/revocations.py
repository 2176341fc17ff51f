"""What transaction tokens are not good any more, although their time is not over.

A token proves its person for a minute without anybody asking auth, and a minute is long for somebody who was just
locked out. So auth tells every service what it revokes: sessions that ended, access keys, and persons who may do other
things than before. Each service listens on one stream and remembers what it heard for as long as a token may live.
While auth is away nothing is heard; then a token lives to its end, 60 seconds at most.

A session or a key that was revoked never comes back, so its name is enough. A person does: their tokens carry a
generation, which each change of their rights counts up, so that a token of after the change is told from one of before
it without comparing clocks of different machines.
"""

import asyncio
import enum
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import structlog

from chassis.errors import ChassisError, RemoteProblem

REMEMBERED_SECONDS: Final = 75.0
"""As long as a token may live, and what clocks may differ."""
HEARTBEAT_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 3.0
_LONGEST_PAUSE: Final = 1.0
_FIRST_PAUSE: Final = 0.05

_logger = structlog.stdlib.get_logger(__name__)


class Revoked(enum.StrEnum):
    """What can be revoked. The values are the storage format of auth."""

    SESSION = "session"
    ACCESS_KEY = "access_key"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class Revocation:
    """One session, access key, or person as they were before a generation."""

    kind: Revoked
    id: str
    generation: int = 0


class Revocable(Protocol):
    """What of a token revocations speak about; texts are empty where it has none."""

    @property
    def subject(self) -> str:
        """The person."""
        ...

    @property
    def session_id(self) -> str:
        """The session that it was given in."""
        ...

    @property
    def access_key_id(self) -> str:
        """The access key that signed the request."""
        ...

    @property
    def generation(self) -> int:
        """The person's generation when it was issued."""
        ...


Listener = Callable[[Revocation], None]


class Revocations:
    """What was heard within the life of a token."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[Revoked, str], tuple[Revocation, float]] = {}
        self._listeners: list[Listener] = []

    def add(self, revocation: Revocation) -> None:
        """Refuse the tokens that it is about from now on. What is known already changes nothing."""
        key = (revocation.kind, revocation.id)
        known = self._known.get(key)
        if known is not None and known[0].generation >= revocation.generation:
            return
        now = self._clock()
        self._forget(now)
        # Out and in again: the order is that of time, by which it is forgotten.
        self._known.pop(key, None)
        self._known[key] = (revocation, now + REMEMBERED_SECONDS)
        for listener in list(self._listeners):
            listener(revocation)

    def covers(self, token: Revocable) -> bool:
        """Whether a token was revoked."""
        known = self._known
        if not known:
            return False
        if token.session_id and (Revoked.SESSION, token.session_id) in known:
            return True
        if token.access_key_id and (Revoked.ACCESS_KEY, token.access_key_id) in known:
            return True
        person = known.get((Revoked.PERSON, token.subject))
        return person is not None and token.generation < person[0].generation

    def in_force(self) -> list[Revocation]:
        """All that is remembered, the oldest first."""
        self._forget(self._clock())
        return [revocation for revocation, _ in self._known.values()]

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell of each new revocation, once it is in force. Answers how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _forget(self, now: float) -> None:
        while self._known:
            oldest = next(iter(self._known))
            if self._known[oldest][1] > now:
                return
            del self._known[oldest]


async def told(revocations: Revocations) -> AsyncGenerator[list[Revocation]]:
    """What one listener is told: all that is in force, news as they come, and nothing at least once a second."""
    news: asyncio.Queue[Revocation] = asyncio.Queue()
    stop = revocations.listen(news.put_nowait)
    try:
        yield revocations.in_force()
        while True:
            batch: list[Revocation] = []
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    batch.append(await news.get())
            except TimeoutError:
                pass
            while not news.empty():
                batch.append(news.get_nowait())
            yield batch
    finally:
        stop()


async def watch(revocations: Revocations, subscribe: Callable[[], AsyncIterable[Any]]) -> None:
    """Hear what auth revokes, for ever. `subscribe` calls its `WatchRevocations`."""
    pause, heard, told_of_silence = _FIRST_PAUSE, time.monotonic(), False
    while True:
        try:
            # Leaving the generator ends the call.
            async with aclosing(cast("Any", aiter(subscribe()))) as messages:
                while True:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        message = await anext(messages, None)
                    if message is None:
                        break
                    pause, heard, told_of_silence = _FIRST_PAUSE, time.monotonic(), False
                    for revocation in _read(message.revocations):
                        revocations.add(revocation)
        except (RemoteProblem, ChassisError, TimeoutError) as error:
            # Streams end with their connection, which is as old as a certificate may be, and services start before auth
            # does: that alone is no news. A silence that lasts is, once.
            silence = time.monotonic() - heard
            news = silence > SILENCE_SECONDS and not told_of_silence
            log = _logger.warning if news else _logger.debug
            log("revocations are not heard", seconds=round(silence, 1), problem=str(error) or type(error).__name__)
            told_of_silence = told_of_silence or news
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _read(messages: Iterable[Any]) -> Iterable[Revocation]:
    for message in messages:
        match message.WhichOneof("what"):
            case "session_id":
                yield Revocation(Revoked.SESSION, message.session_id)
            case "access_key_id":
                yield Revocation(Revoked.ACCESS_KEY, message.access_key_id)
            case "person":
                yield Revocation(Revoked.PERSON, message.person.user_id, message.person.generation)
            case _:
                # A later auth may revoke what this version has no tokens of.
                _logger.warning("a revocation of an unknown kind")
