"""The log: the counter, events, streams, appends, and the one function that writes them.

Revision ID: 0001
Revises:
"""

from pathlib import Path

from alembic import op
from chassis.database.migrations import service_role

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    role = service_role()
    for name in ("0001_log.sql", "0001_append_batch.sql"):
        # One statement at a time, as the drivers' extended protocol asks; none of ours has this mark inside.
        for statement in (_SQL / name).read_text(encoding="utf-8").split("\n-- statement\n"):
            op.execute(statement)
    # Functions are everybody's unless said otherwise. The service reads, and writes by this function only: no row of
    # the log can be changed or deleted by it.
    op.execute("REVOKE EXECUTE ON FUNCTION append_batch FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION append_batch TO {role}")
    op.execute(f"GRANT SELECT ON head, events, streams, appends TO {role}")


def downgrade() -> None:
    op.execute("DROP FUNCTION append_batch")
    op.execute("DROP TABLE appends, streams, events, head")
