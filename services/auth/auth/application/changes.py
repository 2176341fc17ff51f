"""People as time goes by: many at once, other names, roles and passwords, their sessions."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from uuid import UUID

from almagest.auth.events.v1 import audit_pb2

from auth.application.attempts import Attempts
from auth.application.audit import Audit
from auth.application.people import Clock, CommonPasswords, Credentials, Fingerprints, Passwords, People, create_person
from auth.domain.audit import Entry, Event
from auth.domain.concealed import PasswordHash
from auth.domain.errors import (
    AuthError,
    ChangedMeanwhile,
    CommonPassword,
    InvalidCredentials,
    InvalidFields,
    NotAboutYou,
    NotYourself,
    UnknownPerson,
    UnknownSession,
)
from auth.domain.passwords import acceptable_password, new_password
from auth.domain.people import Change, Registration, User, changed
from auth.domain.sessions import Session

_TRIES = 5
_AT_ONCE = 4


class Changes(Protocol):
    """Where people and their sessions are changed."""

    async def credentials(self, user_id: UUID) -> Credentials | None:
        """A person, and their password hash."""
        ...

    async def change(self, before: User, after: User, entries: Sequence[Entry]) -> bool:
        """Make a person what they are to be, unless they are not as before any more; then nothing is done. Tokens of
        before are revoked if what the person may do is not the same; the sessions of who is disabled end.
        """
        ...

    async def set_password(self, user_id: UUID, new: PasswordHash, *, keep: UUID | None, entry: Entry) -> None:
        """Set a password, and end all sessions but one."""
        ...

    async def page(self, *, after: UUID | None, limit: int) -> Sequence[User]:
        """People, in the order of their ids."""
        ...

    async def sessions_of(self, user_id: UUID) -> Sequence[Session]:
        """The sessions of a person that are alive, the latest first."""
        ...

    async def session(self, session_id: UUID) -> Session | None:
        """One session."""
        ...

    async def end_session(self, session_id: UUID, entry: Entry) -> None:
        """End a session that is alive."""
        ...


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks: the person, the session if it is one, and what they may do with others."""

    user_id: UUID
    session_id: UUID | None
    reads_everyone: bool
    writes_everyone: bool


@dataclass(frozen=True, slots=True)
class Ports:
    """What these use cases need."""

    changes: Changes
    people: People
    common: CommonPasswords
    passwords: Passwords
    fingerprints: Fingerprints
    attempts: Attempts
    audit: Audit
    clock: Clock


async def create_people(
    wanted: Sequence[tuple[Callable[[], Registration], UUID]], *, ports: Ports
) -> list[User | Exception]:
    """Create people, each on their own: what becomes of one is no matter to the others. In the order given.

    Their passwords are hashed when no log-in waits, one at a time; so a batch takes as long as it takes, and memory for
    one hash.
    """
    results: list[User | Exception] = [InvalidFields([])] * len(wanted)
    numbers = iter(range(len(wanted)))

    async def work() -> None:
        for number in numbers:
            described, command_id = wanted[number]
            try:
                results[number] = await create_person(
                    described(),
                    command_id=command_id,
                    people=ports.people,
                    common=ports.common,
                    hashing=ports.passwords.hash_in_bulk,
                    fingerprints=ports.fingerprints,
                    clock=ports.clock,
                )
            except AuthError as error:
                results[number] = error

    async with asyncio.TaskGroup() as group:
        for _ in range(min(_AT_ONCE, len(wanted))):
            group.create_task(work())
    return results


