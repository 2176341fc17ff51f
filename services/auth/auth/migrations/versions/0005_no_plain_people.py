"""The plain columns of sealed names and e-mail addresses are gone (contract)."""

import sqlalchemy as sa
from alembic import op
from chassis.database.migrations import MigrationError

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_PLAIN = ("email", "first_name", "last_name")


def upgrade() -> None:
    if op.get_bind().scalar(sa.text("SELECT EXISTS (SELECT FROM users WHERE sealed_email IS NULL)")):
        raise MigrationError("there are people who are not sealed yet; seal them: python -m auth migrate")
    for column in _PLAIN:
        op.alter_column("users", f"sealed_{column}", nullable=False)
        op.drop_column("users", column)


def downgrade() -> None:
    for column in _PLAIN:
        op.add_column("users", sa.Column(column, sa.Text))
        op.alter_column("users", f"sealed_{column}", nullable=True)
    op.create_unique_constraint("users_email_key", "users", ["email"])
    op.create_check_constraint("users_email_is_normalised", "users", "email = lower(email)")
