"""People land on the shard of their address, are found by every key, and exist once."""

import asyncio
import traceback
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from almagest.auth.events.v1 import audit_pb2
from auth.adapters.postgres import RowRefused
from auth.adapters.sealed_tables import EmailIndexRow, index_value
from auth.adapters.sharding import Shards, sharded_sessions
from auth.adapters.tables import CommandRow, SessionRow, UserRow
from auth.bootstrap import Parts, now
from auth.domain.concealed import PasswordHash
from auth.domain.errors import CommandReused, EmailTaken
from auth.domain.identifiers import bucket_in, stamped
from auth.domain.people import Role, User, registration
from auth.domain.sessions import Session
from chassis.buckets import BucketMap, bucket_of
from chassis.ids import uuid7
from sqlalchemy import bindparam, delete, func, or_, select

from .people import create


def address(parts: Parts, shard: int) -> str:
    """A new address whose home is the shard."""
    while True:
        email = f"{uuid7().hex}@example.org"
        if BucketMap(2).shard_of(parts.data_keys.bucket(email)) == shard:
            return email


async def holders(databases, parts: Parts, email: str) -> list[int]:
    """The shards that hold a row of the address, asked around SQLAlchemy."""
    indexes = parts.data_keys.candidates(email)
    found: list[int] = []
    for number, dsn in enumerate(databases.owner):
        connection = await asyncpg.connect(dsn)
        try:
            count = await connection.fetchval(
                "SELECT count(*) FROM users JOIN email_indexes ON user_id = id WHERE value = ANY($1)", indexes
            )
        finally:
            await connection.close()
        found += [number] * count
    return found


@pytest.mark.parametrize("shard", [0, 1])
async def test_a_person_is_found_by_both_keys_on_their_shard_alone(parts: Parts, asked, databases, shard: int):
    """Creation, id, address, credentials: only the person's database is asked."""
    email = address(parts, shard)
    user = await create(parts, email)
    assert await holders(databases, parts, email) == [shard]
    assert bucket_in(user.id) == parts.data_keys.bucket(email)
    home = {f"users_{shard}"}
    with asked() as log:
        assert await parts.people.by_id(user.id) == user
        assert set(log) == home
        assert await parts.people.by_email(email) == user
        assert set(log) == home
        credentials = await parts.people.credentials(email)
        assert credentials is not None
        await parts.people.replace_hash(user.id, old=credentials.password_hash, new=credentials.password_hash)
        assert set(log) == home


@pytest.mark.parametrize("shard", [0, 1])
async def test_sessions_live_where_their_person_lives(parts: Parts, asked, shard: int):
    """The session's id is enough to find it, and the other database is never asked."""
    user = await create(parts, address(parts, shard))
    session = Session(
        id=stamped(uuid7(), bucket_in(user.id)),
        user_id=user.id,
        token_hash=b"h",
        started_at=now(),
        expires_at=now() + timedelta(hours=1),
    )
    started = await parts.audit.entry(audit_pb2.LoggedIn(), of=user.id)
    with asked() as log:
        await parts.sessions.start(session, started)
        standing = await parts.sessions.standing(session.id)
        assert standing is not None
        assert standing.user == user
        async with parts.sessions.locked(session.id) as family:
            assert family is not None
            await family.replace(b"i", now=now())
            assert await family.used_before(b"h")
            assert not await family.used_before(b"i")
        assert set(log) == {f"users_{shard}"}


async def test_starting_a_session_forgets_past_ones(parts: Parts):
    """Rows of sessions that are over do not pile up."""
    user = await create(parts, address(parts, 1))
    then = datetime(2020, 1, 1, tzinfo=UTC)
    ids = [stamped(uuid7(), bucket_in(user.id)) for _ in range(2)]
    await parts.sessions.start(
        Session(id=ids[0], user_id=user.id, token_hash=b"h", started_at=then, expires_at=then + timedelta(hours=1)),
        await parts.audit.entry(audit_pb2.LoggedIn(), of=user.id),
    )
    async with parts.sessions.locked(ids[0]) as family:
        assert family is not None
        await family.replace(b"i", now=now())
    await parts.sessions.start(
        Session(id=ids[1], user_id=user.id, token_hash=b"h", started_at=now(), expires_at=now() + timedelta(hours=1)),
        await parts.audit.entry(audit_pb2.LoggedIn(), of=user.id),
    )
    assert await parts.sessions.standing(ids[0]) is None
    assert await parts.sessions.standing(ids[1]) is not None


