"""Every version of every product, in two times, as a projection of its own."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_FOREVER = sa.text("'infinity'")


def upgrade() -> None:
    op.create_table(
        "product_versions",
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("sku", sa.String(collation="C"), nullable=False),
        sa.Column("name_key", sa.String(collation="C"), nullable=False),
        sa.Column("category", sa.String(collation="C"), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("price_amount", sa.Numeric(), nullable=True),
        sa.Column("price_currency", sa.String(collation="C"), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("document", postgresql.BYTEA(), nullable=False),
        sa.Column("search", postgresql.TSVECTOR(), nullable=False),
        sa.Column("make_key", sa.String(collation="C"), nullable=True),
        sa.Column("model_key", sa.String(collation="C"), nullable=True),
        sa.Column("model_year", sa.SmallInteger(), nullable=True),
        sa.Column("doors", sa.SmallInteger(), nullable=True),
        sa.Column("seats", sa.SmallInteger(), nullable=True),
        sa.Column("payload_kg", sa.BigInteger(), nullable=True),
        sa.Column("gross_weight_kg", sa.BigInteger(), nullable=True),
        sa.Column("made_by", sa.BigInteger(), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_to", sa.DateTime(timezone=True), server_default=_FOREVER, nullable=False),
        sa.Column("recorded_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_to", sa.DateTime(timezone=True), server_default=_FOREVER, nullable=False),
        sa.Column("superseded_at", sa.DateTime(timezone=True), server_default=_FOREVER, nullable=False),
        sa.Column("planned", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("product_id", "made_by", "valid_from", name="product_versions_pkey"),
    )
    op.create_index("product_versions_by_name", "product_versions", ["name_key", "product_id"])
    op.create_index(
        "product_versions_by_price",
        "product_versions",
        ["price_currency", "price_amount", "product_id"],
        postgresql_where=sa.text("price_amount IS NOT NULL"),
    )
    op.create_index(
        "product_versions_by_make",
        "product_versions",
        ["make_key", "model_key", "model_year"],
        postgresql_where=sa.text("make_key IS NOT NULL"),
    )
    op.create_index("product_versions_by_category", "product_versions", ["category"])
    op.create_index("product_versions_by_sku", "product_versions", ["sku"])
    op.create_index("product_versions_by_words", "product_versions", ["search"], postgresql_using="gin")
    op.execute("INSERT INTO projections (name, template, serving) VALUES ('versions', 'product_versions', 1)")
    op.execute("SELECT create_generation('versions', 1, '', 'ready')")
    op.execute("""
DO $$ BEGIN
    WHILE index_generation('versions', 1) LOOP NULL; END LOOP;
END $$
""")


def downgrade() -> None:
    op.execute("""
DO $$
DECLARE
    number integer;
BEGIN
    FOR number IN SELECT generation FROM generations WHERE projection = 'versions' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', format('versions_%s', number));
    END LOOP;
END $$
""")
    for table in ("checkpoints", "parked_events", "skipped_events", "drift", "comparisons", "differences"):
        op.execute(f"DELETE FROM {table} WHERE projection = 'versions'")  # noqa: S608 - of the names above
    op.execute("DELETE FROM generations WHERE projection = 'versions'")
    op.execute("DELETE FROM projections WHERE name = 'versions'")
    op.drop_table("product_versions")
