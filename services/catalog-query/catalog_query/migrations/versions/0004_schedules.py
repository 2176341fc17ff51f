"""What is planned, for those who list it and for the worker that carries it out; and what keeps the worker from it."""

import sqlalchemy as sa
from alembic import op
from chassis.database.migrations import service_role

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    role = service_role()
    op.create_table(
        "schedules",
        sa.Column("schedule_id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("price_amount", sa.String(), nullable=True),
        sa.Column("price_currency", sa.String(), nullable=True),
        sa.Column("published", sa.Boolean(), nullable=True),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("scheduled_by", sa.String(), nullable=False),
        sa.Column("scheduled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failure", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("schedule_id", name="schedules_pkey"),
        sa.CheckConstraint(
            "state IN ('open', 'activated', 'cancelled', 'failed')",
            name=op.f("schedules_state"),
        ),
        sa.CheckConstraint(
            "(price_amount IS NULL) = (price_currency IS NULL) AND (price_amount IS NULL) <> (published IS NULL)",
            name=op.f("schedules_change"),
        ),
    )
    op.create_index("schedules_of_product", "schedules", ["product_id", "effective_at", "schedule_id"])
    op.create_index("schedules_by_time", "schedules", ["effective_at", "schedule_id"])
    op.create_index(
        "schedules_open", "schedules", ["effective_at", "schedule_id"], postgresql_where=sa.text("state = 'open'")
    )
    op.create_table(
        "schedule_refusals",
        sa.Column("schedule_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("refused_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("schedule_id", name="schedule_refusals_pkey"),
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON schedules TO {role}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON schedule_refusals TO {role}")


def downgrade() -> None:
    op.drop_table("schedule_refusals")
    op.drop_table("schedules")
