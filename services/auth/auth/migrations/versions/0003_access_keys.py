"""Access keys, which sign requests in place of a session."""

import sqlalchemy as sa
from alembic import op
from chassis.database.migrations import service_role
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "access_keys",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("public_key", sa.LargeBinary),
        # Gone once it is revoked.
        sa.Column("sealed_secret", sa.LargeBinary),
        sa.Column("command_id", sa.Uuid, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        # A command is about one person, and a person lives on one shard: unique here is unique for them everywhere.
        sa.UniqueConstraint("command_id", name="access_keys_command_id_key"),
        sa.CheckConstraint("kind IN ('hmac-sha256', 'ed25519')", name="access_keys_kind_is_known"),
        sa.CheckConstraint(
            "CASE kind WHEN 'ed25519' THEN octet_length(public_key) = 32 AND sealed_secret IS NULL "
            "ELSE public_key IS NULL AND (sealed_secret IS NULL) = (revoked_at IS NOT NULL) END",
            name="access_keys_have_what_verifies",
        ),
    )
    op.create_index("access_keys_user_id", "access_keys", ["user_id"])
    role = service_role()
    op.execute(
        "GRANT SELECT, INSERT, DELETE, UPDATE (sealed_secret, expires_at, revoked_at, last_used_at) "
        f"ON access_keys TO {role}"
    )


def downgrade() -> None:
    op.drop_table("access_keys")