async def test_what_names_no_bucket_is_asked_everywhere(parts: Parts, asked):
    """A question about everybody goes to all shards, and their answers are merged."""
    family_name = uuid7().hex
    emails = {address(parts, 0), address(parts, 1)}
    for email in emails:
        await create(parts, email, last_name=family_name)
    sessions = sharded_sessions(Shards(2), parts.engines)
    with asked() as log:
        async with sessions() as session:
            rows = (await session.scalars(select(UserRow))).all()
            assert {row.email for row in rows if row.last_name == family_name} == emails
            assert set(log) == {"users_0", "users_1"}


async def test_a_command_is_bound_once_whichever_shards_its_addresses_have(parts: Parts, databases):
    """The same id with an address of another shard is refused; with the same request it answers the same person."""
    command_id, first, second = uuid7(), address(parts, 0), address(parts, 1)
    user = await create(parts, first, command_id=command_id)
    assert await create(parts, first, command_id=command_id) == user
    with pytest.raises(CommandReused):
        await create(parts, second, command_id=command_id)
    with pytest.raises(CommandReused):
        await create(parts, first, command_id=command_id, last_name="Byron")
    assert await holders(databases, parts, second) == []


async def test_one_address_is_created_once_however_many_try(parts: Parts, databases):
    """Ten different commands at once: one person, nine refusals."""
    email = address(parts, 1)
    results = await asyncio.gather(*(create(parts, email) for _ in range(10)), return_exceptions=True)
    assert [isinstance(result, User) for result in results].count(True) == 1
    assert sum(isinstance(result, EmailTaken) for result in results) == 9
    assert await holders(databases, parts, email) == [1]


async def test_one_command_creates_once_however_often_it_comes_at_once(parts: Parts, databases):
    """Ten times the same command: the same answer ten times."""
    email, command_id = address(parts, 0), uuid7()
    results = await asyncio.gather(*(create(parts, email, command_id=command_id) for _ in range(10)))
    assert len(set(results)) == 1
    assert await holders(databases, parts, email) == [0]


