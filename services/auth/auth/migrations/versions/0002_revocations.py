"""What tokens are not good any more, and how often each person's rights have changed."""

import sqlalchemy as sa
from alembic import op
from chassis.database.migrations import service_role

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("generation", sa.Integer, nullable=False, server_default=sa.text("1")))
    op.create_table(
        "revocations",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("target", sa.Uuid, primary_key=True),
        # Persons only; 0 otherwise.
        sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column(
            "revoked_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
        ),
        sa.Column(
            "transaction_id",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("((pg_current_xact_id())::text)::bigint"),
        ),
        sa.CheckConstraint("kind IN ('session', 'access_key', 'person')", name="revocations_kind_is_known"),
    )
    op.create_index("revocations_transaction", "revocations", ["transaction_id"])
    role = service_role()
    op.execute(f"GRANT SELECT, INSERT, DELETE ON revocations TO {role}")
    op.execute(f"GRANT UPDATE (generation) ON users TO {role}")


def downgrade() -> None:
    op.drop_table("revocations")
    op.drop_column("users", "generation")
