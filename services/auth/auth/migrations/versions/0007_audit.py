"""What was done, by whom; people who are disabled; sessions that are bound to a key."""

import sqlalchemy as sa
from alembic import op
from chassis.database.migrations import service_role

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("disabled_at", sa.DateTime(timezone=True)))
    op.add_column("sessions", sa.Column("refreshed_at", sa.DateTime(timezone=True)))
    op.add_column("sessions", sa.Column("bound_to", sa.Text))
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("subject_id", sa.Uuid, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "transaction_id",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("((pg_current_xact_id())::text)::bigint"),
        ),
    )
    op.create_index("audit_events_subject", "audit_events", ["subject_id", "id"])
    op.create_index("audit_events_order", "audit_events", ["transaction_id", "id"])
    op.create_table(
        "audit_relays",
        sa.Column("shard", sa.Text, primary_key=True),
        sa.Column("transaction_id", sa.BigInteger, nullable=False),
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("holder", sa.Uuid),
        sa.Column("held_until", sa.DateTime(timezone=True)),
    )
    role = service_role()
    for privileges, table in (
        # The service adds to the audit, and can neither change nor delete what stands there.
        ("SELECT, INSERT", "audit_events"),
        ("SELECT, INSERT, UPDATE (transaction_id, event_id, holder, held_until)", "audit_relays"),
        ("UPDATE (roles, disabled_at)", "users"),
        ("UPDATE (refreshed_at)", "sessions"),
    ):
        op.execute(f"GRANT {privileges} ON {table} TO {role}")


def downgrade() -> None:
    role = service_role()
    op.execute(f"REVOKE UPDATE (roles) ON users FROM {role}")
    op.drop_table("audit_relays")
    op.drop_table("audit_events")
    op.drop_column("sessions", "bound_to")
    op.drop_column("sessions", "refreshed_at")
    op.drop_column("users", "disabled_at")
