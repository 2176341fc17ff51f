"""Every column of every table that a service can read, in pieces of so many blocks.

Columns of bytes are searched for the forms of each needle, all others as text in any case. Pieces are ranges of rows by
where they lie in the file (`ctid`), which Postgres reads without an index and without reading the rest.
"""

from collections.abc import AsyncGenerator
from typing import Any

from chassis.database.pool import Database
from chassis.searching.needles import Found, Needles

_BLOCKS = 512
_SECONDS = 60.0
_TABLES = """
    SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
        has_table_privilege(c.oid, 'SELECT') AS whole,
        greatest(1, pg_relation_size(c.oid) / current_setting('block_size')::bigint)::bigint AS blocks,
        array_agg(quote_ident(a.attname) ORDER BY a.attnum) FILTER (WHERE a.atttypid = 'bytea'::regtype) AS bytes,
        array_agg(quote_ident(a.attname) ORDER BY a.attnum) FILTER (WHERE a.atttypid <> 'bytea'::regtype) AS texts
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'm') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
        AND has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
    GROUP BY n.nspname, c.relname, c.oid
    ORDER BY 1
"""


async def search_database(database: Database, needles: Needles) -> AsyncGenerator[Found]:
    """Search a database, and tell how far it is, in blocks."""
    async with database.connection() as connection:
        tables = await connection.fetch(_TABLES)
    found = Found(f"database {database.name}", total=sum(table["blocks"] for table in tables))
    yield found
    for table in tables:
        question = _question(table)
        # Where a row lies may be asked by those only who may read all of it.
        step = _BLOCKS if table["whole"] else table["blocks"] + 1
        for first in range(0, table["blocks"] + 1, step):
            async with database.connection() as connection:
                row = await connection.fetchrow(
                    question,
                    needles.forms(needles.findings),
                    needles.forms(needles.mentions),
                    [text.lower() for text in needles.findings],
                    [rf"\m{_escaped(text)}\M" for text in needles.mentions],
                    f"({first},0)",
                    f"({first + step},0)",
                    timeout=_SECONDS,
                )
            found.findings += row["findings"] if row else 0
            found.mentions += row["mentions"] if row else 0
            found.searched += min(step, max(0, table["blocks"] - first))
            yield found


def _question(table: Any) -> str:
    def either(forms: str, wanted: str) -> str:
        in_bytes = [
            f"EXISTS (SELECT FROM unnest({forms}) AS form WHERE position(form IN {column}) > 0)"
            for column in table["bytes"] or ()
        ]
        in_texts = [wanted.format(column=f"{column}::text") for column in table["texts"] or ()]
        return " OR ".join(f"coalesce({part}, false)" for part in (*in_bytes, *in_texts)) or "false"

    finding = either(
        "$1::bytea[]", "EXISTS (SELECT FROM unnest($3::text[]) AS wanted WHERE position(wanted IN lower({column})) > 0)"
    )
    mention = either("$2::bytea[]", "{column} ~* ANY($4::text[])")
    # All parameters have their types, whether the table has columns for them or not.
    given = " AND ".join(f"${number} IS NOT NULL" for number in ("1::bytea[]", "2::bytea[]", "3::text[]", "4::text[]"))
    piece = "ctid >= $5::text::tid AND ctid < $6::text::tid" if table["whole"] else "$5::text <> $6::text"
    return (
        "SELECT count(*) FILTER (WHERE finding) AS findings,"  # noqa: S608 - names from the catalog
        " count(*) FILTER (WHERE mention AND NOT finding) AS mentions"
        f" FROM (SELECT {finding} AS finding, {mention} AS mention FROM {table['name']} WHERE {piece} AND {given})"
        " AS looked_at"
    )


def _escaped(text: str) -> str:
    return "".join(character if character.isalnum() else f"\\{character}" for character in text)
