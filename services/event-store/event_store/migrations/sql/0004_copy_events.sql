-- Copy what the buckets of a move wrote in another shard after one position of it up to another, in one transaction.
--
-- The events come in their order there; event_streams says which of the distinct streams each is of (from 1). A stream has each revision once, whatever brought it here: an
-- event that is here is passed over, so the same again does nothing, a move that is tried again does not copy twice, and a bucket that comes back finds what it left. A
-- revision that would leave a gap is refused, and so is another event in the place of one that is here.
--
-- append_* are the appends whose last events are among these positions, for a repeated append id gets its original answer here too, with the position of the copy;
-- setting_* what is said of streams now. Null is answered, and nothing done, when the move has ended here.
CREATE FUNCTION copy_events(
    moving uuid,
    from_position bigint,
    to_position bigint,
    streams text [],
    buckets smallint [],
    categories text [],
    event_streams integer [],
    event_revisions bigint [],
    types text [],
    event_ids uuid [],
    recorded_ats timestamptz [],
    payloads bytea [],
    metadatas bytea [],
    original_shards integer [],
    original_positions bigint [],
    append_ids uuid [],
    append_fingerprints bytea [],
    append_streams text [],
    append_first_revisions bigint [],
    append_last_revisions bigint [],
    append_alsos text [],
    setting_streams text [],
    setting_buckets smallint [],
    setting_revisions bigint [],
    setting_max_counts bigint [],
    setting_max_ages interval [],
    setting_tombstones boolean [],
    OUT copied bigint,
    OUT new_head bigint
)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_variable
DECLARE
    events_count CONSTANT integer := cardinality(event_streams);
    origins bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(streams)]);
    revisions bigint[] := array_fill(-1::bigint, ARRAY[cardinality(streams)]);
    changed boolean[] := array_fill(false, ARRAY[cardinality(streams)]);
    hashes bytea[] := array_fill(NULL::bytea, ARRAY[events_count]);
    new_positions bigint[] := array_fill(NULL::bigint, ARRAY[events_count]);
    here record;
    arrival record;
    known record;
    chain bytea;
    latest timestamptz;
    last_position bigint;
    s integer;
