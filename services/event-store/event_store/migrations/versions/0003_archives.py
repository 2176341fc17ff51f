"""Snapshots of streams, and archives of old events.

Revision ID: 0003
Revises: 0002
"""

from pathlib import Path

from alembic import op
from chassis.database.migrations import service_role

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    role = service_role()
    for statement in (_SQL / "0003_archives.sql").read_text(encoding="utf-8").split("\n-- statement\n"):
        op.execute(statement)
    op.execute("REVOKE EXECUTE ON FUNCTION archive_events FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION archive_events TO {role}")
    op.execute(f"GRANT SELECT ON archives, archived_streams TO {role}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON snapshots TO {role}")


def downgrade() -> None:
    # What is in files alone would be lost with the tables that name them.
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM archives) THEN"
        " RAISE EXCEPTION 'events are archived; they have to be put back first'; END IF; END $$"
    )
    op.execute("DROP FUNCTION archive_events")
    op.execute("DROP TABLE archived_streams, archives, snapshots")
