"""Lists of schedules belong to a generation of the products, beside its table: a rebuild makes them anew as well.

`projections.beside` names the further templates that a generation gets tables from. And what a repair takes away: the
versions of a product, and the schedules that the log does not have, by functions of the owner, since the service may
delete nothing itself.

Replicas of the release before write into the one list of all generations, and read it: from here on a trigger carries
what they write into each generation's, and 0006 what was there before. A later release takes away the trigger, what
stands in the one list, and the service's rights to it.
"""

import sqlalchemy as sa
from alembic import op
from chassis.database.migrations import service_role
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    role = service_role()
    # What others use is touched last, so that it is locked for as long as a commit takes.
    _remove(role)
    op.execute(f"""
DO $$
DECLARE
    schema text;
    key record;
BEGIN
    FOR schema IN SELECT format('products_%s', generation) FROM public.generations WHERE projection = 'products' LOOP
        EXECUTE format('CREATE TABLE %I.schedules (LIKE public.schedules INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
            schema);
        FOR key IN SELECT class.relname AS name, pg_get_indexdef(index.indexrelid) AS definition
            FROM pg_index AS index JOIN pg_class AS class ON class.oid = index.indexrelid
            WHERE index.indrelid = 'public.schedules'::regclass AND NOT index.indisprimary
        LOOP
            EXECUTE replace(key.definition, ' ON public.schedules ', format(' ON %I.schedules ', schema));
        END LOOP;
        FOR key IN SELECT conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint
            WHERE conrelid = 'public.schedules'::regclass AND contype = 'p'
        LOOP
            EXECUTE format('ALTER TABLE %I.schedules ADD CONSTRAINT %I %s', schema, key.conname, key.definition);
        END LOOP;
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I.schedules TO %I', schema, {_literal(role)});
    END LOOP;
END $$
""")  # noqa: S608 - a role that the operator named
    op.add_column(
        "projections",
        sa.Column("beside", postgresql.ARRAY(sa.String()), server_default=sa.text("'{}'"), nullable=False),
    )
    op.execute("UPDATE projections SET beside = ARRAY['schedules'] WHERE name = 'products'")
    _create(_literal(role))
    _index()
    _carry()


def _carry() -> None:
    op.execute("""
CREATE FUNCTION carry_schedule()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    number integer;
BEGIN
    FOR number IN SELECT generation FROM public.generations WHERE projection = 'products' LOOP
        EXECUTE format(
            'INSERT INTO %I.schedules SELECT ($1).* ON CONFLICT (schedule_id) DO UPDATE SET state = excluded.state,'
            ' ended_at = excluded.ended_at, failure = excluded.failure', format('products_%s', number)) USING NEW;
    END LOOP;
    RETURN NULL;
END $$
""")
    op.execute("REVOKE ALL ON FUNCTION carry_schedule() FROM PUBLIC")
    op.execute(
        "CREATE TRIGGER carry_schedule AFTER INSERT OR UPDATE ON public.schedules"
        " FOR EACH ROW EXECUTE FUNCTION carry_schedule()"
    )


def _literal(role: str) -> str:
    """A quoted identifier as a string literal."""
    return "'" + role[1:-1].replace('""', '"').replace("'", "''") + "'"


def _create(role: str) -> None:
    op.execute(f"""
CREATE OR REPLACE FUNCTION create_generation(wanted text, number integer, creator text,
    first_state text DEFAULT 'filling')
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    templates text[];
    template text;
    schema text := format('%s_%s', wanted, number);
    key record;
BEGIN
    SELECT ARRAY[one.template::text] || one.beside::text[] INTO STRICT templates
        FROM public.projections AS one WHERE one.name = wanted FOR UPDATE;
    INSERT INTO public.generations (projection, generation, state, created_by)
        VALUES (wanted, number, first_state, creator) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- A number is never used again: a process that slept since its generation was dropped must find nothing.
    UPDATE public.projections SET latest = greatest(latest, number) WHERE name = wanted;
    EXECUTE format('CREATE SCHEMA %I', schema);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', schema, {role});
    FOREACH template IN ARRAY templates LOOP
        EXECUTE format('CREATE TABLE %I.%I (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)',
            schema, template, template);
        FOR key IN SELECT conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint
            WHERE conrelid = format('public.%I', template)::regclass AND contype = 'p'
        LOOP
            EXECUTE format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', schema, template, key.conname, key.definition);
        END LOOP;
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I.%I TO %I', schema, template, {role});
    END LOOP;
    RETURN true;
END $$
""")  # noqa: S608 - a role that the operator named


