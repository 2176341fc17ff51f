"""Names and addresses are unreadable in the database, bound to their place, and people are found all the same."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from auth.adapters.sharding import Shards, sharded_sessions
from auth.adapters.tables import UserRow
from auth.bootstrap import Parts, assembled, now
from auth.domain.concealed import PasswordHash
from auth.domain.errors import EmailTaken
from auth.domain.identifiers import bucket_in, stamped
from auth.sealing_administration import migrate, unseal
from auth.settings import Settings
from chassis.buckets import BucketMap, bucket_of
from chassis.database.engine import create_engine
from chassis.database.migrations import MigrationError, downgrade, upgrade
from chassis.ids import uuid7
from chassis.sealing.aead import SealBroken, SealingError
from chassis.sealing.columns import seal_with
from sqlalchemy import select, text, update

from .people import create

HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g"
SHARDS = BucketMap(2)


async def everything(dsns) -> bytes:
    """Every column of every row of every table, as bytes."""
    found = b""
    for dsn in dsns:
        connection = await asyncpg.connect(dsn)
        try:
            tables = await connection.fetch(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
            for (table,) in tables:
                for row in await connection.fetch(f'SELECT * FROM "{table}"'):  # noqa: S608 - names from the catalog
                    found += b"".join(v if isinstance(v, bytes) else str(v).encode() for v in row.values())
        finally:
            await connection.close()
    return found


async def test_the_database_holds_neither_names_nor_addresses(fresh_settings, fresh_databases):
    """Not in any column of any table; what is read through the keys is what was written."""
    async with assembled(fresh_settings) as parts:
        user = await create(parts, "lovelace.ada@example.org", first_name="Augusta Ada", last_name="Byron-Lovelace")
        stored = await everything(fresh_databases.owner)
        for plain in (b"lovelace", b"example.org", b"Augusta", b"Byron"):
            assert plain.lower() not in stored.lower()
        assert user.id.bytes in stored or str(user.id).encode() in stored
        found = await parts.people.by_email("lovelace.ada@example.org")
        assert found is not None
        assert (found.email, found.first_name, found.last_name) == (user.email, "Augusta Ada", "Byron-Lovelace")


@pytest.mark.parametrize("column", ["sealed_email", "sealed_first_name"])
async def test_a_value_opens_in_its_row_and_column_only(parts: Parts, databases, column: str):
    """Somebody who may write to the database cannot give one person the name of another, or an address for a name."""
    bucket = parts.data_keys.bucket(f"{uuid7()}@example.org")
    shard = SHARDS.shard_of(bucket)
    async with sharded_sessions(Shards(2), parts.engines).begin() as session:
        ids = [stamped(uuid7(), bucket) for _ in range(2)]
        for user_id in ids:
            session.add(
                UserRow(
                    id=user_id,
                    email=f"{user_id}@example.org",
                    first_name="A",
                    last_name="B",
                    roles=["viewer"],
                    command_id=uuid7(),
                    created_at=now(),
                    _password_hash=PasswordHash(HASH),
                )
            )
    connection = await asyncpg.connect(databases.owner[shard])
    try:
        await connection.execute(
            f"UPDATE users SET sealed_first_name = (SELECT {column} FROM users WHERE id = $1) WHERE id = $2",  # noqa: S608
            *ids,
        )
        await connection.execute("UPDATE users SET sealed_last_name = sealed_email WHERE id = $1", ids[0])
        with pytest.raises(SealBroken):
            await parts.people.by_id(ids[1])
        with pytest.raises(SealBroken):
            await parts.people.by_id(ids[0])
    finally:
        await connection.execute("DELETE FROM users WHERE id = ANY($1)", ids)
        await connection.close()


def test_what_cannot_work_is_refused_aloud():
    """Comparing, moving, setting without a row, writing around the attribute."""
    with pytest.raises(SealingError, match="blind index"):
        select(UserRow).where(UserRow.email == "ada@example.org")
    with pytest.raises(SealingError, match="blind index"):
        select(UserRow).where(UserRow._email == "ada@example.org")
    with pytest.raises(SealingError, match="before"):
        UserRow(email="ada@example.org")
    row = UserRow(id=uuid7(), email="ada@example.org")
    assert row.email == "ada@example.org"
    row.id = uuid7()
    with pytest.raises(SealingError, match="moved"):
        _ = row.email
    assert "ada@" not in repr(vars(row))
    assert str(select(UserRow).where(UserRow._email.is_(None)))


async def test_an_engine_without_keys_seals_and_opens_nothing(parts: Parts, databases):
    """There is no default key, and a plain text is not written past the attribute."""
    await create(parts, f"{uuid7().hex}@example.org")
    engines = [create_engine(dsn, name="bare", size=1, hide_parameters=True) for dsn in databases.service]
    try:
        async with sharded_sessions(Shards(2), engines)() as session:
            with pytest.raises(SealingError, match="no keys"):
                (await session.scalars(select(UserRow))).all()
        async with sharded_sessions(Shards(2), parts.engines)() as session:
            change = update(UserRow).where(UserRow.id == uuid7()).values({UserRow._email: "ada@example.org"})
            with pytest.raises(Exception, match="through its row"):
                await session.execute(change, execution_options={"synchronize_session": False})
    finally:
        for engine in engines:
            await engine.dispose()


async def test_the_bucket_of_an_address_needs_a_key(fresh_settings):
    """The id of a new person says nothing about the address to those who have no key."""
    async with assembled(fresh_settings) as parts:
        emails = [f"{uuid7().hex}@example.org" for _ in range(64)]
        alike = sum(parts.data_keys.bucket(email) == bucket_of(email) for email in emails)
        assert alike < 8
        user = await create(parts, emails[0])
        assert bucket_in(user.id) == parts.data_keys.bucket(emails[0])


@pytest.fixture
async def old_databases(postgres, settings: Settings) -> AsyncIterator[Settings]:
    """Two shards in the shape from before people were sealed."""
    owner = tuple(postgres.create_database("auth") for _ in range(2))
    await upgrade("auth.migrations", owner, "auth", "0003")
    yield settings.model_copy(
        update={
            "database_urls": tuple(postgres.service_dsn(dsn, "auth") for dsn in owner),
            "migration_database_urls": owner,
        }
    )
    for dsn in owner:
        postgres.drop_database(dsn)


async def old_person(settings: Settings, email: str) -> UUID:
    """A row as it was written then, on the shard that it was written to then."""
    user_id = stamped(uuid7(), bucket_of(email))
    connection = await asyncpg.connect(settings.migration_database_urls[SHARDS.shard_of(bucket_of(email))])
    try:
        await connection.execute(
            "INSERT INTO users (id, email, first_name, last_name, roles, command_id, created_at, password_hash)"
            " VALUES ($1, $2, 'Ada', 'Lovelace', '{viewer}', $3, $4, $5)",
            user_id, email, uuid7(), datetime(2026, 1, 1, tzinfo=UTC), HASH,
        )  # fmt: skip
    finally:
        await connection.close()
    return user_id


async def test_people_from_before_are_sealed_and_stay_where_they_are(old_databases: Settings, capsys):
    """Ids and shards stay, people are found, addresses stay taken, nothing is left in the files; and the way back."""
    emails = [f"{uuid7().hex}@oldtimers.example" for _ in range(1201)]
    ids = {email: await old_person(old_databases, email) for email in emails}
    with pytest.raises(MigrationError, match="not sealed yet"):
        await upgrade("auth.migrations", old_databases.migration_database_urls, "auth", "0005")
    assert await migrate(old_databases, []) == 0
    told = capsys.readouterr().out.strip().splitlines()
    assert '{"step": "sealing people", "total": 1201, "done": 1201}' in told
    assert len([line for line in told if "sealing people" in line]) > 3
    assert await migrate(old_databases, []) == 0
    assert b"oldtimers" not in await everything(old_databases.migration_database_urls)
    async with assembled(old_databases) as parts:
        for email in emails[:20]:
            found = await parts.people.by_email(email)
            assert found is not None
            assert (found.id, found.email, found.last_name) == (ids[email], email, "Lovelace")
            assert (await parts.people.credentials(email)).user == found
            with pytest.raises(EmailTaken):
                await create(parts, email)
        new = f"{uuid7().hex}@newcomers.example"
        assert bucket_in((await create(parts, new)).id) == parts.data_keys.bucket(new)
    with pytest.raises(MigrationError, match="unseal"):
        await downgrade("auth.migrations", old_databases.migration_database_urls, "auth", "0003")
    assert await unseal(old_databases, []) == 0
    await downgrade("auth.migrations", old_databases.migration_database_urls, "auth", "0003")
    connection = await asyncpg.connect(old_databases.migration_database_urls[SHARDS.shard_of(bucket_of(emails[0]))])
    try:
        row = await connection.fetchrow("SELECT id, first_name FROM users WHERE email = $1", emails[0])
        assert tuple(row) == (ids[emails[0]], "Ada")
    finally:
        await connection.close()
    assert await migrate(old_databases, []) == 0


async def test_sealing_that_breaks_off_goes_on(old_databases: Settings):
    """Each batch is whole: people are plain or sealed, and never both or neither."""
    from auth.adapters.sealing_people import seal_people  # noqa: PLC0415

    emails = [f"{uuid7().hex}@example.org" for _ in range(30)]
    for email in emails:
        await old_person(old_databases, email)
    await upgrade("auth.migrations", old_databases.migration_database_urls, "auth", "0004")
    async with assembled(old_databases) as parts:
        owned = [create_engine(dsn, name="o", size=1) for dsn in old_databases.migration_database_urls]
        for engine in owned:
            seal_with(engine, parts.data_keys.ring)
        seen = 0
        async for progress in seal_people(owned, parts.data_keys, batch=7):
            seen += 1
            if progress.done:
                break
        half = "SELECT count(*) FILTER (WHERE sealed_email IS NULL) AS plain, count(*) FILTER (WHERE email IS NULL) AS sealed, count(*) AS all FROM users"
        async with owned[0].connect() as zero, owned[1].connect() as one:
            counts = [(await each.execute(text(half))).one() for each in (zero, one)]
        assert sum(each.sealed for each in counts) == progress.done
        assert sum(each.plain for each in counts) == 30 - progress.done
        async for _ in seal_people(owned, parts.data_keys, batch=7):
            pass
        for engine in owned:
            await engine.dispose()
        await upgrade("auth.migrations", old_databases.migration_database_urls, "auth")
        await parts.data_keys.read()
        assert all([await parts.people.by_email(email) is not None for email in emails])
