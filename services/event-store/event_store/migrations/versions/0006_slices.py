"""Moves that are made slice by slice, and that an operator can cancel.

Revision ID: 0006
Revises: 0005
"""

from pathlib import Path

from alembic import op
from chassis.database.migrations import service_role

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    role = service_role()
    for statement in (_SQL / "0006_slices.sql").read_text(encoding="utf-8").split("\n-- statement\n"):
        op.execute(statement)
    op.execute("REVOKE EXECUTE ON FUNCTION begin_slice FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION begin_slice TO {role}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON move_slices TO {role}")


def downgrade() -> None:
    op.execute("DROP FUNCTION begin_slice")
    op.execute("DROP TABLE move_slices")
    op.execute("UPDATE moves SET phase = 'failed' WHERE phase = 'cancelled'")
    op.execute(
        "ALTER TABLE moves DROP COLUMN slice_buckets, DROP COLUMN cancelled, DROP CONSTRAINT moves_phase_check,"
        " ADD CONSTRAINT moves_phase_check CHECK (phase IN ('copying', 'fenced', 'done', 'failed')) NOT VALID"
    )
    op.execute("ALTER TABLE moves VALIDATE CONSTRAINT moves_phase_check")
