-- Which shard this is, and how buckets come and go. docs/adr/0017 says why it is safe; the order of the steps stands in event_store/application/moves.py.

-- What this database is: a log whose databases are given in another order would read and write the wrong buckets.
CREATE TABLE shard_identity (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    cluster uuid NOT NULL,
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 1023)
);
-- statement
-- In shard 0 only: the log that the shards make up.
CREATE TABLE cluster (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    cluster uuid NOT NULL,
    -- How many shards the buckets were first dealt to, in equal ranges.
    initial_shards smallint NOT NULL CHECK (initial_shards BETWEEN 1 AND 1024),
    -- How many shards have been made members; 0 until the first ones are.
    shards smallint NOT NULL DEFAULT 0 CHECK (shards BETWEEN 0 AND 1024)
);
-- statement
-- In shard 0 only: the moves, for those who look, and the right to work on one. What truly happened stands in `departures` and `arrivals`.
CREATE TABLE moves (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    move_id uuid NOT NULL UNIQUE,
    first_bucket smallint NOT NULL CHECK (first_bucket BETWEEN 0 AND 1023),
    last_bucket smallint NOT NULL CHECK (last_bucket BETWEEN first_bucket AND 1023),
    from_shard smallint NOT NULL,
    to_shard smallint NOT NULL CHECK (to_shard <> from_shard),
    phase text NOT NULL DEFAULT 'copying' CHECK (phase IN ('copying', 'fenced', 'done', 'failed')),
    -- The version of the shard map that it leads to. Given out here, where one move is made at a time, so no two maps have the same.
    epoch bigint NOT NULL UNIQUE,
    copied_events bigint NOT NULL DEFAULT 0,
    total_events bigint NOT NULL DEFAULT 0,
    pause interval,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    error text NOT NULL DEFAULT '',
    -- The process that works on it, and until when nobody else may.
    holder uuid,
    leased_until timestamptz NOT NULL DEFAULT '-infinity'
);
-- statement
CREATE UNIQUE INDEX moves_one_at_a_time ON moves ((true)) WHERE phase IN ('copying', 'fenced');
-- statement
-- In the shard that buckets leave: a move that has come to its end here can fence nothing any more, whoever still works on it.
CREATE TABLE departures (
    move_id uuid PRIMARY KEY,
    -- The head when the buckets were fenced; null: they are not.
    fenced_position bigint,
    fenced_at timestamptz,
    ended boolean NOT NULL DEFAULT false
);
-- statement
-- In the shard that buckets come to: up to which position of the other shard its events are here, and whether they were taken. One that is closed never will be.
CREATE TABLE arrivals (
    move_id uuid PRIMARY KEY,
    copied_to bigint NOT NULL DEFAULT 0,
    taken boolean NOT NULL DEFAULT false,
    closed boolean NOT NULL DEFAULT false
);
-- statement
-- How a move finds the appends of what it copies. They are written in the order of their positions, so an index of a few bytes per hundred pages does, and costs an
-- append next to nothing; a tree of them would cost it a leaf.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX appends_position ON appends USING brin (position) WITH (pages_per_range = 16, autosummarize = on);
-- statement
CREATE FUNCTION bucket_mask(first_bucket integer, last_bucket integer)
RETURNS bit(1024)
LANGUAGE sql
IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (repeat('0', first_bucket) || repeat('1', last_bucket - first_bucket + 1) || repeat('0', 1023 - last_bucket))::bit(1024)
$$;
-- statement
-- Begin a log of so many shards, in shard 0; whoever comes second gets what the first one began.
CREATE FUNCTION found_cluster(new_cluster uuid, new_shards integer, OUT cluster uuid, OUT initial_shards integer, OUT shards integer)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO public.cluster (cluster, initial_shards) VALUES (new_cluster, new_shards) ON CONFLICT DO NOTHING;
    SELECT c.cluster, c.initial_shards, c.shards FROM public.cluster AS c INTO found_cluster.cluster, found_cluster.initial_shards, found_cluster.shards;
END
$$;
-- statement
-- Say which shard a database is that is none yet, and which buckets it holds at first: first_bucket null for none.
CREATE FUNCTION claim_shard(new_cluster uuid, new_shard integer, first_bucket integer, last_bucket integer)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    here bigint;
BEGIN
    SELECT h.position FROM public.head AS h FOR UPDATE INTO here;
    IF EXISTS (SELECT FROM public.shard_identity) THEN
        RETURN;
    END IF;
    IF first_bucket IS NULL AND here > 0 THEN
        RAISE EXCEPTION 'a database that holds events cannot be added as a new shard';
    END IF;
    IF EXISTS (SELECT FROM public.streams AS s WHERE s.bucket NOT BETWEEN first_bucket AND last_bucket) THEN
        RAISE EXCEPTION 'this database holds streams of other buckets than % to %', first_bucket, last_bucket;
    END IF;
    INSERT INTO public.shard_identity (cluster, shard) VALUES (new_cluster, new_shard);
    UPDATE public.head
    SET held = CASE WHEN first_bucket IS NULL THEN 0::bit(1024) ELSE public.bucket_mask(first_bucket, last_bucket) END;
