"""What operators do about sealed data and keys: `migrate`, `unseal`, `rotate-data-keys` and `wrap-key`."""

import argparse
import json
import secrets
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from chassis.database.engine import create_engine
from chassis.sealing.aead import KEY_BYTES
from chassis.sealing.columns import seal_with
from sqlalchemy.ext.asyncio import AsyncEngine

from auth.adapters.data_keys import DataKeys
from auth.adapters.kms import WrappedKey, plugin
from auth.adapters.rotation import Keys, Rotation
from auth.adapters.sealing import is_wrapped, read_key
from auth.adapters.sealing_people import Progress, open_people, rewritten, seal_people, some_unsealed
from auth.adapters.sharding import Shards, sharded_sessions
from auth.bootstrap import assembled, key_encryption_key_of, now
from auth.settings import Settings

_MIGRATIONS = "auth.migrations"
_EXPANDED = "0004"
"""The revision in which people may be plain or sealed."""


async def migrate(settings: Settings, arguments: list[str]) -> int:  # noqa: ARG001 - there are none
    """Bring the databases up to date. People from before names and addresses were sealed are sealed on the way."""
    from chassis.database.migrations import upgrade  # noqa: PLC0415 - the service itself needs no Alembic

    dsns, role = _owned(settings), settings.service_role or "auth"
    await upgrade(_MIGRATIONS, dsns, role, _EXPANDED)
    async with _engines(dsns) as engines:
        if await some_unsealed(engines):
            async for progress in seal_people(engines, await _keys(settings, engines)):
                _tell(progress)
            await rewritten(engines)
    await upgrade(_MIGRATIONS, dsns, role)
    return 0


async def unseal(settings: Settings, arguments: list[str]) -> int:  # noqa: ARG001 - there are none
    """Open everybody's names and addresses again, for a version from before they were sealed, to which the migrations
    may then be taken back. What was added to the databases since is taken back too.
    """
    from chassis.database.migrations import downgrade  # noqa: PLC0415 - as above

    dsns, role = _owned(settings), settings.service_role or "auth"
    async with _engines(dsns) as engines:
        keys = await _keys(settings, engines)
        await downgrade(_MIGRATIONS, dsns, role, _EXPANDED)
        async for progress in open_people(engines, keys):
            _tell(progress)
    return 0


async def rotate_data_keys(settings: Settings, arguments: list[str]) -> int:
    """Seal everything anew under new keys, while the service goes on: `rotate-data-keys [columns|index|wrapping|all]`.

    Prints a line of JSON for each step forward. What breaks off goes on when the command is given again. For a new
    key-encryption key: give the services the new file, and the one before as ALMAGEST_OLDER_KEY_ENCRYPTION_KEY_FILES,
    restart them, run this with `wrapping`, then take the older one away.
    """
    parser = argparse.ArgumentParser(prog="python -m auth rotate-data-keys", description=rotate_data_keys.__doc__)
    parser.add_argument("keys", nargs="?", default=Keys.ALL, type=Keys, choices=list(Keys))
    given = parser.parse_args(arguments)
    async with assembled(settings) as parts:
        rotation = Rotation(
            parts.engines, parts.data_keys, parts.key_encryption_key, clock=now, settle=settings.key_settlement
        )
        async for progress in rotation.run(given.keys):
            _tell(progress)
    return 0


async def wrap_key(arguments: list[str]) -> int:
    """Print a new key-encryption key as a KMS has wrapped it, for ALMAGEST_KEY_ENCRYPTION_KEY_FILE.

    With a file it is the key in there, which may be bare or wrapped: to go over to a KMS, or to the KMS's own new key.
    """
    parser = argparse.ArgumentParser(prog="python -m auth wrap-key", description=wrap_key.__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="where the plugin of the KMS listens")
    parser.add_argument("--file", type=Path, help="a file with a key-encryption key, bare or wrapped")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the plugin may take for each answer")
    given = parser.parse_args(arguments)
    async with plugin(given.socket, seconds=given.seconds) as kms:
        if given.file is None:
            key = secrets.token_bytes(KEY_BYTES)
        elif is_wrapped(given.file):
            key = await kms.unwrap(WrappedKey.read(given.file))
        else:
            key = read_key(given.file)
        wrapped = await kms.wrap(key)
    sys.stdout.write(wrapped.model_dump_json() + "\n")
    return 0


def _owned(settings: Settings) -> Sequence[str]:
    return settings.migration_database_urls or settings.database_urls


@asynccontextmanager
async def _engines(dsns: Sequence[str]) -> AsyncGenerator[list[AsyncEngine]]:
    async with AsyncExitStack() as stack:
        engines: list[AsyncEngine] = []
        for shard, dsn in enumerate(dsns):
            engine = create_engine(
                dsn, name=f"users_{shard}_owned", size=1, statement_timeout=600.0, hide_parameters=True
            )
            stack.push_async_callback(engine.dispose)
            engines.append(engine)
        yield engines


async def _keys(settings: Settings, engines: Sequence[AsyncEngine]) -> DataKeys:
    shards = Shards(len(engines))
    keys = DataKeys(sharded_sessions(shards, engines), shards, await key_encryption_key_of(settings), clock=now)
    for engine in engines:
        seal_with(engine, keys.ring)
    await keys.open()
    return keys


def _tell(progress: Progress) -> None:
    sys.stdout.write(json.dumps({"step": progress.step, "total": progress.total, "done": progress.done}) + "\n")
    sys.stdout.flush()