def _index() -> None:
    op.execute("""
CREATE OR REPLACE FUNCTION index_generation(wanted text, number integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    templates text[];
    template text;
    schema text := format('%s_%s', wanted, number);
    missing record;
BEGIN
    SELECT ARRAY[one.template::text] || one.beside::text[] INTO STRICT templates
        FROM public.projections AS one WHERE one.name = wanted;
    PERFORM FROM public.generations WHERE projection = wanted AND generation = number FOR UPDATE;
    FOREACH template IN ARRAY templates LOOP
        SELECT class.relname AS name, pg_get_indexdef(index.indexrelid) AS definition INTO missing
            FROM pg_index AS index JOIN pg_class AS class ON class.oid = index.indexrelid
            WHERE index.indrelid = format('public.%I', template)::regclass AND NOT index.indisprimary
                AND to_regclass(format('%I.%I', schema, class.relname)) IS NULL
            ORDER BY class.relname LIMIT 1;
        IF FOUND THEN
            EXECUTE replace(
                missing.definition, format(' ON public.%I ', template), format(' ON %I.%I ', schema, template));
            RETURN true;
        END IF;
    END LOOP;
    FOREACH template IN ARRAY templates LOOP
        EXECUTE format('ANALYZE %I.%I', schema, template);
    END LOOP;
    RETURN false;
END $$
""")


def _remove(role: str) -> None:
    op.execute("""
CREATE FUNCTION remove_versions(number integer, product uuid)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    removed bigint;
BEGIN
    EXECUTE format('DELETE FROM %I.product_versions WHERE product_id = $1', format('versions_%s', number))
        USING product;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed > 0;
END $$
""")
    op.execute("""
CREATE FUNCTION remove_schedules(number integer, product uuid)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    removed bigint;
BEGIN
    EXECUTE format('DELETE FROM %I.schedules WHERE product_id = $1', format('products_%s', number)) USING product;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed > 0;
END $$
""")
    for signature in _FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO {role}")


_FUNCTIONS = ("remove_versions(integer, uuid)", "remove_schedules(integer, uuid)")


def downgrade() -> None:
    role = service_role()
    for signature in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    op.execute("DROP TRIGGER carry_schedule ON public.schedules")
    op.execute("DROP FUNCTION carry_schedule()")
    # The one list of all generations is that of the one which is read.
    op.execute("DELETE FROM public.schedules")
    op.execute("""
DO $$
DECLARE
    serves integer := (SELECT serving FROM public.projections WHERE name = 'products');
    number integer;
BEGIN
    EXECUTE format('INSERT INTO public.schedules SELECT * FROM %I.schedules', format('products_%s', serves));
    FOR number IN SELECT generation FROM public.generations WHERE projection = 'products' LOOP
        EXECUTE format('DROP TABLE %I.schedules', format('products_%s', number));
    END LOOP;
END $$
""")
    op.drop_column("projections", "beside")
    # The functions as they were before: of one template only.
    for statement in _BEFORE:
        op.execute(statement.replace("ROLE", _literal(role)))


_BEFORE = (
    """
CREATE OR REPLACE FUNCTION create_generation(wanted text, number integer, creator text,
    first_state text DEFAULT 'filling')
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
    UPDATE public.projections SET latest = greatest(latest, number) WHERE name = wanted;
    EXECUTE format('CREATE SCHEMA %I', schema);
    EXECUTE format('CREATE TABLE %I.%I (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)',
        schema, template, template);
    FOR key IN SELECT conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint
        WHERE conrelid = format('public.%I', template)::regclass AND contype = 'p'
    LOOP
        EXECUTE format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', schema, template, key.conname, key.definition);
    END LOOP;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', schema, ROLE);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I.%I TO %I', schema, template, ROLE);
    RETURN true;
END $$
""",
    """
CREATE OR REPLACE FUNCTION index_generation(wanted text, number integer)
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
""",
)
