"""What stood in the one list of schedules goes into that of each generation, a thousand at a time: nobody waits for it,
and a run that was ended goes on.
"""

from uuid import UUID

from alembic import op
from sqlalchemy import text

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_BATCH = 1000
_GENERATIONS = text("SELECT generation FROM generations WHERE projection = 'products'")
# A row that is there already is newer: the trigger of 0005 has carried it over, or a replica of this release wrote it.
_CARRY = """
WITH batch AS (
    SELECT * FROM public.schedules WHERE schedule_id > :after ORDER BY schedule_id LIMIT :most
), carried AS (
    INSERT INTO products_{generation:d}.schedules SELECT * FROM batch ON CONFLICT (schedule_id) DO NOTHING
)
SELECT schedule_id FROM batch ORDER BY schedule_id DESC LIMIT 1
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        for generation in connection.execute(_GENERATIONS).scalars().all():
            carry = text(_CARRY.format(generation=generation))
            last = UUID(int=0)
            while last is not None:
                last = connection.execute(carry, {"after": last, "most": _BATCH}).scalar()


def downgrade() -> None:
    """0005 carries them back."""
