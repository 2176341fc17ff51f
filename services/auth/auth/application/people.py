"""People: created once, found by id or e-mail address."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from auth.domain.concealed import Password, PasswordHash
from auth.domain.errors import CommandReused, CommonPassword, EmailTaken, InvalidFields, NotAboutYou, UnknownPerson
from auth.domain.people import Registration, Role, User, normalised_email

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A person with what their password is checked against."""

    user: User
    password_hash: PasswordHash


class People(Protocol):
    """Where people are kept."""

    async def claim(self, command_id: UUID, fingerprint: bytes, *, now: datetime) -> bytes:
        """Bind a command id to a request. Answers the fingerprint that it is bound to, now or since before."""
        ...

    async def made_by(self, command_id: UUID, *, email: str) -> User | None:
        """The person with this e-mail address, if this command created them."""
        ...

    async def add(
        self, registration: Registration, password_hash: PasswordHash, *, command_id: UUID, now: datetime
    ) -> User:
        """Keep a new person, under a new id. The same command again answers the person that it created.

        Raises:
            EmailTaken: by someone whom another command created.
        """
        ...

    async def by_id(self, user_id: UUID) -> User | None:
        """The person with this id."""
        ...

    async def by_email(self, email: str) -> User | None:
        """The person with this address, which is normalised."""
        ...

    async def credentials(self, email: str) -> Credentials | None:
        """The person with this address, and their password hash."""
        ...

    async def replace_hash(self, user_id: UUID, *, old: PasswordHash, new: PasswordHash) -> None:
        """Replace a password hash, unless it has changed meanwhile."""
        ...


class Passwords(Protocol):
    """Slow hashing, off the event loop."""

    async def hash(self, password: Password) -> PasswordHash:
        """Hash with today's parameters."""
        ...

    async def hash_in_bulk(self, password: Password) -> PasswordHash:
        """Hash when nobody waits for a log-in."""
        ...

    async def verify(self, password: Password, against: PasswordHash | None) -> bool:
        """Check a password. Against None it takes as long as ever, and is wrong."""
        ...

    def outdated(self, password_hash: PasswordHash) -> bool:
        """Whether the hash was made with other parameters than today's."""
        ...


class CommonPasswords(Protocol):
    """The passwords that attackers try first."""

    async def include(self, password: Password) -> bool:
        """Whether the password is one of them."""
        ...


class Fingerprints(Protocol):
    """Recognises a request without keeping it."""

    def of(self, registration: Registration) -> bytes:
        """A keyed digest: a plain one over a password would be a fast hash of it, there to be guessed against."""
        ...

    def is_of(self, registration: Registration, fingerprint: bytes) -> bool:
        """Whether a fingerprint is of this request, also if it was made under an older key."""
        ...


async def create_person(
    registration: Registration,
    *,
    command_id: UUID,
    people: People,
    common: CommonPasswords,
    hashing: Callable[[Password], Awaitable[PasswordHash]],
    fingerprints: Fingerprints,
    clock: Clock,
) -> User:
    """Create a person, once per command id.

    The command id is bound to the request first, on a shard of its own: the same id with another e-mail address, which
    may live on another shard, is refused too.

    Raises:
        CommonPassword, CommandReused, EmailTaken
    """
    if await common.include(registration.password):
        raise CommonPassword
    claimed = await people.claim(command_id, fingerprints.of(registration), now=clock())
    if not fingerprints.is_of(registration, claimed):
        raise CommandReused
    made = await people.made_by(command_id, email=registration.email)
    if made is not None:
        return made
    password_hash = await hashing(registration.password)
    return await people.add(registration, password_hash, command_id=command_id, now=clock())


async def get_person(
    *, user_id: UUID | None = None, email: str | None = None, asking: UUID, sees_everyone: bool, people: People
) -> User:
    """Find a person by id or by e-mail address.

    Raises:
        NotAboutYou: whether the person exists is not told to those who may not know.
        UnknownPerson, InvalidFields
    """
    if user_id is not None:
        if not sees_everyone and user_id != asking:
            raise NotAboutYou
        found = await people.by_id(user_id)
    elif email is not None:
        try:
            address = normalised_email(email)
        except ValueError as error:
            raise InvalidFields([("email", str(error))]) from error
        if sees_everyone:
            found = await people.by_email(address)
        else:
            found = await people.by_id(asking)
            if found is None or found.email != address:
                raise NotAboutYou
    else:
        raise InvalidFields([("by", "must be set: user_id or email")])
    if found is None:
        raise UnknownPerson
    return found


async def create_first_admin(
    registration: Registration,
    *,
    command_id: UUID,
    people: People,
    common: CommonPasswords,
    passwords: Passwords,
    fingerprints: Fingerprints,
    clock: Clock,
) -> tuple[User, bool]:
    """Create an admin unless someone with the address is there. Answers the person, and whether they are new."""
    found = await people.by_email(registration.email)
    if found is not None:
        return found, False
    try:
        admin = await create_person(
            registration,
            command_id=command_id,
            people=people,
            common=common,
            hashing=passwords.hash,
            fingerprints=fingerprints,
            clock=clock,
        )
    except EmailTaken:
        found = await people.by_email(registration.email)
        if found is None:
            raise
        return found, False
    return admin, True


def is_admin(user: User) -> bool:
    """Whether the person is an admin."""
    return Role.ADMIN in user.roles
