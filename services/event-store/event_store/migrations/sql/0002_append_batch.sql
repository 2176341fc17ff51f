-- Append a batch, in one round trip and one transaction: called as the only statement, it is committed by its own end, so no client can leave it open.
--
-- The arguments are arrays; all numbers that refer to another array count from 1.
-- The appends, in order: append_slots says which of the distinct append_ids each has, part_counts how many streams it concerns.
-- Their parts, in the order of the appends, the first of each being its main stream: part_streams says which of the distinct streams (with buckets and categories) each
-- is about, so that a batch which chains several appends on one stream is decided in order, in memory, without a statement per append; expected is the exact revision, or
-- -1 no stream, -2 stream exists, -3 any; sizes are the numbers of their events, 0 for a part that is only a check.
-- The events, in the order of the parts: event_parts names the part of each.
-- The settings, of the few appends that set the metadata of a stream: setting_appends names the append, setting_streams the stream that it is about.
--
-- The answer. Per append: outcomes 0 written, 1 replayed (the original answer is given), 2 refused because the revision of a stream differs, 3 refused because the append
-- id was used for something else, 4 refused because this shard does not hold the bucket of a stream, 5 refused because a stream has ended; refused_parts says which of its
-- parts it was, from 1; positions that of its last event; alsos what a replayed one wrote to further streams (null if none did). Per part: first_revisions and last_revisions; the latter holds the
-- actual revision, -1 for no stream, where that is why it was refused. new_head is the head after the batch, map_epoch the version of the shard map that this shard knows.
--
-- It runs as the owner of the tables: the service may call it and read, and has no other way to write.
CREATE FUNCTION append_batch(
    append_ids uuid [],
    append_slots integer [],
    fingerprints bytea [],
    part_counts integer [],
    streams text [],
    buckets smallint [],
    categories text [],
    part_streams integer [],
    expected bigint [],
    sizes integer [],
    event_parts integer [],
    types text [],
    event_ids uuid [],
    payloads bytea [],
    metadatas bytea [],
    setting_appends integer [],
    setting_streams integer [],
    setting_max_counts bigint [],
    setting_max_ages interval [],
    setting_tombstones boolean [],
    OUT outcomes smallint [],
    OUT refused_parts integer [],
    OUT first_revisions bigint [],
    OUT last_revisions bigint [],
    OUT positions bigint [],
    OUT alsos jsonb [],
    OUT new_head bigint,
    OUT map_epoch bigint
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
    parts_count CONSTANT integer := cardinality(part_streams);
    events_count CONSTANT integer := cardinality(event_parts);
    -- Per distinct append id: what is known of it.
    known_fingerprints bytea[] := array_fill(NULL::bytea, ARRAY[cardinality(append_ids)]);
    known_streams text[] := array_fill(NULL::text, ARRAY[cardinality(append_ids)]);
    known_first bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(append_ids)]);
    known_last bigint[] := known_first;
    known_positions bigint[] := known_first;
    known_alsos jsonb[] := array_fill(NULL::jsonb, ARRAY[cardinality(append_ids)]);
    -- Per distinct stream: the position of its first event, its last revision (-1 for none), whether this batch moves it, and whether it has ended.
    origins bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(streams)]);
    revisions bigint[] := array_fill(-1::bigint, ARRAY[cardinality(streams)]);
    changed boolean[] := array_fill(false, ARRAY[cardinality(streams)]);
    ended boolean[] := changed;
    known record;
    -- Per append: its first part. Per part: what to add to the ordinal number of an event to get its position and its revision; null when it is not written.
    first_parts integer[] := array_fill(NULL::integer, ARRAY[appends_count]);
    position_shifts bigint[] := array_fill(NULL::bigint, ARRAY[parts_count]);
    revision_shifts bigint[] := position_shifts;
    -- Per event.
    hashes bytea[] := array_fill(NULL::bytea, ARRAY[events_count]);
    held bit(1024);
    chain bytea;
    now timestamptz;
    last_position bigint;
    parts_before integer := 0;
    events_before integer := 0;
    refused integer := 0;
    outcome smallint;
    a integer;
    s integer;
    size integer;
    current bigint;
