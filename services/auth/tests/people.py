"""People of tests."""

from uuid import UUID

from auth.application.people import create_person
from auth.bootstrap import Parts, now
from auth.domain.people import Role, User, registration
from chassis.ids import uuid7

PASSWORD = "correct horse battery staple"


async def create(
    parts: Parts, email: str, *, command_id: UUID | None = None, first_name: str = "Ada", last_name: str = "Lovelace"
) -> User:
    """A viewer."""
    return await create_person(
        registration(email=email, password=PASSWORD, first_name=first_name, last_name=last_name, roles=[Role.VIEWER]),
        command_id=command_id or uuid7(),
        people=parts.people,
        common=parts.common,
        hashing=parts.passwords.hash,
        fingerprints=parts.key_encryption_key,
        clock=now,
    )
