"""What each service's role may do in Postgres, read from the catalogs after all migrations, against what is declared.

A table without a row here fails, and so does a right that nobody declared: it is as easily granted too wide as a method
is forgotten in a policy.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest
from chassis.database.migrations import upgrade

PACKAGES = {
    "auth": "auth.migrations",
    "catalog_query": "catalog_query.migrations",
    "event_store": "event_store.migrations",
    "worker": "worker.migrations",
}

MATRIX: Mapping[str, Mapping[str, str]] = {
    "auth": {
        "access_keys": "SELECT INSERT UPDATE(expires_at, last_used_at, revoked_at, sealed_secret) DELETE",
        "audit_events": "SELECT INSERT",
        "audit_relays": "SELECT INSERT UPDATE(event_id, held_until, holder, transaction_id)",
        "commands": "SELECT INSERT",
        "data_keys": "SELECT INSERT UPDATE(changed_at, state, wrapped) DELETE",
        "email_indexes": "SELECT INSERT DELETE",
        "erasures": "SELECT INSERT UPDATE(certified_at, sealed_terms, searched_until, stores)",
        "payload_keys": "SELECT INSERT UPDATE(retired_at, sealed_private_key, state)",
        "revocations": "SELECT INSERT DELETE",
        "sessions": "SELECT INSERT UPDATE(refreshed_at, revoked_at, token_hash) DELETE",
        "signing_keys": "SELECT INSERT UPDATE(retired_at, sealed_private_key, state)",
        "subject_keys": "SELECT INSERT UPDATE(destroyed_at, key_id, wrapped)",
        "used_refresh_tokens": "SELECT INSERT",
        "users": "SELECT INSERT UPDATE(disabled_at, generation, password_hash, roles,"
        " sealed_email, sealed_first_name, sealed_last_name) DELETE",
    },
    "catalog_query": {
        "checkpoints": "SELECT INSERT UPDATE",
        "comparisons": "SELECT INSERT UPDATE DELETE",
        "differences": "SELECT INSERT UPDATE DELETE",
        "drift": "SELECT INSERT UPDATE DELETE",
        "generations": "SELECT UPDATE(ready_at, state)",
        "parked_events": "SELECT INSERT UPDATE DELETE",
        "products_1.products": "SELECT INSERT UPDATE",
        "products_1.schedules": "SELECT INSERT UPDATE",
        # The list of the release before, whose replicas use it while ours come.
        "schedules": "SELECT INSERT UPDATE",
        "projections": "SELECT UPDATE(epoch, serving, switched_at, switched_by)",
        "schedule_refusals": "SELECT INSERT UPDATE",
        "skipped_events": "SELECT INSERT UPDATE DELETE",
        "versions_1.product_versions": "SELECT INSERT UPDATE",
    },
    # It appends, archives and moves by functions of the owner's, and writes to none of these itself.
    "event_store": {
        "appends": "SELECT",
        "archived_streams": "SELECT",
        "archives": "SELECT",
        "cluster": "SELECT",
        "events": "SELECT",
        "head": "SELECT",
        "move_slices": "SELECT INSERT UPDATE",
        "moves": "SELECT INSERT UPDATE",
        "shard_identity": "SELECT",
        "snapshots": "SELECT INSERT UPDATE DELETE",
        "stream_metadata": "SELECT",
        "streams": "SELECT",
    },
    "worker": {
        "job_file_chunks": "SELECT INSERT",
        "job_files": "SELECT INSERT UPDATE DELETE",
        "jobs": "SELECT INSERT UPDATE",
        "refused_rows": "SELECT INSERT",
    },
}

NEVER = ("TRUNCATE", "REFERENCES", "TRIGGER")

_OURS = "space.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
_RIGHTS = f"""
SELECT class.oid::regclass::text AS name, privilege, NULL AS of_columns
  FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace,
       unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
 WHERE class.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_OURS}
   AND has_table_privilege($1, class.oid, privilege)
UNION ALL
SELECT class.oid::regclass::text, privilege, string_agg(attname, ', ' ORDER BY attname)
  FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
  JOIN pg_attribute ON attrelid = class.oid AND attnum > 0 AND NOT attisdropped,
       unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS privilege
 WHERE class.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_OURS}
   AND NOT has_table_privilege($1, class.oid, privilege)
   AND has_column_privilege($1, class.oid, attnum, privilege)
 GROUP BY class.oid, privilege
 ORDER BY 1, 2
