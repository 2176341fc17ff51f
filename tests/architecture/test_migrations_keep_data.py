"""Down to the earliest revision that can be come back to, and up again, with rows in every table: what is lost on the way
is what is declared here, and nothing else. docs/operations/upgrades.md tells operators the same.

What a downgrade drops (a table, a column) comes back empty. Users go down to 0005 only: before, they were not sealed,
and `python -m auth unseal` opens them, which has tests of its own.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import asyncpg
import pytest
from chassis.database.migrations import downgrade, upgrade

APPEND = """
    SELECT outcomes FROM append_batch(
        ARRAY[gen_random_uuid()], ARRAY[1], ARRAY[''::bytea], ARRAY[1], ARRAY['{stream}'], ARRAY[1::smallint],
        ARRAY['a'], ARRAY[1], ARRAY[-1::bigint], ARRAY[2], ARRAY[1, 1], ARRAY['t', 'u'],
        ARRAY[gen_random_uuid(), gen_random_uuid()], ARRAY['one'::bytea, 'two'::bytea], ARRAY[''::bytea, 'm'::bytea],
        '{{}}', '{{}}', '{{}}', '{{}}', '{{}}'
    );
"""


class Tree(NamedTuple):
    """A service's migrations: how far down, what fills its tables, which are left empty, and what is lost."""

    role: str
    floor: str
    fill: str
    lost: frozenset[str]
    empty: frozenset[str] = frozenset()


EVENTS = Tree(
    "event_store",
    "0001",
    APPEND.format(stream="a-1")  # noqa: S608 - names of our own
    + APPEND.format(stream="a-2")
    + """
    UPDATE appends SET also = '[["b-1", 0, 1]]' WHERE stream = 'a-1';
    INSERT INTO stream_metadata VALUES ('a-1', 1, 0, 3, NULL, false);
    INSERT INTO snapshots VALUES ('a-1', 'k', 1, 'x', now());
    SELECT found_cluster(gen_random_uuid(), 2);
    SELECT claim_shard((SELECT cluster FROM cluster), 0, 0, 511);
    SELECT count_shards(2);
    INSERT INTO moves (move_id, first_bucket, last_bucket, from_shard, to_shard, phase, epoch, slice_buckets, cancelled)
        VALUES (gen_random_uuid(), 0, 7, 0, 1, 'cancelled', 2, 32, true);
    INSERT INTO move_slices (move_id, first_bucket, last_bucket, epoch) VALUES (gen_random_uuid(), 0, 7, 2);
    SELECT begin_arrival(gen_random_uuid());
    INSERT INTO departures (move_id) VALUES (gen_random_uuid());
    """,
    # Events keep their hashes: the way up computes the same chain again. A log that was moved must not go below 0004.
    lost=frozenset(
        {
            *("appends.also", "head.held", "stream_metadata", "snapshots"),
            *("shard_identity", "cluster", "moves", "move_slices", "arrivals", "departures"),
        }
    ),
    # With a row in these the downgrade is refused: the events would be lost with the names of their files.
    empty=frozenset({"archives", "archived_streams"}),
)

CATALOG = Tree(
    "catalog_query",
    "0001",
    """
    INSERT INTO products_1.products
        (product_id, kind, revision, sku, name_key, category, status, updated_at, document, search)
        VALUES (gen_random_uuid(), 'general', 0, 's', 'n', 'c', 'draft', now(), '{}', '');
    INSERT INTO versions_1.product_versions (product_id, kind, revision, sku, name_key, category, status, updated_at,
        document, search, made_by, valid_from, recorded_from)
        VALUES (gen_random_uuid(), 'general', 0, 's', 'n', 'c', 'draft', now(), '{}', '', 0, now(), now());
    INSERT INTO products_1.schedules (schedule_id, product_id, published, effective_at, scheduled_by, scheduled_at,
        reason, state) VALUES (gen_random_uuid(), gen_random_uuid(), true, now(), '', now(), '', 'open');
    INSERT INTO schedule_refusals VALUES (gen_random_uuid(), 5, '', '', now(), 1, now());
    INSERT INTO checkpoints (event_shard, position, owner, projection, generation, token)
        VALUES (0, 7, 'o', 'products', 1, 3), (0, 6, 'o', 'versions', 1, 3);
    INSERT INTO parked_events (parked_id, projection, generation, stream, event_shard, position, revision, event_id,
        event_type, error, last_revision) VALUES (gen_random_uuid(), 'products', 1, 's', 0, 1, 0, '', '', '', 0);
    INSERT INTO skipped_events (projection, stream, revision, event_id, event_type, error, actor, reason)
        VALUES ('products', 's', 0, '', '', '', '', '');
    INSERT INTO drift (projection, generation, product_id, kind, revision, fields)
        VALUES ('products', 1, gen_random_uuid(), '', 0, '{}');
    INSERT INTO comparisons (projection, generation, against, compared, missing, extra, different, fields, began_at)
        VALUES ('products', 1, 1, 0, 0, 0, 0, '{}', now());
    INSERT INTO differences (projection, generation, key, field, kind, revision)
        VALUES ('products', 1, 'k', 'f', '', 0);
    """,
    # All of it but decisions about skipped events is projected again. Checkpoints of products stay, those of versions go.
    lost=frozenset(
        {
            *("versions_1.product_versions", "products_1.schedules", "schedule_refusals", "parked_events"),
            *("skipped_events", "drift", "comparisons", "differences", "checkpoints"),
            *("generations.created_at", "projections.switched_at"),
        }
    ),
    # Templates, which stay empty.
    empty=frozenset({"products", "product_versions", "schedules"}),
)

