"""A function for the most usual batch, which leaves every other to `append_batch`.

Revision ID: 0005
Revises: 0004
"""

from pathlib import Path

from alembic import op
from chassis.database.migrations import service_role

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    op.execute((_SQL / "0005_append_plain.sql").read_text(encoding="utf-8"))
    op.execute("REVOKE EXECUTE ON FUNCTION append_plain FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION append_plain TO {service_role()}")


def downgrade() -> None:
    op.execute("DROP FUNCTION append_plain")
