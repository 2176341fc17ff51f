"""The queries by which a shard is read. Those whose answer may be large take so many rows, and no more once they pass
so many bytes.
"""

from functools import cache
from typing import Final

HEAD: Final = "SELECT position FROM public.head"

SIZE: Final = "octet_length(payload) + octet_length(metadata) + 250"
COLUMNS: Final = (
    "position, stream, revision, bucket, category, event_id::text AS event_id, type, payload, metadata, recorded_at,"
    f" hash, original_shard, original_position, {SIZE} AS size"
)


def bounded(where: str, order: str, rows: str = "$3", size: str = "$4") -> str:
    """A query for events in order until they are so many, or so large: with the one that passes the mark the page is
    full, so there is always a first.
    """
    page = (
        f"SELECT {COLUMNS}, sum({SIZE}) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) AS total"  # noqa: S608
        f" FROM public.events WHERE {where} ORDER BY {order} LIMIT {rows}"
    )
    return f"SELECT * FROM ({page}) AS page WHERE total - size < {size}"  # noqa: S608


@cache
def page_query(*columns: str) -> str:
    """The events between two positions whose columns are among some values, and in the same moment how far the shard is
    archived: what has left for a file must not look like what the filter left out.
    """
    filters = [f"{column} = ANY(${number})" for number, column in enumerate(columns, 5)]
    page = bounded(" AND ".join(["position > $1 AND position <= $2", *filters]), "position")
    return (
        "SELECT a.archived, e.* FROM (SELECT coalesce(max(last), 0) AS archived FROM public.archives) AS a"  # noqa: S608
        f" LEFT JOIN LATERAL ({page}) AS e ON true ORDER BY e.position"
    )


NEWEST: Final = (
    "SELECT h.position AS head, e.* FROM public.head AS h"  # noqa: S608
    f" LEFT JOIN LATERAL ({bounded('position > $1', 'position', '$2', '$3')}) AS e ON true ORDER BY e.position"
)

_OF_STREAM: Final = "origin = (SELECT origin FROM public.streams WHERE stream = $5) AND revision BETWEEN $1 AND $2"
FORWARDS: Final = bounded(_OF_STREAM, "revision")
BACKWARDS: Final = bounded(_OF_STREAM, "revision DESC")

# The first revision that the metadata of a stream leave to be answered. Ages only grow with revisions downwards, so the
# young ones are the last ones; when the first one in the database is young, some that are archived may be as well, and
# then they are looked at one by one.
_TOO_OLD: Final = "clock_timestamp() - m.max_age"
_YOUNG: Final = f"""
    CASE WHEN m.max_age IS NOT NULL THEN coalesce(
        (
            SELECT CASE
                WHEN e.revision = (SELECT min(o.revision) FROM public.events AS o WHERE o.origin = s.origin) THEN 0
                ELSE e.revision
            END
            FROM public.events AS e WHERE e.origin = s.origin AND e.recorded_at > {_TOO_OLD}
            ORDER BY e.revision LIMIT 1
        ),
        CASE WHEN EXISTS (SELECT FROM public.events AS o WHERE o.origin = s.origin) THEN s.revision + 1 ELSE 0 END
    ) ELSE 0 END
"""  # noqa: S608
_ALLOWED: Final = f"greatest(coalesce(s.revision - m.max_count + 1, 0), {_YOUNG})"
_ENDED: Final = "coalesce(m.tombstoned, false) AS ended"

EXTENT: Final = f"""
    SELECT s.revision AS last_revision, {_ALLOWED} AS first_revision, {_TOO_OLD} AS too_old, {_ENDED}
    FROM (SELECT $1::text AS stream) AS w
    LEFT JOIN public.streams AS s ON s.stream = w.stream
    LEFT JOIN public.stream_metadata AS m ON m.stream = w.stream
    WHERE s.stream IS NOT NULL OR m.tombstoned
"""  # noqa: S608


def _streams(wanted: str, after_snapshot: str, snapshot: str, snapshots: str) -> str:
    return f"""
        WITH wanted AS (
            SELECT
                w.slot, s.origin, s.revision AS last_revision, {_TOO_OLD} AS too_old, {_ENDED}, {snapshot},
                greatest(w.from_revision, {after_snapshot}, {_ALLOWED}) AS first_revision
            FROM {wanted}
            LEFT JOIN public.streams AS s ON s.stream = w.stream
            LEFT JOIN public.stream_metadata AS m ON m.stream = w.stream
            {snapshots}
            -- One that ended before it began has ended all the same.
            WHERE s.stream IS NOT NULL OR m.tombstoned
        )
        SELECT * FROM (
            SELECT
                w.slot, w.last_revision, w.first_revision, w.too_old, w.ended,
                w.snapshot_revision, w.snapshot_recorded_at,
                -- With the first row of its stream only.
                CASE WHEN row_number() OVER (PARTITION BY w.slot ORDER BY e.revision) = 1 THEN w.snapshot_payload END
                    AS snapshot_payload,
                e.*,
                sum(e.size) OVER (ORDER BY w.slot, e.revision ROWS UNBOUNDED PRECEDING) AS total
            FROM wanted AS w
            LEFT JOIN LATERAL (
                SELECT {COLUMNS} FROM public.events
                WHERE origin = w.origin AND revision BETWEEN w.first_revision AND w.last_revision AND NOT w.ended
                ORDER BY revision LIMIT $3
            ) AS e ON true
            ORDER BY w.slot, e.revision
            LIMIT $3
        ) AS page
        WHERE coalesce(total - size, 0) <= $4
    """  # noqa: S608


STREAMS: Final = _streams(
    "unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS w (stream, from_revision, slot)",
    "0",
    "NULL::bigint AS snapshot_revision, NULL::bytea AS snapshot_payload, NULL::timestamptz AS snapshot_recorded_at",
    "",
)
STREAMS_AND_SNAPSHOTS: Final = _streams(
    "unnest($1::text[], $2::bigint[], $5::text[]) WITH ORDINALITY AS w (stream, from_revision, kind, slot)",
    "coalesce(n.revision + 1, 0)",
    "n.revision AS snapshot_revision, n.payload AS snapshot_payload, n.recorded_at AS snapshot_recorded_at",
    "LEFT JOIN public.snapshots AS n ON n.stream = s.stream AND n.kind = w.kind"
    " AND n.revision BETWEEN w.from_revision AND s.revision",
)

PUT_SNAPSHOTS: Final = """
    WITH wanted AS (
        SELECT w.*, s.revision AS last_revision
        FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) WITH ORDINALITY
            AS w (stream, kind, revision, payload, slot)
        LEFT JOIN public.streams AS s ON s.stream = w.stream
    ), kept AS (
        INSERT INTO public.snapshots AS known (stream, kind, revision, payload, recorded_at)
        SELECT DISTINCT ON (w.stream, w.kind) w.stream, w.kind, w.revision, w.payload, clock_timestamp()
        FROM wanted AS w WHERE w.revision <= w.last_revision
        ORDER BY w.stream, w.kind, w.revision DESC
        ON CONFLICT (stream, kind) DO UPDATE
        SET revision = excluded.revision, payload = excluded.payload, recorded_at = excluded.recorded_at
        WHERE known.revision < excluded.revision
    )
    SELECT slot FROM wanted WHERE last_revision IS NULL OR revision > last_revision ORDER BY slot
"""