async def test_one_command_with_addresses_of_two_shards_at_once_creates_one_person(parts: Parts, databases):
    """The command's own shard decides which of the two requests it stands for."""
    command_id, emails = uuid7(), [address(parts, 0), address(parts, 1)]
    results = await asyncio.gather(
        *(create(parts, email, command_id=command_id) for email in emails), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["CommandReused", "User"]
    assert len([*await holders(databases, parts, emails[0]), *await holders(databases, parts, emails[1])]) == 1


def routed(parts: Parts) -> dict[str, tuple[object, set[str]]]:
    """Statements, and the shards that each must ask."""
    both = {"users_0", "users_1"}
    buckets = [parts.data_keys.bucket(address(parts, shard)) for shard in (0, 1)]
    zero, one = (index_value(bucket, bytes(32)) for bucket in buckets)
    id_zero, id_one = (stamped(uuid7(), bucket) for bucket in buckets)
    command = uuid7()
    command_home = {f"users_{BucketMap(2).shard_of(bucket_of(str(command)))}"}
    users, entries = select(UserRow), select(EmailIndexRow)
    made = UserRow.command_id != command
    return {
        "equal id": (users.where(UserRow.id == id_one), {"users_1"}),
        "equal id, turned around": (users.where(id_one == UserRow.id), {"users_1"}),
        "equal index among others": (
            users.join(EmailIndexRow, EmailIndexRow.user_id == UserRow.id).where(made, EmailIndexRow.value == zero),
            {"users_0"},
        ),
        "nested conjunctions": (
            users.where(made).where((UserRow.id == id_zero) & (UserRow.created_at < now())),
            {"users_0"},
        ),
        "in, one shard": (users.where(UserRow.id.in_([id_one, id_one])), {"users_1"}),
        "in, both shards": (entries.where(EmailIndexRow.value.in_([zero, one])), both),
        "in, nothing": (entries.where(EmailIndexRow.value.in_([])), both),
        "contradiction": (users.where(UserRow.id == id_one, UserRow.id == id_zero), {"users_0"}),
        "either": (users.where(or_(UserRow.id == id_one, UserRow.command_id == command)), both),
        "unequal": (users.where(UserRow.id != id_one), both),
        "compared with a column": (users.where(UserRow.id == UserRow.command_id), both),
        "computed": (entries.where(func.substring(EmailIndexRow.value, 1, 2) == zero), both),
        "session of a person": (select(SessionRow).where(SessionRow.user_id == id_zero), {"users_0"}),
        "join": (users.join(SessionRow, SessionRow.user_id == UserRow.id).where(SessionRow.id == id_one), {"users_1"}),
        "command": (select(CommandRow).where(CommandRow.id == command), command_home),
        "delete": (delete(SessionRow).where(SessionRow.user_id == id_zero), {"users_0"}),
    }


@pytest.mark.parametrize(
    "case",
    [
        "equal id", "equal id, turned around", "equal index among others", "nested conjunctions", "in, one shard", "in, both shards",
        "in, nothing", "contradiction", "either", "unequal", "compared with a column", "computed", "session of a person", "join", "command",
        "delete",
    ],
)  # fmt: skip
async def test_statements_are_routed(parts: Parts, asked, case: str):
    """A criterion that every row must meet leads to a shard; anything weaker leads to all of them."""
    statement, expected = routed(parts)[case]
    sessions = sharded_sessions(Shards(2), parts.engines)
    with asked() as log:
        async with sessions() as session:
            await session.execute(statement)  # type: ignore[call-overload]
    assert set(log) == expected


async def test_values_given_at_execution_are_routed_too(parts: Parts, asked):
    """The value of a criterion may come with the execution instead of the statement."""
    user = await create(parts, address(parts, 1))
    statement = select(UserRow).where(UserRow.id == bindparam("who"))
    sessions = sharded_sessions(Shards(2), parts.engines)
    with asked() as log:
        async with sessions() as session:
            found = await session.scalar(statement, {"who": user.id})
    assert found is not None
    assert found.id == user.id
    assert set(log) == {"users_1"}


async def test_a_row_that_the_database_refuses_is_not_shown(parts: Parts):
    """Postgres and SQLAlchemy would both show the hash in what they say; none of it reaches a log."""
    person = registration(
        email=address(parts, 0),
        password="correct horse battery staple",
        first_name="A",
        last_name="L",
        roles=[Role.VIEWER],
    )
    secret = uuid7().hex
    with pytest.raises(RowRefused, match="users_password_is_hashed") as refusal:
        await parts.people.add(person, PasswordHash(f"$plain${secret}"), command_id=uuid7(), now=now())
    shown = "".join(traceback.format_exception(refusal.value))
    assert secret not in shown
    assert person.email not in shown


async def test_a_row_without_its_key_is_refused(parts: Parts):
    """Nothing is written to a shard that was guessed."""
    sessions = sharded_sessions(Shards(2), parts.engines)
    async with sessions() as session:
        session.add(UserRow(roles=["viewer"]))
        with pytest.raises(AttributeError):
            await session.flush()


async def test_the_service_role_may_do_only_what_the_service_does(databases):
    """Least privilege: nobody becomes another, no trace of an erasure is removed, Alembic's table is not read, no DDL."""
    forbidden = [
        "UPDATE users SET id = gen_random_uuid()",
        "UPDATE users SET command_id = gen_random_uuid()",
        "UPDATE sessions SET expires_at = now()",
        "DELETE FROM used_refresh_tokens",
        "UPDATE commands SET fingerprint = ''",
        "DELETE FROM signing_keys",
        "UPDATE signing_keys SET public_key = ''",
        "UPDATE email_indexes SET value = ''",
        "DELETE FROM subject_keys",
        "DELETE FROM erasures",
        "UPDATE erasures SET forgotten_at = now()",
        "TRUNCATE users",
        "CREATE TABLE mine (x int)",
        "SELECT * FROM alembic_version",
    ]
    connection = await asyncpg.connect(databases.service[0])
    try:
        for statement in forbidden:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
