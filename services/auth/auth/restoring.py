"""What operators do about users that came from a backup: `key-id` before, `restored` after.

Postgres numbers its transactions by cluster. The audit's way into the log and the news of revocations go by these
numbers, and a backup brings those of the cluster that it was made in: in another one, all that is written from now on
would seem to be older than what came with the backup, and never be told.
"""

import argparse
import json
import sys
from typing import Final
from uuid import UUID

from chassis.database.connection import connect

from auth.bootstrap import key_encryption_key_of
from auth.settings import Settings

_SECONDS: Final = 600.0
_LAST: Final = UUID(int=2**128 - 1)
# What the log has, and what it has not: in this order, and both before every transaction that a cluster gives out.
_AUDIT: Final = """
    UPDATE audit_events AS e SET transaction_id = CASE WHEN (e.transaction_id, e.id) <= (
        SELECT r.transaction_id, r.event_id FROM audit_relays AS r
    ) THEN 1 ELSE 2 END
"""
_RELAYS: Final = "UPDATE audit_relays SET transaction_id = $1, event_id = $2, holder = NULL, held_until = NULL"
_REVOCATIONS: Final = "UPDATE revocations SET transaction_id = 1"
_SESSIONS: Final = "UPDATE sessions SET revoked_at = clock_timestamp() WHERE revoked_at IS NULL"


async def key_id(settings: Settings, arguments: list[str]) -> int:
    """Print the id of the key-encryption key, which says nothing of the key: `{"key_id"}`."""
    argparse.ArgumentParser(prog="python -m auth key-id", description=key_id.__doc__).parse_args(arguments)
    _print({"key_id": (await key_encryption_key_of(settings)).primary_id})
    return 0


async def restored(settings: Settings, arguments: list[str]) -> int:
    """Fit what a backup brought to the cluster it is in now, and end all sessions: `restored [--log-was-cut]`.

    Who was locked out after the backup was made, and has a session of before, would be back otherwise. When the log was
    cut, all of the audit is taken to it again: what is there already stays as it is. Prints `{"shard", "sessions"}` for
    each shard.
    """
    parser = argparse.ArgumentParser(prog="python -m auth restored", description=restored.__doc__)
    parser.add_argument("--log-was-cut", action="store_true")
    given = parser.parse_args(arguments)
    reached = (0, UUID(int=0)) if given.log_was_cut else (1, _LAST)
    for shard, dsn in enumerate(settings.migration_database_urls or settings.database_urls):
        connection = await connect(dsn, application_name="almagest auth operator", statement_seconds=_SECONDS)
        try:
            async with connection.transaction():
                await connection.execute(_AUDIT)
                await connection.execute(_RELAYS, *reached)
                await connection.execute(_REVOCATIONS)
                ended = await connection.execute(_SESSIONS)
        finally:
            await connection.close(timeout=10)
        _print({"shard": shard, "sessions": int(ended.rpartition(" ")[2])})
    return 0


def _print(told: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