BEGIN
    outcomes := array_fill(0::smallint, ARRAY[appends_count]);
    refused_parts := first_parts;
    first_revisions := position_shifts;
    last_revisions := position_shifts;
    positions := array_fill(NULL::bigint, ARRAY[appends_count]);

    -- From here to the commit, nobody else appends: what the next statements read is final.
    SELECT h.position, greatest(h.recorded_at, clock_timestamp()), h.hash, h.held, h.epoch FROM public.head AS h FOR UPDATE
    INTO last_position, now, chain, held, map_epoch;

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
        known_alsos[known.slot] := known.also;
    END LOOP;

    FOR known IN
        SELECT wanted.slot, found.origin, found.revision
        FROM unnest(streams) WITH ORDINALITY AS wanted (stream, slot)
        JOIN public.streams AS found ON found.stream = wanted.stream
    LOOP
        origins[known.slot] := known.origin;
        revisions[known.slot] := known.revision;
    END LOOP;

    FOR known IN
        SELECT wanted.slot
        FROM unnest(streams) WITH ORDINALITY AS wanted (stream, slot)
        JOIN public.stream_metadata AS found ON found.stream = wanted.stream AND found.tombstoned
    LOOP
        ended[known.slot] := true;
    END LOOP;

    FOR i IN 1 .. appends_count LOOP
        a := append_slots[i];
        first_parts[i] := parts_before + 1;
        outcome := 0;
        IF known_positions[a] IS NOT NULL THEN
            IF known_fingerprints[a] = fingerprints[i] AND known_streams[a] = streams[part_streams[parts_before + 1]] THEN
                outcome := 1;
                first_revisions[parts_before + 1] := known_first[a];
                last_revisions[parts_before + 1] := known_last[a];
                positions[i] := known_positions[a];
                IF known_alsos[a] IS NOT NULL THEN
                    alsos := coalesce(alsos, array_fill(NULL::jsonb, ARRAY[appends_count]));
                    alsos[i] := known_alsos[a];
                END IF;
            ELSE
                outcome := 3;
            END IF;
        ELSE
            -- Where its streams live is a matter of the append itself, so it comes before what state they are in.
            FOR p IN parts_before + 1 .. parts_before + part_counts[i] LOOP
                IF get_bit(held, buckets[part_streams[p]]) = 0 THEN
                    outcome := 4;
                    refused_parts[i] := p - parts_before;
                    EXIT;
                END IF;
            END LOOP;
            IF outcome = 0 THEN
                FOR p IN parts_before + 1 .. parts_before + part_counts[i] LOOP
                    s := part_streams[p];
                    current := revisions[s];
                    outcome := CASE
                        WHEN ended[s] THEN 5
                        WHEN CASE expected[p] WHEN -3 THEN true WHEN -2 THEN current >= 0 ELSE current = expected[p] END THEN 0
                        ELSE 2
                    END;
                    IF outcome <> 0 THEN
                        refused_parts[i] := p - parts_before;
                        last_revisions[p] := current;
                        EXIT;
                    END IF;
                END LOOP;
            END IF;
            IF outcome = 0 AND cardinality(setting_appends) > 0 THEN
                FOR n IN 1 .. cardinality(setting_appends) LOOP
                    IF setting_appends[n] = i THEN
                        IF ended[setting_streams[n]] THEN
                            outcome := 5;
                            refused_parts[i] := 1;
                        ELSE
                            ended[setting_streams[n]] := setting_tombstones[n];
                        END IF;
                    END IF;
                END LOOP;
            END IF;
        END IF;
        outcomes[i] := outcome;
        IF outcome = 0 THEN
            FOR p IN parts_before + 1 .. parts_before + part_counts[i] LOOP
                size := sizes[p];
                IF size > 0 THEN
                    s := part_streams[p];
                    current := revisions[s];
                    position_shifts[p] := last_position - events_before;
                    revision_shifts[p] := current - events_before;
                    IF current < 0 THEN
                        origins[s] := last_position + 1;
                    END IF;
                    last_position := last_position + size;
                    events_before := events_before + size;
                    revisions[s] := current + size;
                    changed[s] := true;
                    first_revisions[p] := current + 1;
                    last_revisions[p] := current + size;
                    IF p > parts_before + 1 THEN
                        known_alsos[a] := coalesce(known_alsos[a], '[]') || jsonb_build_array(jsonb_build_array(streams[s], current + 1, current + size));
                    END IF;
                END IF;
            END LOOP;
            known_fingerprints[a] := fingerprints[i];
            known_streams[a] := streams[part_streams[parts_before + 1]];
            known_first[a] := first_revisions[parts_before + 1];
            known_last[a] := last_revisions[parts_before + 1];
            known_positions[a] := last_position;
            positions[i] := last_position;
        ELSE
            FOR p IN parts_before + 1 .. parts_before + part_counts[i] LOOP
                refused := refused + sizes[p];
                events_before := events_before + sizes[p];
            END LOOP;
        END IF;
        parts_before := parts_before + part_counts[i];
    END LOOP;

    new_head := last_position;
    IF refused = events_count THEN
        RETURN;
    END IF;

    FOR e IN 1 .. events_count LOOP
        a := event_parts[e];
        IF position_shifts[a] IS NOT NULL THEN
            s := part_streams[a];
            chain := public.event_hash(
                chain, position_shifts[a] + e, origins[s], revision_shifts[a] + e, streams[s], buckets[s], categories[s], types[e], event_ids[e], now,
                payloads[e], metadatas[e], NULL::integer, NULL::bigint
            );
            hashes[e] := chain;
        END IF;
    END LOOP;

    UPDATE public.head AS h SET position = last_position, recorded_at = now, hash = chain;

    INSERT INTO public.events (position, origin, revision, stream, bucket, category, type, event_id, recorded_at, payload, metadata, hash)
    SELECT
        position_shifts[e.part] + e.ordinal, origins[part_streams[e.part]], revision_shifts[e.part] + e.ordinal, streams[part_streams[e.part]],
        buckets[part_streams[e.part]],
        categories[part_streams[e.part]], e.type, e.event_id, now, e.payload, e.metadata, e.hash
    FROM unnest(event_parts, types, event_ids, payloads, metadatas, hashes) WITH ORDINALITY AS e (part, type, event_id, payload, metadata, hash, ordinal)
    WHERE refused = 0 OR e.hash IS NOT NULL;

    INSERT INTO public.streams AS present (stream, origin, revision, bucket)
    SELECT w.stream, w.origin, w.revision, w.bucket
    FROM unnest(streams, origins, revisions, buckets, changed) AS w (stream, origin, revision, bucket, changed)
    WHERE w.changed
    ON CONFLICT (stream) DO UPDATE SET revision = excluded.revision;

    INSERT INTO public.appends (append_id, fingerprint, stream, first_revision, last_revision, position, also)
    SELECT append_ids[w.slot], w.fingerprint, streams[part_streams[w.part]], first_revisions[w.part], last_revisions[w.part], w.position, known_alsos[w.slot]
    FROM unnest(append_slots, first_parts, fingerprints, positions, outcomes) AS w (slot, part, fingerprint, position, outcome)
    WHERE w.outcome = 0;

    -- One by one: a batch may set the metadata of a stream several times, and the last one counts.
    FOR n IN 1 .. cardinality(setting_appends) LOOP
        a := setting_appends[n];
        s := setting_streams[n];
        IF outcomes[a] = 0 THEN
            INSERT INTO public.stream_metadata AS present (stream, bucket, revision, max_count, max_age, tombstoned)
            VALUES (
                streams[s], buckets[s], last_revisions[first_parts[a]], setting_max_counts[n], setting_max_ages[n], setting_tombstones[n]
            )
            ON CONFLICT (stream) DO UPDATE
            SET revision = excluded.revision, max_count = excluded.max_count, max_age = excluded.max_age, tombstoned = excluded.tombstoned;
        END IF;
    END LOOP;
END
$$;
