-- States that readers folded streams into, and events that have left for files.

-- The latest snapshot of each stream and kind. Never the truth: each can be folded anew, so the service may change them as it likes.
CREATE TABLE snapshots (
    stream text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    -- The revision of the last event folded into it.
    revision bigint NOT NULL CHECK (revision >= 0),
    payload bytea NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (stream, kind)
);
-- statement
-- The files that hold the events from the first position on, without a gap; what is after the last of them is in events.
CREATE TABLE archives (
    first bigint PRIMARY KEY CHECK (first > 0),
    last bigint NOT NULL UNIQUE CHECK (last >= first),
    name text COLLATE "C" NOT NULL,
    bytes bigint NOT NULL,
    sha256 bytea NOT NULL,
    created_at timestamptz NOT NULL
);
-- statement
-- Where the events of a stream are in the files: one row per stream and file, with the place of each of its events in the file, counted from 0, in the order of revisions,
-- which are dense. So a stream is found without opening a file that does not hold it, at about four bytes per event.
CREATE TABLE archived_streams (
    origin bigint NOT NULL,
    first_revision bigint NOT NULL,
    archive bigint NOT NULL REFERENCES archives (first),
    -- squawk-ignore prefer-bigint-over-int
    places integer [] NOT NULL,
    PRIMARY KEY (origin, first_revision)
);
-- statement
-- Take a file in the place of the events that it holds. Both are the work of one transaction, so there is never neither; the caller has verified the file against the
-- rows, which nobody can change. The files follow each other without a gap, and the last hash tells that the file ends with this very event of this very log.
--
-- It runs as the owner of the tables: by it alone the service can remove events.
CREATE FUNCTION archive_events(first bigint, last bigint, name text, bytes bigint, sha256 bytea, last_hash bytea)
RETURNS timestamptz
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    made_at CONSTANT timestamptz := clock_timestamp();
    archived bigint;
BEGIN
    -- One at a time; who only reads is not kept waiting.
    LOCK TABLE public.archives IN SHARE ROW EXCLUSIVE MODE;
    IF first IS DISTINCT FROM (SELECT coalesce(max(a.last), 0) + 1 FROM public.archives AS a) THEN
        RAISE EXCEPTION 'another archive was made meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
    IF last_hash IS DISTINCT FROM (SELECT e.hash FROM public.events AS e WHERE e.position = last) THEN
        RAISE EXCEPTION 'the file does not end with event %', last USING ERRCODE = 'data_exception';
    END IF;
    INSERT INTO public.archives (first, last, name, bytes, sha256, created_at) VALUES (first, last, name, bytes, sha256, made_at);
    WITH gone AS (
        DELETE FROM public.events AS e WHERE e.position BETWEEN first AND last
        RETURNING e.origin, e.revision, e.position
    ),

    kept AS (
        INSERT INTO public.archived_streams (origin, first_revision, archive, places)
        SELECT g.origin, min(g.revision), first, array_agg((g.position - first)::integer ORDER BY g.revision)
        FROM gone AS g GROUP BY g.origin
        RETURNING cardinality(places) AS events
    )

    SELECT sum(k.events) FROM kept AS k INTO archived;
    IF archived IS DISTINCT FROM last - first + 1 THEN
        RAISE EXCEPTION 'there are % events from % to %', archived, first, last USING ERRCODE = 'data_exception';
    END IF;
    RETURN made_at;
END
$$;
