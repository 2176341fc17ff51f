"""No migration holds up the services that use its tables: squawk looks at the SQL that each one really runs.

What is excluded, and why: `prefer-*` are matters of taste; `require-timeout-settings`, since the runner sets them for the session
(`chassis.database.migrations`).
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from chassis.database.migrations import configuration, upgrade
from sqlalchemy import Engine, event

SQUAWK = Path(sys.executable).parent / "squawk"
EXCLUDED = (
    "prefer-robust-stmts",
    "prefer-text-field",
    "prefer-bigint-over-int",
    "prefer-bigint-over-smallint",
    "prefer-identity",
    "require-timeout-settings",
)
PACKAGES = {
    "event_store.migrations": "event_store",
    "catalog_query.migrations": "catalog_query",
    "auth.migrations": "auth",
    "worker.migrations": "worker",
}

# What is accepted of a migration, and only there. All of these were made before the first release: no replica of an earlier version
# runs beside them, and the tables that they change are empty or small.
ACCEPTED = {
    # People are sealed between the two: expand, and contract.
    ("auth.migrations", "0004"): {"ban-drop-not-null"},
    ("auth.migrations", "0005"): {"adding-not-nullable-field", "ban-drop-column"},
    ("event_store.migrations", "0002"): {"ban-drop-function"},
    ("catalog_query.migrations", "0002"): {
        "adding-foreign-key-constraint",
        "adding-serial-primary-key-field",
        "ban-drop-constraint",
        "ban-drop-default",
        "ban-drop-schema",
        "ban-set-schema",
        "constraint-missing-not-valid",
    },
}


def revisions() -> Iterator[Any]:
    """Each migration of each service."""
    for package in PACKAGES:
        for revision in reversed(list(ScriptDirectory.from_config(configuration(package)).walk_revisions())):
            yield pytest.param(package, revision.revision, id=f"{package} {revision.revision}")


def complaints(sql: str, directory: Path) -> list[tuple[str, str]]:
    """What squawk says of a migration: rule and message."""
    path = directory / "migration.sql"
    path.write_text(sql, encoding="utf-8")
    done = subprocess.run(
        [SQUAWK, "--reporter=json", "--assume-in-transaction", f"--exclude={','.join(EXCLUDED)}", path],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": ""},
    )
    assert done.stdout, done.stderr
    return [(found["rule_name"], found["message"]) for found in json.loads(done.stdout)]


@pytest.mark.parametrize(("package", "revision"), list(revisions()))
def test_a_migration_holds_nobody_up(postgres: Any, tmp_path: Path, package: str, revision: str) -> None:
    """Each one, as it runs on the revision before."""
    role = PACKAGES[package]
    owner = postgres.create_database(role)
    before = ScriptDirectory.from_config(configuration(package)).get_revision(revision).down_revision
    statements: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "alembic_version" not in statement and "pg_catalog" not in statement:
            statements.append(statement.strip().rstrip(";"))

    try:
        if before:
            asyncio.run(upgrade(package, [owner], role, before))
        event.listen(Engine, "before_cursor_execute", record)
        try:
            asyncio.run(upgrade(package, [owner], role, revision))
        finally:
            event.remove(Engine, "before_cursor_execute", record)
    finally:
        postgres.drop_database(owner)
    assert statements
    found = complaints(";\n".join(statements) + ";\n", tmp_path)
    assert [one for one in found if one[0] not in ACCEPTED.get((package, revision), ())] == []


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("ALTER TABLE products ADD COLUMN weight integer NOT NULL;", "adding-required-field"),
        ("CREATE INDEX products_by_weight ON products (weight);", "require-concurrent-index-creation"),
        ("ALTER TABLE products ALTER COLUMN sku TYPE varchar(10);", "changing-column-type"),
    ],
)
def test_what_would_hold_them_up_is_found(tmp_path: Path, sql: str, rule: str) -> None:
    """The linter still can fail."""
    assert rule in {found for found, _ in complaints(sql, tmp_path)}