"""  # noqa: S608 - of constants


@pytest.fixture(scope="module")
def databases(postgres: Any) -> dict[str, str]:
    """The superuser's DSN of a migrated database of each service. They go with their server: to drop one waits for
    every backend of it, one that waits for us to read included.
    """
    made: dict[str, str] = {}
    for role, package in PACKAGES.items():
        owner = postgres.create_database(role)
        made[role] = postgres.superuser_dsn(owner.partition("?")[0].rpartition("/")[2])
        asyncio.run(upgrade(package, [owner], role))
    return made


async def ask(dsn: str, query: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()


async def rights(dsn: str, role: str) -> dict[str, str]:
    """From each table that the role has a right to, to its rights; those of some columns with the columns' names."""
    found: dict[str, list[str]] = {}
    for row in await ask(dsn, _RIGHTS, role):
        columns = f"({row['of_columns']})" if row["of_columns"] else ""
        found.setdefault(row["name"], []).append(row["privilege"] + columns)
    order = ("SELECT", "INSERT", "UPDATE", "DELETE", *NEVER)
    return {
        name: " ".join(sorted(granted, key=lambda one: order.index(one.partition("(")[0])))
        for name, granted in found.items()
    }


@pytest.mark.parametrize("role", PACKAGES)
def test_a_role_has_the_rights_that_are_declared_and_no_others(databases: dict[str, str], role: str) -> None:
    """Table by table, and of some only columns; none may be emptied, and no role is let at another's tables."""
    found = asyncio.run(rights(databases[role], role))
    assert found == MATRIX[role]
    for stranger in PACKAGES.keys() - {role}:
        assert asyncio.run(rights(databases[role], stranger)) == {}, stranger


@pytest.mark.parametrize("role", PACKAGES)
def test_a_role_owns_nothing_and_can_make_change_or_drop_nothing(databases: dict[str, str], role: str) -> None:
    """Dropping and altering is for owners: so no service owns a relation, a function or a schema, may create one, or can become who does."""
    dsn = databases[role]
    owned = f"""
SELECT relname FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = relnamespace
 WHERE {_OURS} AND pg_has_role($1, relowner, 'MEMBER')
UNION ALL SELECT proname FROM pg_proc JOIN pg_namespace AS space ON space.oid = pronamespace
 WHERE {_OURS} AND pg_has_role($1, proowner, 'MEMBER')
UNION ALL SELECT nspname FROM pg_namespace AS space
 WHERE {_OURS} AND (pg_has_role($1, nspowner, 'MEMBER') OR has_schema_privilege($1, space.oid, 'CREATE'))
UNION ALL SELECT datname FROM pg_database
 WHERE pg_has_role($1, datdba, 'MEMBER') OR (has_database_privilege($1, oid, 'CREATE') AND datallowconn)
"""  # noqa: S608 - of constants
    assert [row[0] for row in asyncio.run(ask(dsn, owned, role))] == []
    attributes = """
SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
       EXISTS (SELECT FROM pg_auth_members WHERE member = pg_roles.oid) AS is_member
  FROM pg_roles WHERE rolname = $1
"""
    (row,) = asyncio.run(ask(dsn, attributes, role))
    assert not any(row.values()), dict(row)


def test_a_role_may_connect_to_its_own_databases_and_to_no_other(databases: dict[str, str]) -> None:
    """The read side cannot even look into the log."""
    query = """
SELECT datname, rolname FROM pg_database, pg_roles
 WHERE rolname = ANY($1) AND datname LIKE 'test\\_%' AND has_database_privilege(pg_roles.oid, pg_database.oid, 'CONNECT')
"""
    found = {(row[0], row[1]) for row in asyncio.run(ask(databases["auth"], query, list(PACKAGES)))}
    for owner, dsn in databases.items():
        name = dsn.partition("?")[0].rpartition("/")[2]
        assert {role for database, role in found if database == name} == {owner}


@pytest.mark.parametrize("role", PACKAGES)
def test_functions_that_run_as_the_owner_are_for_their_service_only(databases: dict[str, str], role: str) -> None:
    """Such a function is a right of its own: nobody else may call it, and its search path is its own."""
    query = f"""
SELECT proname, has_function_privilege('public', pg_proc.oid, 'EXECUTE') AS anybody,
       coalesce(array_to_string(proconfig, ' '), '') AS settings
  FROM pg_proc JOIN pg_namespace AS space ON space.oid = pronamespace WHERE prosecdef AND {_OURS}
"""  # noqa: S608 - of constants
    for row in asyncio.run(ask(databases[role], query)):
        assert not row["anybody"], row["proname"]
        assert "search_path" in row["settings"], row["proname"]


async def test_a_right_too_many_is_found(databases: dict[str, str]) -> None:
    """The test sees what it is there to see: a table, and a single column."""
    connection = await asyncpg.connect(databases["event_store"])
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("GRANT TRUNCATE ON events TO event_store")
        await connection.execute("GRANT UPDATE (position) ON head TO event_store")
        found = {
            (row["name"], row["privilege"], row["of_columns"]) for row in await connection.fetch(_RIGHTS, "event_store")
        }
        assert {("events", "TRUNCATE", None), ("head", "UPDATE", "position")} <= found
    finally:
        await transaction.rollback()
        await connection.close()
