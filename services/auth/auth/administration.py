"""What operators do beside the running service: `create-admin`, `rotate-keys`, `rotate-payload-keys`.

Each prints one line of JSON.
"""

import argparse
import json
import secrets
import sys
from pathlib import Path

from chassis.ids import uuid7

from auth.application import keys as lives
from auth.application import payload_keys
from auth.application.people import create_first_admin, is_admin
from auth.bootstrap import assembled, now
from auth.domain.errors import AuthError
from auth.domain.people import Role, registration
from auth.settings import Settings

_FAILED = 1
_GENERATED_PASSWORD_BYTES = 18


async def create_admin(settings: Settings, arguments: list[str]) -> int:
    """Create the admin if there is nobody with the address yet: `create-admin --email E [--password-file F]`.

    Prints `{"email", "password", "created"}`. The password is null when the person existed, and when it came from a
    file: it is shown once, by whoever made it up.
    """
    parser = argparse.ArgumentParser(prog="python -m auth create-admin", description=create_admin.__doc__)
    parser.add_argument("--email", required=True)
    parser.add_argument("--password-file", type=Path)
    given = parser.parse_args(arguments)
    generated: str | None = None
    try:
        if given.password_file is None:
            password = generated = secrets.token_urlsafe(_GENERATED_PASSWORD_BYTES)
        else:
            password = given.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        wanted = registration(
            email=given.email, password=password, first_name="First", last_name="Admin", roles=[Role.ADMIN]
        )
        async with assembled(settings) as parts:
            admin, created = await create_first_admin(
                wanted,
                command_id=uuid7(),
                people=parts.people,
                common=parts.common,
                passwords=parts.passwords,
                fingerprints=parts.key_encryption_key,
                clock=now,
            )
    except (AuthError, OSError, UnicodeDecodeError) as error:
        return _refuse(str(error))
    if not is_admin(admin):
        return _refuse(f"{admin.email} exists, and is no admin")
    _print({"email": admin.email, "password": generated if created else None, "created": created})
    return 0


async def rotate_keys(settings: Settings, arguments: list[str]) -> int:
    """Let the next signing key sign from now on, and publish another next one: `rotate-keys [--now]`.

    `--now` does not wait until verifiers know the next key: for when the active one has leaked. Running services follow
    within `ALMAGEST_KEY_REFRESH_SECONDS`. Prints `{"keys": {kid: state}}`.
    """
    parser = argparse.ArgumentParser(prog="python -m auth rotate-keys", description=rotate_keys.__doc__)
    parser.add_argument("--now", action="store_true")
    given = parser.parse_args(arguments)
    published_for = settings.key_publication * (0 if given.now else 1)
    try:
        async with assembled(settings) as parts:
            keys = await lives.rotate_keys(
                keys=parts.signing_keys, forge=parts.forge, clock=now, published_for=published_for
            )
    except AuthError as error:
        return _refuse(str(error))
    _print({"keys": {key.kid: key.state for key in keys}})
    return 0


async def rotate_payload_keys(settings: Settings, arguments: list[str]) -> int:
    """Publish the next keys that bodies are encrypted to, one per suite, in the place of those that are used:
    `rotate-payload-keys [--now]`.

    `--now` does not wait until gateways know the next keys: for when one has leaked. Prints `{"keys": {kid: state}}`.
    """
    parser = argparse.ArgumentParser(prog="python -m auth rotate-payload-keys", description=rotate_payload_keys.__doc__)
    parser.add_argument("--now", action="store_true")
    given = parser.parse_args(arguments)
    published_for = settings.key_publication * (0 if given.now else 1)
    try:
        async with assembled(settings) as parts:
            keys = await payload_keys.rotate_payload_keys(parts.payload_kinds, clock=now, published_for=published_for)
    except AuthError as error:
        return _refuse(str(error))
    _print({"keys": {key.kid: key.state for key in keys}})
    return 0


def _print(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")


def _refuse(reason: str) -> int:
    sys.stderr.write(json.dumps({"error": reason}) + "\n")
    return _FAILED
