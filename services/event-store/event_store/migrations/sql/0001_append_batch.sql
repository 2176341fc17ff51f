-- Append a batch, in one round trip and one transaction: called as the only statement, it is committed by its own end, so no client can leave it open.
--
-- The arguments are arrays. Those of the appends, in order: append_slots and stream_slots say which of the distinct append_ids and streams each is about
-- (from 1), so that a batch which repeats an id or chains several appends on one stream is decided in order, in memory, without a statement per append;
-- expected is the exact revision, or -1 no stream, -2 stream exists, -3 any; sizes are the numbers of their events. Those of the events, in the order of
-- the appends: append_indexes names the append (from 1) of each.
--
-- The answer, per append: outcomes 0 written, 1 replayed (the original answer is given), 2 refused because the revision differs (last_revisions holds the actual one,
-- -1 for no stream), 3 refused because the append id was used for something else. new_head is the head after the batch.
--
-- It runs as the owner of the tables: the service may call it and read, and has no other way to write.
CREATE FUNCTION append_batch(
    append_ids uuid [],
    streams text [],
    buckets smallint [],
    categories text [],
    append_slots integer [],
    stream_slots integer [],
    expected bigint [],
    fingerprints bytea [],
    sizes integer [],
    append_indexes integer [],
    types text [],
    event_ids uuid [],
    payloads bytea [],
    metadatas bytea [],
    OUT outcomes smallint [],
    OUT first_revisions bigint [],
    OUT last_revisions bigint [],
    OUT positions bigint [],
    OUT new_head bigint
)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- One plan per session, by index, whatever the size of the tables was when it was made.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_variable
DECLARE
    appends_count CONSTANT integer := cardinality(append_slots);
    events_count CONSTANT integer := cardinality(append_indexes);
    -- Per distinct append id: what is known of it.
    known_fingerprints bytea[] := array_fill(NULL::bytea, ARRAY[cardinality(append_ids)]);
    known_streams text[] := array_fill(NULL::text, ARRAY[cardinality(append_ids)]);
    known_first bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(append_ids)]);
    known_last bigint[] := known_first;
    known_positions bigint[] := known_first;
    -- Per distinct stream: the position of its first event, its last revision (-1 for none), and whether this batch moves it.
    origins bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(streams)]);
    revisions bigint[] := array_fill(-1::bigint, ARRAY[cardinality(streams)]);
    changed boolean[] := array_fill(false, ARRAY[cardinality(streams)]);
    known record;
    -- Per append: what to add to the ordinal number of an event to get its position and its revision; null when it is not written.
    position_shifts bigint[] := array_fill(NULL::bigint, ARRAY[appends_count]);
    revision_shifts bigint[] := array_fill(NULL::bigint, ARRAY[appends_count]);
    now timestamptz;
    next_position bigint;
    events_before integer := 0;
    refused integer := 0;
    a integer;
    s integer;
    current bigint;
BEGIN
    outcomes := array_fill(0::smallint, ARRAY[appends_count]);
    first_revisions := array_fill(NULL::bigint, ARRAY[appends_count]);
    last_revisions := array_fill(NULL::bigint, ARRAY[appends_count]);
    positions := array_fill(NULL::bigint, ARRAY[appends_count]);

    -- From here to the commit, nobody else appends: what the next statements read is final. It supposes that all is written, which is nearly always so.
    UPDATE public.head AS h
    SET position = h.position + events_count, recorded_at = greatest(h.recorded_at, clock_timestamp())
    RETURNING h.position, h.recorded_at INTO new_head, now;
    next_position := new_head - events_count + 1;

    FOR known IN
        SELECT wanted.slot, found.*
        FROM unnest(append_ids) WITH ORDINALITY AS wanted (append_id, slot)
        JOIN public.appends AS found ON found.append_id = wanted.append_id
    LOOP
        known_fingerprints[known.slot] := known.fingerprint;
        known_streams[known.slot] := known.stream;
        known_first[known.slot] := known.first_revision;
        known_last[known.slot] := known.last_revision;
        known_positions[known.slot] := known.position;
    END LOOP;

    FOR known IN
        SELECT wanted.slot, found.origin, found.revision
        FROM unnest(streams) WITH ORDINALITY AS wanted (stream, slot)
        JOIN public.streams AS found ON found.stream = wanted.stream
    LOOP
        origins[known.slot] := known.origin;
        revisions[known.slot] := known.revision;
    END LOOP;

    FOR i IN 1 .. appends_count LOOP
        a := append_slots[i];
        s := stream_slots[i];
        current := revisions[s];
        IF known_positions[a] IS NOT NULL THEN
            IF known_fingerprints[a] = fingerprints[i] AND known_streams[a] = streams[s] THEN
                outcomes[i] := 1;
                first_revisions[i] := known_first[a];
                last_revisions[i] := known_last[a];
                positions[i] := known_positions[a];
            ELSE
                outcomes[i] := 3;
            END IF;
            refused := refused + sizes[i];
        ELSIF (CASE expected[i] WHEN -3 THEN true WHEN -2 THEN current >= 0 ELSE current = expected[i] END) THEN
            position_shifts[i] := next_position - events_before - 1;
            revision_shifts[i] := current - events_before;
            IF current < 0 THEN
                origins[s] := next_position;
            END IF;
            next_position := next_position + sizes[i];
            known_fingerprints[a] := fingerprints[i];
            known_streams[a] := streams[s];
            known_first[a] := current + 1;
            known_last[a] := current + sizes[i];
            known_positions[a] := next_position - 1;
            revisions[s] := current + sizes[i];
            changed[s] := true;
            first_revisions[i] := current + 1;
            last_revisions[i] := current + sizes[i];
            positions[i] := next_position - 1;
        ELSE
            outcomes[i] := 2;
            last_revisions[i] := current;
            refused := refused + sizes[i];
        END IF;
        events_before := events_before + sizes[i];
    END LOOP;

    IF refused > 0 THEN
        new_head := new_head - refused;
        UPDATE public.head AS h SET position = new_head;
        IF refused = events_count THEN
            RETURN;
        END IF;
    END IF;

    INSERT INTO public.events (position, origin, revision, stream, bucket, category, type, event_id, recorded_at, payload, metadata)
    SELECT
        position_shifts[e.append] + e.ordinal, origins[stream_slots[e.append]], revision_shifts[e.append] + e.ordinal, streams[stream_slots[e.append]],
        buckets[stream_slots[e.append]],
        categories[stream_slots[e.append]], e.type, e.event_id, now, e.payload, e.metadata
    FROM unnest(append_indexes, types, event_ids, payloads, metadatas) WITH ORDINALITY AS e (append, type, event_id, payload, metadata, ordinal)
    WHERE refused = 0 OR position_shifts[e.append] IS NOT NULL;

    INSERT INTO public.streams AS present (stream, origin, revision, bucket)
    SELECT w.stream, w.origin, w.revision, w.bucket
    FROM unnest(streams, origins, revisions, buckets, changed) AS w (stream, origin, revision, bucket, changed)
    WHERE w.changed
    ON CONFLICT (stream) DO UPDATE SET revision = excluded.revision;

    INSERT INTO public.appends (append_id, fingerprint, stream, first_revision, last_revision, position)
    SELECT append_ids[append_slots[w.i]], w.fingerprint, streams[stream_slots[w.i]], w.first_revision, w.last_revision, w.position
    FROM unnest(fingerprints, first_revisions, last_revisions, positions, outcomes) WITH ORDINALITY
        AS w (fingerprint, first_revision, last_revision, position, outcome, i)
    WHERE w.outcome = 0;
END
$$;
