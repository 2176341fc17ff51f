"""Keys that payloads are encrypted to. They are only ever written to the first shard."""

import sqlalchemy as sa
from alembic import op
from chassis.database.migrations import service_role

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "payload_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("suite", sa.Text, nullable=False),
        sa.Column("sealed_private_key", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("state IN ('next', 'active', 'retired')", name="payload_keys_state_is_known"),
        sa.CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name="payload_keys_retire_at_a_time"),
    )
    # One key of a suite is used and one waits, whatever the replicas do.
    op.create_index(
        "payload_keys_one_of_each",
        "payload_keys",
        ["suite", "state"],
        unique=True,
        postgresql_where=sa.text("state IN ('next', 'active')"),
    )
    privileges = "SELECT, INSERT, UPDATE (state, retired_at, sealed_private_key)"
    op.execute(f"GRANT {privileges} ON payload_keys TO {service_role()}")


def downgrade() -> None:
    op.drop_table("payload_keys")
