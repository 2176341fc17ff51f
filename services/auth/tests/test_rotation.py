"""Keys are rotated while people come, are found and are read, and what breaks off goes on."""

import asyncio
import base64
import os
from datetime import timedelta

import asyncpg
import pytest
from auth.adapters.rotation import WRAPPED, Keys, Rotation
from auth.application.keys import ensure_keys
from auth.bootstrap import Parts, assembled, now
from auth.domain.errors import EmailTaken, RotationRunning
from auth.sealing_administration import rotate_data_keys
from chassis.ids import uuid7
from chassis.sealing.aead import UnknownKey

from .people import create


async def ask(dsns, question: str, *values: object) -> set[bytes]:
    found: set[bytes] = set()
    for dsn in dsns:
        connection = await asyncpg.connect(dsn)
        try:
            found |= {row[0] for row in await connection.fetch(question, *values)}
        finally:
            await connection.close()
    return found


SEALED_WITH = """SELECT DISTINCT substring(sealed FROM 2 FOR 8) FROM users,
    unnest(ARRAY[sealed_email, sealed_first_name, sealed_last_name]) AS sealed"""
INDEXED_WITH = "SELECT DISTINCT key_id FROM email_indexes"


def rotation(parts: Parts, *, batch: int = 3) -> Rotation:
    return Rotation(
        parts.engines, parts.data_keys, parts.key_encryption_key, clock=now, settle=timedelta(seconds=0.5), batch=batch
    )


@pytest.mark.parametrize(("keys", "question"), [(Keys.COLUMNS, SEALED_WITH), (Keys.INDEX, INDEXED_WITH)])
async def test_keys_change_under_people_who_come_and_are_found(
    fresh_settings, fresh_databases, keys: Keys, question: str
):
    """Another replica creates and reads all the while: nobody is missed, no address is given twice, no old key is left."""
    async with assembled(fresh_settings) as operator, assembled(fresh_settings) as replica:
        people = [await create(operator, f"{uuid7().hex}@example.org") for _ in range(10)]
        before = await ask(fresh_databases.owner, question)
        assert len(before) == 1
        watching = asyncio.create_task(replica.data_keys.watch(0.1))
        running = True

        async def live() -> int:
            rounds = 0
            while running:
                people.append(await create(replica, f"{uuid7().hex}@example.org"))
                for person in people:
                    assert await replica.people.by_email(person.email) == person
                    assert await replica.people.by_id(person.id) == person
                with pytest.raises(EmailTaken):
                    await create(replica, people[rounds % len(people)].email)
                rounds += 1
            return rounds

        living = asyncio.create_task(live())
        told = [progress async for progress in rotation(operator).run(keys)]
        running = False
        assert await living > 0
        watching.cancel()
        assert told[-1].done == told[-1].total or told[-1].step.startswith("waiting")
        assert any(0 < progress.done < progress.total for progress in told)
        after = await ask(fresh_databases.owner, question)
        assert len(after) == 1
        assert after.isdisjoint(before)
        assert await ask(fresh_databases.owner, "SELECT key_id FROM data_keys WHERE state <> 'active'") == set()
        for person in people:
            assert await operator.people.by_email(person.email) == person


@pytest.mark.parametrize(("keys", "question"), [(Keys.COLUMNS, SEALED_WITH), (Keys.INDEX, INDEXED_WITH)])
async def test_a_rotation_that_breaks_off_anywhere_goes_on(fresh_settings, fresh_databases, keys: Keys, question: str):
    """After each single step of it; it does not begin another one before this one is over."""
    async with assembled(fresh_settings) as parts:
        people = [await create(parts, f"{uuid7().hex}@example.org") for _ in range(7)]
        before = await ask(fresh_databases.owner, question)
        for steps in range(1, 40):
            breaking = rotation(parts, batch=2).run(keys)
            told = 0
            async for _ in breaking:
                told += 1
                if told == steps:
                    break
            else:
                break
            await breaking.aclose()
            for person in people:
                assert await parts.people.by_email(person.email) == person
        else:
            pytest.fail("it never came to its end")
        after = await ask(fresh_databases.owner, question)
        assert len(after) == 1
        assert after.isdisjoint(before)
        assert len(await ask(fresh_databases.owner, "SELECT key_id FROM data_keys")) == 3


async def test_one_rotation_runs_at_a_time(fresh_settings):
    """Two at once would take each other's keys for old ones; one that broke off holds nobody up."""
    async with assembled(fresh_settings) as one, assembled(fresh_settings) as other:
        first = rotation(one).run(Keys.COLUMNS)
        assert await anext(first)
        with pytest.raises(RotationRunning):
            await anext(rotation(other).run(Keys.INDEX))
        await first.aclose()
        assert await anext(rotation(other).run(Keys.WRAPPING))


async def test_a_new_key_encryption_key_takes_over(fresh_settings, fresh_databases, tmp_path, capsys):
    """With the older file beside it everything opens; after the command the older file is not needed any more."""
    async with assembled(fresh_settings) as parts:
        person = await create(parts, f"{uuid7().hex}@example.org")
        keys = await ensure_keys(keys=parts.signing_keys, forge=parts.forge, clock=now)
        said = await parts.subjects.seal(person.id, "address", b"192.0.2.7")
    newer = tmp_path / "newer"
    newer.write_bytes(base64.b64encode(os.urandom(32)))
    both = fresh_settings.model_copy(
        update={
            "key_encryption_key_file": newer,
            "older_key_encryption_key_files": (fresh_settings.key_encryption_key_file,),
        }
    )
    assert await rotate_data_keys(both, ["wrapping"]) == 0
    assert '"step": "wrapping keys anew"' in capsys.readouterr().out
    alone = both.model_copy(update={"older_key_encryption_key_files": ()})
    async with assembled(alone) as parts:
        assert await parts.people.by_email(person.email) == person
        assert await parts.subjects.open(person.id, "address", said) == b"192.0.2.7"
        for key in await parts.signing_keys.all():
            assert parts.key_encryption_key.unseal(key.sealed_private_key, context=f"signing key {key.kid}")
        assert {key.kid for key in await parts.signing_keys.all()} == {key.kid for key in keys}
    with pytest.raises(Exception, match="sealed with"):
        async with assembled(fresh_settings):
            pytest.fail("the older key still opens something")


async def test_all_that_is_sealed_under_the_key_encryption_key_is_known(fresh_databases):
    """A column that a rotation forgot would be lost with the older key."""
    connection = await asyncpg.connect(fresh_databases.owner[0])
    try:
        columns = await connection.fetch(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
            " AND data_type = 'bytea' AND (column_name LIKE 'sealed%' OR column_name = 'wrapped')"
        )
    finally:
        await connection.close()
    people = {("users", f"sealed_{field}") for field in ("email", "first_name", "last_name")}
    assert {(wrapped.table, wrapped.column) for wrapped in WRAPPED} == {tuple(row) for row in columns} - people


async def test_a_destroyed_column_key_opens_nothing(fresh_settings, fresh_databases):
    """What somebody copied before a rotation is lost with the key that sealed it."""
    async with assembled(fresh_settings) as parts:
        await create(parts, f"{uuid7().hex}@example.org")
        copied = (await ask(fresh_databases.owner, "SELECT sealed_email FROM users")).pop()
        async for _ in rotation(parts).run(Keys.COLUMNS):
            pass
        with pytest.raises(UnknownKey):
            parts.data_keys.ring.open(copied, context=b"")
