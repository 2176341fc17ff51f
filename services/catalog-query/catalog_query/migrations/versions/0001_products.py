"""The products of every kind, and how far the log is applied."""

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
        "products",
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
        sa.PrimaryKeyConstraint("product_id", name="products_pkey"),
        sa.CheckConstraint("kind IN ('general', 'car', 'truck')", name=op.f("products_kind")),
        sa.CheckConstraint("status IN ('draft', 'published', 'discontinued')", name=op.f("products_status")),
        sa.CheckConstraint("(price_amount IS NULL) = (price_currency IS NULL)", name=op.f("products_price")),
        sa.CheckConstraint(
            "CASE WHEN kind IN ('car', 'truck') THEN make_key IS NOT NULL AND model_key IS NOT NULL"
            " ELSE make_key IS NULL AND model_key IS NULL AND model_year IS NULL END",
            name=op.f("products_vehicle"),
        ),
        sa.CheckConstraint("kind = 'car' OR (doors IS NULL AND seats IS NULL)", name=op.f("products_car")),
        sa.CheckConstraint(
            "kind = 'truck' OR (payload_kg IS NULL AND gross_weight_kg IS NULL)", name=op.f("products_truck")
        ),
    )
    op.create_index("products_by_name", "products", ["name_key", "product_id"])
    op.create_index(
        "products_by_price",
        "products",
        ["price_currency", "price_amount", "product_id"],
        postgresql_where=sa.text("price_amount IS NOT NULL"),
    )
    op.create_index(
        "products_by_model_year",
        "products",
        ["model_year", "product_id"],
        postgresql_where=sa.text("model_year IS NOT NULL"),
    )
    op.create_index("products_by_updated", "products", ["updated_at", "product_id"])
    op.create_index(
        "products_by_make",
        "products",
        ["make_key", "model_key", "model_year"],
        postgresql_where=sa.text("make_key IS NOT NULL"),
    )
    op.create_index("products_by_category", "products", ["category"])
    op.create_index("products_by_sku", "products", ["sku"])
    op.create_index("products_by_words", "products", ["search"], postgresql_using="gin")
    op.create_table(
        "checkpoints",
        sa.Column("event_shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("owner", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("event_shard", name="checkpoints_pkey"),
    )
    # The service writes rows and never deletes one: a product that is gone is discontinued, and a rebuild makes new
    # tables.
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON products, checkpoints TO {service_role()}")


def downgrade() -> None:
    op.drop_table("checkpoints")
    op.drop_table("products")