BEGIN
    SELECT h.position, h.recorded_at, h.hash, h.held FROM public.head AS h FOR UPDATE INTO here;
    SELECT a.copied_to, a.taken, a.closed FROM public.arrivals AS a WHERE a.move_id = moving INTO arrival;
    new_head := here.position;
    IF arrival.taken OR arrival.closed THEN
        RETURN;
    END IF;
    copied := 0;
    IF arrival.copied_to < from_position THEN
        RAISE EXCEPTION 'the events after % are missing here, before those after %', arrival.copied_to, from_position;
    END IF;

    FOR known IN
        SELECT wanted.slot, found.origin, found.revision
        FROM unnest(streams) WITH ORDINALITY AS wanted (stream, slot)
        JOIN public.streams AS found ON found.stream = wanted.stream
    LOOP
        origins[known.slot] := known.origin;
        revisions[known.slot] := known.revision;
    END LOOP;

    FOR known IN
        SELECT found.stream, found.revision
        FROM unnest(event_streams, event_revisions, event_ids) AS wanted (slot, revision, event_id)
        JOIN public.events AS found ON found.origin = origins[wanted.slot] AND found.revision = wanted.revision
        WHERE found.event_id <> wanted.event_id
    LOOP
        RAISE EXCEPTION 'stream % has another event here at revision %', known.stream, known.revision;
    END LOOP;

    chain := here.hash;
    latest := here.recorded_at;
    last_position := here.position;
    FOR e IN 1 .. events_count LOOP
        s := event_streams[e];
        CONTINUE WHEN event_revisions[e] <= revisions[s];
        IF event_revisions[e] > revisions[s] + 1 THEN
            RAISE EXCEPTION 'stream % ends here at revision %, and comes with %', streams[s], revisions[s], event_revisions[e];
        END IF;
        IF get_bit(here.held, buckets[s]) = 1 THEN
            RAISE EXCEPTION 'this shard holds bucket % already', buckets[s];
        END IF;
        copied := copied + 1;
        last_position := last_position + 1;
        IF revisions[s] < 0 THEN
            origins[s] := last_position;
        END IF;
        revisions[s] := event_revisions[e];
        changed[s] := true;
        new_positions[e] := last_position;
        latest := greatest(latest, recorded_ats[e]);
        chain := public.event_hash(
            chain, last_position, origins[s], event_revisions[e], streams[s], buckets[s], categories[s], types[e], event_ids[e], recorded_ats[e],
            payloads[e], metadatas[e], original_shards[e], original_positions[e]
        );
        hashes[e] := chain;
    END LOOP;
    new_head := last_position;

    IF copied > 0 THEN
        UPDATE public.head AS h SET position = last_position, recorded_at = latest, hash = chain;

        INSERT INTO public.events (
            position, origin, revision, stream, bucket, category, type, event_id, recorded_at, payload, metadata, hash, original_shard, original_position
        )
        SELECT
            e.position, origins[e.slot], e.revision, streams[e.slot], buckets[e.slot], categories[e.slot], e.type, e.event_id, e.recorded_at,
            e.payload, e.metadata, e.hash, e.original_shard, e.original_position
        FROM unnest(
            new_positions, event_streams, event_revisions, types, event_ids, recorded_ats, payloads, metadatas, hashes, original_shards, original_positions
        ) AS e (position, slot, revision, type, event_id, recorded_at, payload, metadata, hash, original_shard, original_position)
        WHERE e.hash IS NOT NULL;

        INSERT INTO public.streams AS present (stream, origin, revision, bucket)
        SELECT w.stream, w.origin, w.revision, w.bucket
        FROM unnest(streams, origins, revisions, buckets, changed) AS w (stream, origin, revision, bucket, changed)
        WHERE w.changed
        ON CONFLICT (stream) DO UPDATE SET revision = excluded.revision;
    END IF;

    INSERT INTO public.appends (append_id, fingerprint, stream, first_revision, last_revision, position, also)
    SELECT
        a.append_id, a.fingerprint, a.stream, a.first_revision, a.last_revision,
        -- The last event may be of a further stream.
        greatest(e.position, (
            SELECT max(o.position)
            FROM jsonb_array_elements(a.also::jsonb) AS further
            JOIN public.streams AS f ON f.stream = further ->> 0
            JOIN public.events AS o ON o.origin = f.origin AND o.revision = (further ->> 2)::bigint
        )),
        a.also::jsonb
    FROM unnest(append_ids, append_fingerprints, append_streams, append_first_revisions, append_last_revisions, append_alsos)
        AS a (append_id, fingerprint, stream, first_revision, last_revision, also)
    JOIN public.streams AS s ON s.stream = a.stream
    JOIN public.events AS e ON e.origin = s.origin AND e.revision = a.last_revision
    ON CONFLICT (append_id) DO NOTHING;

    INSERT INTO public.stream_metadata AS present (stream, bucket, revision, max_count, max_age, tombstoned)
    SELECT m.stream, m.bucket, m.revision, m.max_count, m.max_age, m.tombstoned
    FROM unnest(setting_streams, setting_buckets, setting_revisions, setting_max_counts, setting_max_ages, setting_tombstones)
        AS m (stream, bucket, revision, max_count, max_age, tombstoned)
    ON CONFLICT (stream) DO UPDATE
    SET revision = excluded.revision, max_count = excluded.max_count, max_age = excluded.max_age, tombstoned = excluded.tombstoned
    WHERE present.revision < excluded.revision;

    UPDATE public.arrivals AS a SET copied_to = greatest(a.copied_to, to_position) WHERE a.move_id = moving;
END
$$;