USERS = Tree(
    "auth",
    "0005",
    """
    INSERT INTO users (id, sealed_email, sealed_first_name, sealed_last_name, roles, command_id, created_at,
        password_hash, disabled_at, generation)
        VALUES (gen_random_uuid(), 'e', 'f', 'l', '{viewer}', gen_random_uuid(), now(), '$argon2id$', now(), 4);
    INSERT INTO sessions (id, user_id, token_hash, started_at, expires_at, refreshed_at, bound_to)
        SELECT gen_random_uuid(), id, 'h', now(), now(), now(), 'k' FROM users;
    INSERT INTO used_refresh_tokens SELECT id, 'u' FROM sessions;
    INSERT INTO commands VALUES (gen_random_uuid(), 'f', now());
    INSERT INTO signing_keys VALUES ('k', 'p', 's', 'active', now());
    INSERT INTO payload_keys (kid, suite, sealed_private_key, state, created_at) VALUES ('k', 's', 'p', 'active', now());
    INSERT INTO revocations (kind, target, generation) VALUES ('person', gen_random_uuid(), 3);
    INSERT INTO access_keys (id, user_id, name, kind, scopes, sealed_secret, command_id, fingerprint, created_at, expires_at)
        SELECT gen_random_uuid(), id, 'n', 'hmac-sha256', '{}', 's', gen_random_uuid(), 'f', now(), now() FROM users;
    INSERT INTO data_keys VALUES ('k', 'columns', 'active', 'w', now(), now());
    INSERT INTO email_indexes SELECT 'v', id, 'k' FROM users;
    INSERT INTO subject_keys SELECT id, 'k', 'w' FROM users;
    INSERT INTO erasures (user_id, forgotten_at, requested_by) SELECT id, now(), id FROM users;
    INSERT INTO audit_events (id, subject_id, type, payload, at) SELECT gen_random_uuid(), id, 't', 'p', now() FROM users;
    INSERT INTO audit_relays VALUES ('users_0', 3, gen_random_uuid());
    """,
    # The audit is in the log as well.
    lost=frozenset(
        {
            *("audit_events", "audit_relays", "payload_keys"),
            *("users.disabled_at", "sessions.refreshed_at", "sessions.bound_to"),
        }
    ),
)

JOBS = Tree(
    "worker",
    "0001",
    """
    INSERT INTO jobs (job_id, type, name, state, submitted_by, command_id, fingerprint, traceparent, format, on_error,
        dry_run, reason, bytes_total, source_url, bytes_fetched)
        VALUES (gen_random_uuid(), 'import', 'n', 'queued', 's', gen_random_uuid(), 'f', 't', 'csv', 'skip', false, 'r',
        9, 'https://example.org/', 9);
    INSERT INTO job_files SELECT job_id, true FROM jobs;
    INSERT INTO job_file_chunks SELECT job_id, 0, 'data' FROM jobs;
    INSERT INTO refused_rows SELECT job_id, 1, 'sku', 'p' FROM jobs;
    """,
    lost=frozenset({"jobs.source_url", "jobs.bytes_fetched"}),
)

TREES: Mapping[str, Tree] = {
    "event_store.migrations": EVENTS,
    "catalog_query.migrations": CATALOG,
    "auth.migrations": USERS,
    "worker.migrations": JOBS,
}


async def rows(dsn: str) -> dict[str, list[dict[str, Any]]]:
    """Everything in every table, by its name, in an order of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        names = await connection.fetch(
            "SELECT schemaname AS schema, tablename AS name FROM pg_tables WHERE tablename <> 'alembic_version'"
            " AND schemaname <> 'information_schema' AND schemaname NOT LIKE 'pg\\_%'"
        )
        found: dict[str, list[dict[str, Any]]] = {}
        for schema, name in names:
            said = await connection.fetch(f'SELECT to_jsonb(t)::text FROM "{schema}"."{name}" AS t ORDER BY 1')  # noqa: S608
            found[name if schema == "public" else f"{schema}.{name}"] = [json.loads(row[0]) for row in said]
        return found
    finally:
        await connection.close()


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """The tables whose rows are not all there any more, and the columns that hold something else."""
    lost: set[str] = set()
    for table, said in before.items():
        if len(after[table]) != len(said):
            lost.add(table)
            continue
        lost |= {
            f"{table}.{column}"
            for one, other in zip(said, after[table], strict=True)
            for column in one
            if one[column] != other[column]
        }
    return lost


@pytest.mark.parametrize("package", TREES)
async def test_down_and_up_again_loses_what_is_declared_and_nothing_else(postgres: Any, package: str) -> None:
    """Every table has a row before; all other rows and columns are the same after."""
    tree = TREES[package]
    dsn = await asyncio.to_thread(postgres.create_database, tree.role)
    try:
        await upgrade(package, [dsn], tree.role)
        connection = await asyncpg.connect(dsn)
        await connection.execute(tree.fill)
        await connection.close()
        before = await rows(dsn)
        assert {table for table, said in before.items() if not said} == tree.empty
        await downgrade(package, [dsn], tree.role, tree.floor)
        await upgrade(package, [dsn], tree.role)
        assert difference(before, await rows(dsn)) == tree.lost
    finally:
        postgres.drop_database(dsn)


async def test_events_in_files_keep_a_log_from_going_down(postgres: Any) -> None:
    """The table that names the files would be gone, and the events with it."""
    dsn = await asyncio.to_thread(postgres.create_database, "event_store")
    try:
        await upgrade("event_store.migrations", [dsn], "event_store")
        connection = await asyncpg.connect(dsn)
        await connection.execute("INSERT INTO archives VALUES (1, 2, 'n', 3, '', now())")
        await connection.close()
        with pytest.raises(Exception, match="events are archived"):
            await downgrade("event_store.migrations", [dsn], "event_store", "0002")
        assert (await rows(dsn))["archives"]
    finally:
        postgres.drop_database(dsn)
