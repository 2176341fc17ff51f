"""Files that the worker fetches itself."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE jobs
            ADD COLUMN source_url text NOT NULL DEFAULT '',
            ADD COLUMN fetched boolean NOT NULL DEFAULT true,
            ADD COLUMN bytes_fetched bigint NOT NULL DEFAULT 0
        """
    )
    op.execute("COMMENT ON COLUMN jobs.source_url IS 'Where the file is fetched from; empty when it was sent.'")
    op.execute("COMMENT ON COLUMN jobs.fetched IS 'Whether the whole file is there.'")


def downgrade() -> None:
    # A job whose file is not there cannot be understood by what came before.
    op.execute(
        """
        UPDATE jobs SET state = 'cancelled', ended_at = now(), lease_owner = NULL, lease_expires = NULL
        WHERE NOT fetched AND state IN ('queued', 'running')
        """
    )
    op.execute("ALTER TABLE jobs DROP COLUMN source_url, DROP COLUMN fetched, DROP COLUMN bytes_fetched")
