"""Names and e-mail addresses are sealed: room for it, beside the plain columns (expand).

`python -m auth migrate` seals everybody between this migration and the next, which takes the plain columns away.
"""

import sqlalchemy as sa
from alembic import op
from chassis.database.migrations import MigrationError, service_role
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_PLAIN = ("email", "first_name", "last_name")


def upgrade() -> None:
    for column in _PLAIN:
        op.add_column("users", sa.Column(f"sealed_{column}", sa.LargeBinary))
        op.alter_column("users", column, nullable=True)
    op.create_table(
        "data_keys",
        sa.Column("key_id", sa.LargeBinary, primary_key=True),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("purpose IN ('columns', 'email_index', 'email_bucket')", name="data_keys_purpose_is_known"),
        sa.CheckConstraint("state IN ('next', 'active', 'retired')", name="data_keys_state_is_known"),
    )
    # One key of a purpose seals and one is to, whatever the replicas do.
    op.create_index(
        "data_keys_one_of_each",
        "data_keys",
        ["purpose", "state"],
        unique=True,
        postgresql_where=sa.text("state <> 'retired'"),
    )
    op.create_table(
        "email_indexes",
        # One address has one bucket, and one bucket one shard: unique here is unique everywhere.
        sa.Column("value", sa.LargeBinary, primary_key=True),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("key_id", sa.LargeBinary, nullable=False),
        sa.Column("unkeyed", sa.Boolean, nullable=False, server_default=sa.text("false")),
    )
    op.create_index("email_indexes_user_id", "email_indexes", ["user_id"])
    op.create_index("email_indexes_unkeyed", "email_indexes", ["unkeyed"], postgresql_where=sa.text("unkeyed"))
    op.create_table(
        "subject_keys",
        sa.Column("subject_id", sa.Uuid, primary_key=True),
        sa.Column("key_id", sa.LargeBinary, nullable=False),
        sa.Column("wrapped", sa.LargeBinary),
        sa.Column("destroyed_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "(wrapped IS NULL) = (destroyed_at IS NOT NULL)", name="subject_keys_are_whole_or_destroyed"
        ),
    )
    op.create_table(
        "erasures",
        sa.Column("user_id", sa.Uuid, primary_key=True),
        sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("requested_by", sa.Uuid, nullable=False),
        sa.Column("sealed_terms", sa.LargeBinary),
        sa.Column("stores", postgresql.JSONB, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("searched_until", sa.DateTime(timezone=True)),
        sa.Column("certified_at", sa.DateTime(timezone=True)),
    )
    op.create_index("erasures_open", "erasures", ["user_id"], postgresql_where=sa.text("certified_at IS NULL"))
    role = service_role()
    for privileges, table in (
        ("DELETE, UPDATE (sealed_email, sealed_first_name, sealed_last_name)", "users"),
        ("UPDATE (sealed_private_key)", "signing_keys"),
        ("SELECT, INSERT, DELETE, UPDATE (state, changed_at, wrapped)", "data_keys"),
        ("SELECT, INSERT, DELETE", "email_indexes"),
        ("SELECT, INSERT, UPDATE (key_id, wrapped, destroyed_at)", "subject_keys"),
        ("SELECT, INSERT, UPDATE (sealed_terms, stores, searched_until, certified_at)", "erasures"),
    ):
        op.execute(f"GRANT {privileges} ON {table} TO {role}")


def downgrade() -> None:
    if op.get_bind().scalar(sa.text("SELECT EXISTS (SELECT FROM users WHERE email IS NULL)")):
        raise MigrationError("people are sealed; open them first: python -m auth unseal")
    role = service_role()
    op.execute(f"REVOKE DELETE ON users FROM {role}")
    op.execute(f"REVOKE UPDATE (sealed_private_key) ON signing_keys FROM {role}")
    for table in ("erasures", "subject_keys", "email_indexes", "data_keys"):
        op.drop_table(table)
    for column in _PLAIN:
        op.alter_column("users", column, nullable=False)
        op.drop_column("users", f"sealed_{column}")
