"""Generations of a projection's tables, fenced leases, parked events, drift.

What a projection writes lives in a schema per generation, `products_1.products` for the first. The table of the same
name in `public` stays empty: it is the template that generations are made from, and what later migrations change first.
The service may create a generation, index it and drop it by the functions here and in no other way, so that its role
needs no right to create or drop anything.
"""

import sqlalchemy as sa
from alembic import op
from chassis.database.migrations import service_role
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NOW = sa.func.now()


def upgrade() -> None:
    role = service_role()
    _projections(role)
    _functions(role)
    _first_generation()
    _checkpoints(role)
    _exceptions(role)
    _findings(role)


def _projections(role: str) -> None:
    op.create_table(
        "projections",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("template", sa.String(), nullable=False),
        sa.Column("serving", sa.Integer(), nullable=False),
        sa.Column("latest", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("switched_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("switched_by", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("name", name="projections_pkey"),
    )
    op.create_table(
        "generations",
        sa.Column("projection", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("created_by", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("projection", "generation", name="generations_pkey"),
        sa.ForeignKeyConstraint(["projection"], ["projections.name"], name="generations_projection_fkey"),
        sa.CheckConstraint("state IN ('filling', 'ready')", name=op.f("generations_state")),
    )
    op.execute(f"GRANT SELECT, UPDATE (serving, epoch, switched_at, switched_by) ON projections TO {role}")
    op.execute(f"GRANT SELECT, UPDATE (state, ready_at) ON generations TO {role}")


def _functions(role: str) -> None:
    # They run as the owner of the tables, with a search path that nobody else can put anything into; the only names in
    # what they execute are those of rows of `projections`, which the service cannot add.
    op.execute(f"""
CREATE FUNCTION create_generation(wanted text, number integer, creator text, first_state text DEFAULT 'filling')
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    template text;
    schema text := format('%s_%s', wanted, number);
    key record;
BEGIN
    SELECT one.template INTO STRICT template FROM public.projections AS one WHERE one.name = wanted FOR UPDATE;
    INSERT INTO public.generations (projection, generation, state, created_by)
        VALUES (wanted, number, first_state, creator) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- A number is never used again: a process that slept since its generation was dropped must find nothing.
    UPDATE public.projections SET latest = greatest(latest, number) WHERE name = wanted;
    EXECUTE format('CREATE SCHEMA %I', schema);
    EXECUTE format('CREATE TABLE %I.%I (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)',
        schema, template, template);
    FOR key IN SELECT conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint
        WHERE conrelid = format('public.%I', template)::regclass AND contype = 'p'
    LOOP
        EXECUTE format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', schema, template, key.conname, key.definition);
    END LOOP;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', schema, {_literal(role)});
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I.%I TO %I', schema, template, {_literal(role)});
    RETURN true;
END $$
""")  # noqa: S608 - a role that the operator named
    op.execute("""
CREATE FUNCTION index_generation(wanted text, number integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    template text;
    schema text := format('%s_%s', wanted, number);
    missing record;
BEGIN
    SELECT one.template INTO STRICT template FROM public.projections AS one WHERE one.name = wanted;
    PERFORM FROM public.generations WHERE projection = wanted AND generation = number FOR UPDATE;
    SELECT class.relname AS name, pg_get_indexdef(index.indexrelid) AS definition INTO missing
        FROM pg_index AS index JOIN pg_class AS class ON class.oid = index.indexrelid
        WHERE index.indrelid = format('public.%I', template)::regclass AND NOT index.indisprimary
            AND to_regclass(format('%I.%I', schema, class.relname)) IS NULL
        ORDER BY class.relname LIMIT 1;
    IF NOT FOUND THEN
        EXECUTE format('ANALYZE %I.%I', schema, template);
        RETURN false;
    END IF;
    EXECUTE replace(missing.definition, format(' ON public.%I ', template), format(' ON %I.%I ', schema, template));
    RETURN true;
END $$
""")
    op.execute("""
CREATE FUNCTION drop_generation(wanted text, number integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    serves integer;
BEGIN
    SELECT one.serving INTO STRICT serves FROM public.projections AS one WHERE one.name = wanted FOR UPDATE;
    IF serves = number THEN
        RAISE EXCEPTION 'generation % of % serves', number, wanted USING ERRCODE = 'object_in_use';
    END IF;
    DELETE FROM public.generations WHERE projection = wanted AND generation = number;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP SCHEMA %I CASCADE', format('%s_%s', wanted, number));
    RETURN true;
END $$
""")
    op.execute("""
CREATE FUNCTION remove_product(number integer, product uuid)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    removed bigint;
BEGIN
    EXECUTE format('DELETE FROM %I.products WHERE product_id = $1', format('products_%s', number)) USING product;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed > 0;
END $$
""")
    for signature in _FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO {role}")


_FUNCTIONS = (
    "create_generation(text, integer, text, text)",
    "index_generation(text, integer)",
    "drop_generation(text, integer)",
    "remove_product(integer, uuid)",
)


def _literal(role: str) -> str:
    """A quoted identifier as a string literal."""
    return "'" + role[1:-1].replace('""', '"').replace("'", "''") + "'"


def _first_generation() -> None:
    op.execute("INSERT INTO projections (name, template, serving) VALUES ('products', 'products', 1)")
    op.execute("SELECT create_generation('products', 1, '', 'ready')")
    _index("products", 1)
    _exchange()
    op.execute("REVOKE ALL ON products FROM " + service_role())


def _index(projection: str, generation: int) -> None:
    op.execute(f"""
DO $$ BEGIN
    WHILE index_generation('{projection}', {generation}) LOOP NULL; END LOOP;
END $$
""")


def _exchange() -> None:
    """Let the template and the first generation change places: what is in them, and their rights, go along."""
    op.execute("CREATE SCHEMA exchange")
    op.execute("ALTER TABLE public.products SET SCHEMA exchange")
    op.execute("ALTER TABLE products_1.products SET SCHEMA public")
    op.execute("ALTER TABLE exchange.products SET SCHEMA products_1")
    op.execute("DROP SCHEMA exchange")


_GENERATION = (["projection", "generation"], ["projection", "generation"])


def _of_a_generation(table: str) -> sa.ForeignKeyConstraint:
    columns, referred = _GENERATION
    return sa.ForeignKeyConstraint(
        columns, [f"generations.{name}" for name in referred], name=f"{table}_generation_fkey", ondelete="CASCADE"
    )


def _checkpoints(role: str) -> None:
    op.add_column("checkpoints", sa.Column("projection", sa.String(), server_default="products", nullable=False))
    op.add_column("checkpoints", sa.Column("generation", sa.Integer(), server_default="1", nullable=False))
    op.add_column("checkpoints", sa.Column("token", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.alter_column("checkpoints", "projection", server_default=None)
    op.alter_column("checkpoints", "generation", server_default=None)
    op.drop_constraint("checkpoints_pkey", "checkpoints")
    op.create_primary_key("checkpoints_pkey", "checkpoints", ["projection", "generation", "event_shard"])
    op.create_foreign_key("checkpoints_generation_fkey", "checkpoints", "generations", *_GENERATION, ondelete="CASCADE")
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON checkpoints TO {role}")


def _exceptions(role: str) -> None:
    op.create_table(
        "parked_events",
        sa.Column("parked_id", sa.Uuid(), nullable=False),
        sa.Column("projection", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("event_shard", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("event_type", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("tried_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("held_events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("projection", "generation", "stream", name="parked_events_pkey"),
        _of_a_generation("parked_events"),
    )
    op.create_index("parked_events_parked_id", "parked_events", ["parked_id"], unique=True)
    op.create_table(
        "skipped_events",
        sa.Column("projection", sa.String(), nullable=False),
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("event_type", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("skipped_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("projection", "stream", "revision", name="skipped_events_pkey"),
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON parked_events, skipped_events TO {role}")


def _findings(role: str) -> None:
    op.create_table(
        "drift",
        sa.Column("projection", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("fields", postgresql.ARRAY(sa.String()), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("projection", "generation", "product_id", name="drift_pkey"),
        _of_a_generation("drift"),
    )
    op.create_table(
        "comparisons",
        sa.Column("projection", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("against", sa.Integer(), nullable=False),
        sa.Column("compared", sa.BigInteger(), nullable=False),
        sa.Column("missing", sa.BigInteger(), nullable=False),
        sa.Column("extra", sa.BigInteger(), nullable=False),
        sa.Column("different", sa.BigInteger(), nullable=False),
        sa.Column("fields", postgresql.JSONB(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("projection", "generation", name="comparisons_pkey"),
        _of_a_generation("comparisons"),
    )
    op.create_table(
        "differences",
        sa.Column("projection", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(collation="C"), nullable=False),
        sa.Column("field", sa.String(collation="C"), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("before", sa.String(), nullable=True),
        sa.Column("after", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("projection", "generation", "key", "field", name="differences_pkey"),
        _of_a_generation("differences"),
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON drift, comparisons, differences TO {role}")


def downgrade() -> None:
    # What serves becomes the one table; it is as old as its own checkpoints.
    op.execute("""
DO $$
DECLARE
    serves integer := (SELECT serving FROM projections WHERE name = 'products');
    other record;
BEGIN
    DELETE FROM checkpoints WHERE projection <> 'products' OR generation <> serves;
    FOR other IN SELECT projection, generation FROM generations WHERE projection <> 'products' OR generation <> serves
    LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', format('%s_%s', other.projection, other.generation));
    END LOOP;
    DROP TABLE public.products;
    EXECUTE format('ALTER TABLE %I.products SET SCHEMA public', format('products_%s', serves));
    EXECUTE format('DROP SCHEMA %I', format('products_%s', serves));
END $$
""")
    for signature in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    op.drop_constraint("checkpoints_generation_fkey", "checkpoints")
    for table in ("differences", "comparisons", "drift", "skipped_events", "parked_events", "generations"):
        op.drop_table(table)
    op.drop_table("projections")
    op.drop_constraint("checkpoints_pkey", "checkpoints")
    for column in ("projection", "generation", "token"):
        op.drop_column("checkpoints", column)
    op.create_primary_key("checkpoints_pkey", "checkpoints", ["event_shard"])
