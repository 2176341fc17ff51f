"""Which shard a database is, the moves of buckets between shards, and the steps of a move.

Revision ID: 0004
Revises: 0003
"""

from pathlib import Path

from alembic import op
from chassis.database.migrations import service_role

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parents[1] / "sql"
_FUNCTIONS = (
    "found_cluster",
    "claim_shard",
    "count_shards",
    "fence_buckets",
    "end_departure",
    "begin_arrival",
    "take_buckets",
    "close_arrival",
    "learn_epoch",
    "copy_events",
)


def upgrade() -> None:
    role = service_role()
    for name in ("0004_shards.sql", "0004_copy_events.sql"):
        for statement in (_SQL / name).read_text(encoding="utf-8").split("\n-- statement\n"):
            op.execute(statement)
    for function in _FUNCTIONS:
        op.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {role}")
    op.execute(f"GRANT SELECT ON shard_identity, cluster TO {role}")
    # The list of moves is for those who look: what counts is behind the functions.
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON moves TO {role}")


def downgrade() -> None:
    for function in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    op.execute("DROP FUNCTION bucket_mask")
    op.execute("DROP INDEX appends_position")
    op.execute("DROP TABLE arrivals, departures, moves, cluster, shard_identity")
    # Without moves there is one map only: that of equal ranges, in which each shard was asked for its own alone.
    op.execute("UPDATE head SET held = ~(0::bit(1024)), epoch = 1")
