"""Jobs, the files that they work on, and the rows that they refused."""

from alembic import op
from chassis.database.migrations import service_role

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE jobs (
            job_id uuid PRIMARY KEY,
            type text NOT NULL,
            name text NOT NULL,
            state text NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
            submitted_by text NOT NULL,
            command_id uuid NOT NULL,
            fingerprint bytea NOT NULL,
            traceparent text NOT NULL,
            format text NOT NULL CHECK (format IN ('ndjson', 'csv')),
            on_error text NOT NULL CHECK (on_error IN ('stop', 'skip')),
            dry_run boolean NOT NULL,
            reason text NOT NULL,
            bytes_total bigint NOT NULL,
            bytes_done bigint NOT NULL DEFAULT 0,
            lines_done bigint NOT NULL DEFAULT 0,
            rows_created bigint NOT NULL DEFAULT 0,
            rows_changed bigint NOT NULL DEFAULT 0,
            rows_unchanged bigint NOT NULL DEFAULT 0,
            rows_refused bigint NOT NULL DEFAULT 0,
            consistency_tokens text[] NOT NULL DEFAULT '{}',
            error bytea,
            cancel_requested boolean NOT NULL DEFAULT false,
            attempts integer NOT NULL DEFAULT 0,
            stalls integer NOT NULL DEFAULT 0,
            lease_owner text,
            lease_expires timestamptz,
            due_at timestamptz NOT NULL DEFAULT now(),
            created_at timestamptz NOT NULL DEFAULT now(),
            started_at timestamptz,
            ended_at timestamptz,
            revision bigint NOT NULL DEFAULT 1,
            UNIQUE (submitted_by, command_id),
            CHECK ((state = 'running') = (lease_expires IS NOT NULL)),
            CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (ended_at IS NOT NULL))
        )
        """
    )
    op.execute("COMMENT ON TABLE jobs IS 'The truth about every job. Redis only rings for it.'")
    op.execute(
        "COMMENT ON COLUMN jobs.attempts IS "
        "'How often a worker has begun it: the fencing number, which every write of a running job must carry.'"
    )
    op.execute("COMMENT ON COLUMN jobs.stalls IS 'How often it was begun since it last made progress.'")
    op.execute(
        "COMMENT ON COLUMN jobs.bytes_done IS 'Where in the file the next attempt goes on, behind lines_done lines.'"
    )
    op.execute("CREATE INDEX jobs_by_submitter ON jobs (submitted_by, job_id DESC)")
    op.execute("CREATE INDEX jobs_due ON jobs (due_at) WHERE state = 'queued'")
    op.execute("CREATE INDEX jobs_leased ON jobs (lease_expires) WHERE state = 'running'")
    op.execute(
        """
        CREATE TABLE job_files (
            job_id uuid PRIMARY KEY,
            complete boolean NOT NULL DEFAULT false,
            touched_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE job_files IS "
        "'A file that is coming, or that a job works on. It has no foreign key to its job, which comes after it.'"
    )
    op.execute("CREATE INDEX job_files_incomplete ON job_files (touched_at) WHERE NOT complete")
    op.execute(
        """
        CREATE TABLE job_file_chunks (
            job_id uuid NOT NULL REFERENCES job_files ON DELETE CASCADE,
            number integer NOT NULL,
            data bytea NOT NULL,
            PRIMARY KEY (job_id, number)
        )
        """
    )
    # Compressing a quarter of a megabyte costs more than writing it, and it is deleted soon.
    op.execute("ALTER TABLE job_file_chunks ALTER COLUMN data SET STORAGE EXTERNAL")
    op.execute(
        """
        CREATE TABLE refused_rows (
            job_id uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
            line bigint NOT NULL,
            sku text NOT NULL,
            problem bytea NOT NULL,
            PRIMARY KEY (job_id, line)
        )
        """
    )
    role = service_role()
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON jobs TO {role}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON job_files TO {role}")
    op.execute(f"GRANT SELECT, INSERT ON job_file_chunks TO {role}")
    op.execute(f"GRANT SELECT, INSERT ON refused_rows TO {role}")


def downgrade() -> None:
    op.execute("DROP TABLE refused_rows")
    op.execute("DROP TABLE job_file_chunks")
    op.execute("DROP TABLE job_files")
    op.execute("DROP TABLE jobs")
