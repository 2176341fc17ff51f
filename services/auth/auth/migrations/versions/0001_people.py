"""People, their sessions, the commands that made them, and the signing keys.

The same tables stand on every shard; signing keys are only ever written to the first one.
"""

import sqlalchemy as sa
from alembic import op
from chassis.database.migrations import service_role
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("first_name", sa.Text, nullable=False),
        sa.Column("last_name", sa.Text, nullable=False),
        sa.Column("roles", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("command_id", sa.Uuid, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        # One address has one bucket, and one bucket one shard: unique here is unique everywhere.
        sa.UniqueConstraint("email", name="users_email_key"),
        sa.UniqueConstraint("command_id", name="users_command_id_key"),
        sa.CheckConstraint("email = lower(email)", name="users_email_is_normalised"),
        sa.CheckConstraint("cardinality(roles) > 0", name="users_have_a_role"),
        sa.CheckConstraint("roles <@ ARRAY['viewer', 'editor', 'admin']", name="users_roles_are_known"),
        sa.CheckConstraint("password_hash LIKE '$argon2id$%'", name="users_password_is_hashed"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
    )
    op.create_index("sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "used_refresh_tokens",
        sa.Column("session_id", sa.Uuid, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("token_hash", sa.LargeBinary, primary_key=True),
    )
    op.create_table(
        "commands",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("sealed_private_key", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("state IN ('next', 'active', 'retired')", name="signing_keys_state_is_known"),
        sa.CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name="signing_keys_retire_at_a_time"),
    )
    # One key signs and one waits, whatever the replicas do.
    op.create_index(
        "signing_keys_one_of_each",
        "signing_keys",
        ["state"],
        unique=True,
        postgresql_where=sa.text("state IN ('next', 'active')"),
    )
    role = service_role()
    for privileges, table in (
        ("SELECT, INSERT, UPDATE (password_hash)", "users"),
        ("SELECT, INSERT, DELETE, UPDATE (token_hash, revoked_at)", "sessions"),
        ("SELECT, INSERT", "used_refresh_tokens"),
        ("SELECT, INSERT", "commands"),
        ("SELECT, INSERT, UPDATE (state, retired_at)", "signing_keys"),
    ):
        op.execute(f"GRANT {privileges} ON {table} TO {role}")


def downgrade() -> None:
    for table in ("signing_keys", "commands", "used_refresh_tokens", "sessions", "users"):
        op.drop_table(table)