async def update_person(user_id: UUID, change: Change, *, asking: Asking, ports: Ports) -> User:
    """Change names, roles, or whether the person may do anything. Without users:write: one's own names.

    Raises:
        NotAboutYou, NotYourself, UnknownPerson, InvalidFields, ChangedMeanwhile
    """
    if not asking.writes_everyone and (user_id != asking.user_id or change.of_rights):
        raise NotAboutYou
    if user_id == asking.user_id and change.of_rights:
        raise NotYourself
    for _ in range(_TRIES):
        before = await ports.people.by_id(user_id)
        if before is None:
            raise UnknownPerson
        after = changed(before, change)
        events = _events(before, after)
        if not events:
            return before
        entries = [await ports.audit.entry(event, of=user_id) for event in events]
        if await ports.changes.change(before, after, entries):
            return replace(after, generation=before.generation + (before.rights != after.rights))
    raise ChangedMeanwhile


def _events(before: User, after: User) -> list[Event]:
    """What there is to say about a change."""
    events: list[Event] = []
    fields = [name for name in ("first_name", "last_name") if getattr(before, name) != getattr(after, name)]
    if fields:
        events.append(audit_pb2.UserChanged(fields=fields))
    if before.roles != after.roles:
        events.append(audit_pb2.RolesChanged(before=sorted(before.roles), after=sorted(after.roles)))
    if before.disabled != after.disabled:
        events.append(audit_pb2.UserDisabled() if after.disabled else audit_pb2.UserEnabled())
    return events


async def change_password(
    user_id: UUID, *, present: str, password: str, address: str, asking: Asking, ports: Ports
) -> None:
    """Set another password; all sessions end but the one that asks. One's own needs the present one.

    Raises:
        NotAboutYou, UnknownPerson, InvalidFields, CommonPassword, InvalidCredentials, TooManyAttempts, TooManyLogins
    """
    own = user_id == asking.user_id
    if not own and not asking.writes_everyone:
        raise NotAboutYou
    found = await ports.changes.credentials(user_id)
    if found is None:
        raise UnknownPerson
    try:
        new = new_password(password, own=(found.user.email, found.user.first_name, found.user.last_name))
    except ValueError as error:
        raise InvalidFields([("password", str(error))]) from error
    if await ports.common.include(new):
        raise CommonPassword
    if own:
        attempt = await ports.attempts.begin(found.user.email, address)
        try:
            offered = acceptable_password(present)
        except ValueError:
            raise InvalidCredentials from None
        if not await ports.passwords.verify(offered, found.password_hash):
            await ports.audit.record(audit_pb2.LogInFailed(why="present password"), of=user_id)
            raise InvalidCredentials
        await ports.attempts.succeeded(attempt)
    hashed = await ports.passwords.hash(new)
    entry = await ports.audit.entry(audit_pb2.PasswordChanged(), of=user_id)
    await ports.changes.set_password(user_id, hashed, keep=asking.session_id if own else None, entry=entry)


async def list_people(*, after: UUID | None, limit: int, ports: Ports) -> tuple[Sequence[User], UUID | None]:
    """A page of people, and the id after which the next page begins."""
    found = await ports.changes.page(after=after, limit=limit + 1)
    return (found[:limit], found[limit - 1].id) if len(found) > limit else (found, None)


async def list_sessions(user_id: UUID | None, *, asking: Asking, ports: Ports) -> Sequence[Session]:
    """The sessions of a person that are alive.

    Raises:
        NotAboutYou
    """
    wanted = user_id or asking.user_id
    if wanted != asking.user_id and not asking.reads_everyone:
        raise NotAboutYou
    return await ports.changes.sessions_of(wanted)


async def end_session(session_id: UUID, *, asking: Asking, ports: Ports) -> None:
    """End a session. One that has ended is no error.

    Raises:
        UnknownSession: or it is another's, which is not told to those who may not know.
    """
    session = await ports.changes.session(session_id)
    if session is None or not (session.user_id == asking.user_id or asking.writes_everyone):
        raise UnknownSession
    if not session.alive(ports.clock()):
        return
    why = "by its person" if session.user_id == asking.user_id else "by an admin"
    said = audit_pb2.SessionEnded(session_ids=[str(session_id)], why=why)
    await ports.changes.end_session(session_id, await ports.audit.entry(said, of=session.user_id))
