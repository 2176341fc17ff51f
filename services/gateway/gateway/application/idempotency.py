"""The same request twice has one effect.

The key of the client and the person make the command id, which the log keeps with the answer for ever: that is what
makes repeats safe, on any replica and after any crash. The memory beside it only says no sooner, where the log could
not: to a key that comes with another request before anything is decided, and to a repeat of a request that still runs.
And it keeps the answers to what changed nothing, of which the log has nothing to keep, for as long as it remembers.
"""

import hashlib
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from chassis.deadlines import remaining
from chassis.ids import uuid7

from gateway.application.ports import Claim, KeyMemory, Person

NAMESPACE = uuid.UUID("0d3f2f7e-6f0c-5a57-8f0a-6b1f6c2f4b11")
_CLAIM_SECONDS = 15.0


class KeyUsedOtherwise(Exception):
    """The idempotency key came with another request before."""


class StillRunning(Exception):
    """The same request is being worked on."""


@dataclass(slots=True)
class Command:
    """One write: its id, the digest of what was asked, and whether it was answered before as far as is known.

    `answer` is the answer that it got then, where the memory has it; and what to remember, where the log will not.
    """

    command_id: str
    fingerprint: bytes
    replayed: bool = False
    answer: bytes = b""


def fingerprint(method: str, target: str, if_match: str, body: bytes) -> bytes:
    """The digest of what a request asks for. Each part is preceded by its length, so that no two requests read the
    same.
    """
    digest = hashlib.sha256()
    for part in (method.encode(), target.encode(), if_match.encode(), body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def command_id(person: Person, key: str | None) -> str:
    """The id of a write: the same for the same person and key, and a new one without a key."""
    return str(uuid7()) if key is None else str(uuid.uuid5(NAMESPACE, f"{person.subject}\n{key}"))


@asynccontextmanager
async def once(memory: KeyMemory, person: Person, key: str | None, digest: bytes) -> AsyncGenerator[Command]:
    """A write that may be a repeat. When the block raises, the key may be tried again at once: whether anything
    happened, the log knows.

    Raises:
        KeyUsedOtherwise: The key came with another request before.
        StillRunning: The same request runs.
    """
    command = Command(command_id(person, key), digest)
    if key is None:
        yield command
        return
    left = remaining()
    # An upload may take longer; a repeat that comes while it runs is the worker's to sort out then.
    seconds = _CLAIM_SECONDS if left is None else min(max(left, 1.0), _CLAIM_SECONDS)
    remembered = await memory.claim(command.command_id, digest, seconds=seconds)
    claim = remembered.claim
    if claim is Claim.OTHER:
        raise KeyUsedOtherwise
    if claim is Claim.RUNNING:
        raise StillRunning
    command.replayed = claim is Claim.DONE
    command.answer = remembered.answer
    try:
        yield command
    except BaseException:
        if claim is Claim.NEW:
            await memory.forget(command.command_id)
        raise
    await memory.done(command.command_id, digest, command.answer)
