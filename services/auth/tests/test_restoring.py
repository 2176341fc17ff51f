"""Users from a backup of another cluster, whose transactions have other numbers."""

import json
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from almagest.auth.events.v1 import audit_pb2 as events
from almagest.eventstore.v1 import event_store_pb2
from auth.adapters.audit_relay import AuditRelay
from auth.bootstrap import assembled
from auth.restoring import key_id, restored
from chassis.ids import uuid7

PERSON = UUID(int=uuid7().int & ~1023)
AGES_AHEAD = 10**12
"""The number of a transaction of a cluster that is much older than ours."""


class Log:
    """Keeps what is appended once, in order, and counts what was there."""

    def __init__(self) -> None:
        self.types: dict[str, str] = {}
        self.replayed = 0

    async def Append(self, request: event_store_pb2.AppendRequest, *, timeout: float) -> event_store_pb2.AppendResponse:
        answer = event_store_pb2.AppendResponse()
        for append in request.appends:
            known = append.append_id in self.types
            self.replayed += known
            self.types.setdefault(append.append_id, append.events[0].type.rpartition(".")[2])
            answer.results.add().appended.replayed = known
        return answer


@pytest.fixture
def told(settings, fresh_databases) -> Any:
    dsns = {"database_urls": fresh_databases.service, "migration_database_urls": fresh_databases.owner}
    return settings.model_copy(update=dsns)


async def relayed(relay: AuditRelay) -> None:
    # The first time the shard's row is made, the second time it is taken.
    for _ in range(2):
        while await relay.relay("users_0"):
            pass


@pytest.mark.parametrize("cut", [False, True])
async def test_the_audit_goes_on_where_it_was(told, fresh_databases, cut, capsys):
    """What was not in the log yet comes, then what is done from now on; what is there is not sent again, unless the log
    was cut.
    """
    connection = await asyncpg.connect(fresh_databases.owner[0])
    try:
        async with assembled(told) as parts:
            log = Log()
            await parts.audit.record(events.UserChanged(fields=["1"]), of=PERSON)
            await relayed(parts.relay(log))
            await parts.audit.record(events.UserDisabled(), of=PERSON)
            await connection.execute("UPDATE audit_events SET transaction_id = transaction_id + $1", AGES_AHEAD)
            await connection.execute("UPDATE audit_relays SET transaction_id = transaction_id + $1", AGES_AHEAD)
            arguments = ["--log-was-cut"] if cut else []
            assert await restored(told, arguments) == 0
            await parts.audit.record(events.UserEnabled(), of=PERSON)
            await relayed(parts.relay(log))
            assert list(log.types.values()) == ["UserChanged", "UserDisabled", "UserEnabled"]
            assert log.replayed == (1 if cut else 0)
    finally:
        await connection.close()


async def test_sessions_of_before_are_ended(told, fresh_databases, capsys):
    """Also those of people who were locked out since."""
    connection = await asyncpg.connect(fresh_databases.owner[0])
    try:
        await connection.execute(
            "INSERT INTO users (id, sealed_email, sealed_first_name, sealed_last_name, roles, command_id, created_at,"
            " password_hash) VALUES ($1, '', '', '', '{viewer}', $1, now(), '$argon2id$')",
            PERSON,
        )
        await connection.execute(
            "INSERT INTO sessions (id, user_id, token_hash, started_at, expires_at)"
            " VALUES ($1, $1, '', now(), now() + interval '1 day')",
            PERSON,
        )
        assert await restored(told, []) == 0
        said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"shard"')]
        assert said == [{"shard": 0, "sessions": 1}, {"shard": 1, "sessions": 0}]
        assert await connection.fetchval("SELECT revoked_at IS NOT NULL FROM sessions")
    finally:
        await connection.close()


async def test_the_id_of_a_key_tells_it_from_others(settings, tmp_path, capsys):
    """The same for the same key, another one for another."""
    other = tmp_path / "key"
    other.write_bytes(b"A" * 43 + b"=")
    said: list[str] = []
    for file in (settings.key_encryption_key_file, settings.key_encryption_key_file, other):
        assert await key_id(settings.model_copy(update={"key_encryption_key_file": file}), []) == 0
        said.append(json.loads(capsys.readouterr().out)["key_id"])
    assert said[0] == said[1] != said[2]