END
$$;
-- statement
CREATE FUNCTION count_shards(known integer)
RETURNS void
LANGUAGE sql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE public.cluster SET shards = known WHERE shards < known
$$;
-- statement
-- Take no more appends for buckets, for good: answers the head that this left, and how long ago it was. The same again answers the same. Null when the move has ended here.
CREATE FUNCTION fence_buckets(
    moving uuid, first_bucket integer, last_bucket integer, OUT fenced_position bigint, OUT recorded_at timestamptz, OUT seconds double precision
)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    mask CONSTANT bit(1024) := public.bucket_mask(first_bucket, last_bucket);
    here record;
    known record;
BEGIN
    SELECT h.position, h.recorded_at, h.held FROM public.head AS h FOR UPDATE INTO here;
    INSERT INTO public.departures (move_id) VALUES (moving) ON CONFLICT DO NOTHING;
    SELECT d.fenced_position, d.fenced_at, d.ended FROM public.departures AS d WHERE d.move_id = moving INTO known;
    IF known.ended THEN
        RETURN;
    END IF;
    fence_buckets.recorded_at := here.recorded_at;
    IF known.fenced_position IS NOT NULL THEN
        fence_buckets.fenced_position := known.fenced_position;
        fence_buckets.seconds := extract(epoch FROM clock_timestamp() - known.fenced_at);
        RETURN;
    END IF;
    IF here.held & mask <> mask THEN
        RAISE EXCEPTION 'this shard does not hold buckets % to %', first_bucket, last_bucket;
    END IF;
    UPDATE public.head SET held = here.held & ~mask;
    UPDATE public.departures AS d SET fenced_position = here.position, fenced_at = clock_timestamp() WHERE d.move_id = moving;
    fence_buckets.fenced_position := here.position;
    fence_buckets.seconds := 0;
END
$$;
-- statement
-- End a move in the shard that its buckets were to leave: because they were taken (they are the other shard's), or because they were not and never will be
-- (they are held here again). With only_open it is ended only if they were not fenced. Answers whether it is ended.
CREATE FUNCTION end_departure(moving uuid, first_bucket integer, last_bucket integer, taken boolean, only_open boolean)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known record;
BEGIN
    PERFORM FROM public.head FOR UPDATE;
    INSERT INTO public.departures (move_id) VALUES (moving) ON CONFLICT DO NOTHING;
    SELECT d.fenced_position, d.ended FROM public.departures AS d WHERE d.move_id = moving INTO known;
    IF known.ended THEN
        RETURN true;
    END IF;
    IF known.fenced_position IS NOT NULL THEN
        IF only_open THEN
            RETURN false;
        END IF;
        IF NOT taken THEN
            UPDATE public.head SET held = held | public.bucket_mask(first_bucket, last_bucket);
        END IF;
    END IF;
    UPDATE public.departures SET ended = true WHERE move_id = moving;
    RETURN true;
END
$$;
-- statement
CREATE FUNCTION begin_arrival(moving uuid, OUT copied_to bigint, OUT taken boolean, OUT closed boolean)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO public.arrivals (move_id) VALUES (moving) ON CONFLICT DO NOTHING;
    SELECT a.copied_to, a.taken, a.closed FROM public.arrivals AS a WHERE a.move_id = moving
    INTO begin_arrival.copied_to, begin_arrival.taken, begin_arrival.closed;
END
$$;
-- statement
-- Hold buckets whose events are all here, and know the version of the map in which this shard does. The same again answers the same. False when the arrival was closed.
CREATE FUNCTION take_buckets(
    moving uuid, first_bucket integer, last_bucket integer, fenced_position bigint, fenced_recorded_at timestamptz, new_epoch bigint
)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known record;
BEGIN
    PERFORM FROM public.head FOR UPDATE;
    SELECT a.copied_to, a.taken, a.closed FROM public.arrivals AS a WHERE a.move_id = moving INTO known;
    IF known.taken THEN
        RETURN true;
    END IF;
    IF known.closed THEN
        RETURN false;
    END IF;
    IF known.copied_to < fenced_position THEN
        RAISE EXCEPTION 'events up to % are needed, and those up to % are here', fenced_position, known.copied_to;
    END IF;
    -- Time does not go back in a stream, so not in the shard that goes on with it.
    UPDATE public.head AS h
    SET
        held = h.held | public.bucket_mask(first_bucket, last_bucket),
        epoch = greatest(h.epoch, new_epoch),
        recorded_at = greatest(h.recorded_at, fenced_recorded_at);
    UPDATE public.arrivals AS a SET taken = true WHERE a.move_id = moving;
    RETURN true;
END
$$;
-- statement
-- See to it that a move never takes its buckets here; answers whether it has.
CREATE FUNCTION close_arrival(moving uuid)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known record;
BEGIN
    PERFORM FROM public.head FOR UPDATE;
    INSERT INTO public.arrivals (move_id) VALUES (moving) ON CONFLICT DO NOTHING;
    UPDATE public.arrivals AS a SET closed = true WHERE a.move_id = moving AND NOT a.taken;
    SELECT a.taken FROM public.arrivals AS a WHERE a.move_id = moving INTO known;
    RETURN known.taken;
END
$$;
-- statement
-- Take note of a version of the shard map.
CREATE FUNCTION learn_epoch(new_epoch bigint)
RETURNS void
LANGUAGE sql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE public.head SET epoch = new_epoch WHERE epoch < new_epoch
$$;
