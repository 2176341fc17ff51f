"""The chain of hashes, several streams in one append, what a shard holds, and metadata of streams.

Revision ID: 0002
Revises: 0001
"""

from pathlib import Path

from alembic import op
from chassis.database.migrations import service_role

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    role = service_role()
    op.execute("DROP FUNCTION append_batch")
    for name in ("0002_chain.sql", "0002_append_batch.sql"):
        _run(name)
    op.execute("REVOKE EXECUTE ON FUNCTION append_batch FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION append_batch TO {role}")
    op.execute(f"GRANT SELECT ON stream_metadata TO {role}")


def downgrade() -> None:
    role = service_role()
    op.execute("DROP FUNCTION append_batch")
    op.execute("DROP TABLE stream_metadata")
    op.execute("ALTER TABLE appends DROP COLUMN also")
    op.execute("ALTER TABLE head DROP COLUMN hash, DROP COLUMN held, DROP COLUMN epoch")
    op.execute("ALTER TABLE events DROP COLUMN hash, DROP COLUMN original_shard, DROP COLUMN original_position")
    op.execute("DROP FUNCTION event_hash")
    _run("0001_append_batch.sql")
    op.execute("REVOKE EXECUTE ON FUNCTION append_batch FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION append_batch TO {role}")


def _run(name: str) -> None:
    for statement in (_SQL / name).read_text(encoding="utf-8").split("\n-- statement\n"):
        op.execute(statement)
