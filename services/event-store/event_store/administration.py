"""What operators do to a log that no service uses: `verify` it, and `cut` it off, after a backup was restored.

Beside the running service there is `almagest log verify`, which asks it; these need the databases only, as their owner,
and the files.
"""

import argparse
import json
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from chassis.database.pool import Database

from event_store.adapters.archive_files import ArchiveFiles
from event_store.adapters.postgres.cutting import CuttingLog
from event_store.application import verify as checking
from event_store.application.cutting import CannotCut, plan
from event_store.settings import Settings

_FAILED = 1
_SECONDS = 3600.0


async def verify(settings: Settings, arguments: list[str]) -> int:
    """Compute every shard's chain of hashes again, and compare the tables beside the events with them.

    Prints a line of JSON for each shard, `{"shard", "position", "hash", "rows", "fault"}`, and ends with 1 if one of
    them does not hold.
    """
    argparse.ArgumentParser(prog="python -m event_store verify", description=verify.__doc__).parse_args(arguments)
    whole = True
    async with _logs(settings) as logs:
        for shard in range(len(logs)):
            last = checking.Progress(0, 0, b"")
            async for progress in checking.verify(logs, shard, tables=logs):
                last = progress
            fault = None if last.fault is None else last.fault._asdict()
            _print(
                {"shard": shard, "position": last.position, "hash": last.hash.hex(), "rows": last.rows, "fault": fault}
            )
            whole = whole and last.fault is None
    return 0 if whole else _FAILED


async def cut(settings: Settings, arguments: list[str]) -> int:
    """Take the last events away: `cut --at 0:1234 --at 1:998`, or `cut --time 2026-11-23T04:00:00Z`.

    Only in databases into which a backup is being restored. All shards are looked at before the first one is changed.
    Prints a line of JSON for each shard that is cut: `{"shard", "position", "hash", "removed"}`.
    """
    parser = argparse.ArgumentParser(prog="python -m event_store cut", description=cut.__doc__)
    parser.add_argument("--at", action="append", default=[], metavar="SHARD:POSITION")
    parser.add_argument("--time", type=_moment)
    given = parser.parse_args(arguments)
    try:
        positions = _positions(given.at)
        async with _logs(settings) as logs:
            for one in await plan(logs, positions=positions, time=given.time):
                removed = await logs[one.shard].cut(one)
                _print({"shard": one.shard, "position": one.position, "hash": one.hash.hex(), "removed": removed})
    except CannotCut as error:
        sys.stderr.write(f"{error}\n")
        return _FAILED
    return 0


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _positions(given: Sequence[str]) -> Mapping[int, int]:
    found: dict[int, int] = {}
    for text in given:
        shard, _, position = text.partition(":")
        if not (shard.isdecimal() and position.isdecimal()):
            raise CannotCut(f"--at is SHARD:POSITION, such as 0:1234, not {text!r}")
        found[int(shard)] = int(position)
    return found


@asynccontextmanager
async def _logs(settings: Settings) -> AsyncGenerator[Sequence[CuttingLog], None]:
    """The shards, as their owner."""
    async with AsyncExitStack() as stack:
        logs: list[CuttingLog] = []
        for shard, dsn in enumerate(settings.migration_database_urls or settings.database_urls):
            database = await Database.open(
                dsn,
                name=f"events_{shard}",
                size=2,
                statement_timeout=_SECONDS,
                application_name="almagest event-store operator",
            )
            stack.push_async_callback(database.close)
            directory = settings.archive_directory
            archives = None if directory is None else ArchiveFiles(directory, shard)
            logs.append(CuttingLog(database, shard, append_seconds=_SECONDS, archives=archives))
        yield logs


def _print(told: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
