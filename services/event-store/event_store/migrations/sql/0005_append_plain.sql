-- Append a batch of the most usual kind at less cost than append_batch: each append is about one stream and sets no metadata, and no append id and no stream comes twice.
-- Then nothing in the batch depends on anything else in it, so it need not be decided append by append.
--
-- Whether an append id is known and whether a new stream is new is not asked: the indexes say it when the rows are written. That is two searches per append less, which is
-- a third of what it costs (ADR 24). What is refused, replayed or in any way out of the ordinary is left to append_batch, in the same transaction and under the same lock, so
-- all that is ever answered but "written" is decided there.
--
-- The arguments are those of append_batch, without the slots, which would count up: one append id, fingerprint, stream, bucket, category, expected revision and number of
-- events (1 or more) per append, and per event its append (from 1), type, id, payload and metadata. The answer is that of append_batch if it was asked; if all is written,
-- revisions_before holds the last revision of each stream before its append (-1 for none), and of the rest only new_head and map_epoch are set.
CREATE FUNCTION append_plain(
    append_ids uuid [],
    fingerprints bytea [],
    streams text [],
    buckets smallint [],
    categories text [],
    expected bigint [],
    sizes integer [],
    event_appends integer [],
    types text [],
    event_ids uuid [],
    payloads bytea [],
    metadatas bytea [],
    OUT revisions_before bigint [],
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
    appends_count CONSTANT integer := cardinality(append_ids);
    events_count CONSTANT integer := cardinality(event_ids);
    -- Per append: the last revision of its stream before, the position of the first event of its stream, the position of its own last event, and what to add to the
    -- ordinal number of an event to get its revision.
    before bigint[] := array_fill(-1::bigint, ARRAY[appends_count]);
    origins bigint[] := before;
    ends bigint[] := before;
    revision_shifts bigint[] := before;
    -- Per event.
    hashes bytea[] := array_fill(NULL::bytea, ARRAY[events_count]);
    plain boolean := true;
    any_known boolean := false;
    known record;
    held bit(1024);
    chain bytea;
    now timestamptz;
    last_position bigint;
    this_position bigint;
    origin bigint;
    revision bigint;
    a integer := 0;
    written bigint;
    slots integer[];
BEGIN
    -- From here to the commit, nobody else appends: what the next statements read is final.
    SELECT h.position, greatest(h.recorded_at, clock_timestamp()), h.hash, h.held, h.epoch FROM public.head AS h FOR UPDATE
    INTO last_position, now, chain, held, map_epoch;

    -- A stream that is said to be new is not looked for: if it is not new, it cannot be inserted.
    IF cardinality(array_remove(expected, -1::bigint)) > 0 THEN
        FOR known IN
            SELECT array_position(streams, found.stream) AS slot, found.origin, found.revision FROM public.streams AS found WHERE found.stream = ANY(streams)
        LOOP
            any_known := true;
            before[known.slot] := known.revision;
            origins[known.slot] := known.origin;
        END LOOP;
    END IF;

    this_position := last_position;
    FOR e IN 1 .. events_count LOOP
        this_position := this_position + 1;
        IF event_appends[e] > a THEN
            a := event_appends[e];
            revision := before[a];
            IF
                get_bit(held, buckets[a]) = 0
                OR NOT (CASE expected[a] WHEN -3 THEN true WHEN -2 THEN revision >= 0 ELSE revision = expected[a] END)
            THEN
                plain := false;
                EXIT;
            END IF;
            IF revision < 0 THEN
                origins[a] := this_position;
            END IF;
            origin := origins[a];
            ends[a] := this_position + sizes[a] - 1;
            revision_shifts[a] := revision + 1 - e;
        END IF;
        revision := revision + 1;
        chain := public.event_hash(
            chain, this_position, origin, revision, streams[a], buckets[a], categories[a], types[e], event_ids[e], now, payloads[e], metadatas[e],
            NULL::integer, NULL::bigint
        );
        hashes[e] := chain;
    END LOOP;

    IF plain THEN
        BEGIN
            INSERT INTO public.appends (append_id, fingerprint, stream, first_revision, last_revision, position)
            SELECT w.append_id, w.fingerprint, w.stream, w.before + 1, w.before + w.size, w.ending
            FROM unnest(append_ids, fingerprints, streams, before, sizes, ends) AS w (append_id, fingerprint, stream, before, size, ending)
            -- The first is asked once. Only where some stream has ended, the second is asked for each.
            WHERE NOT (
                EXISTS (SELECT FROM public.stream_metadata AS m WHERE m.tombstoned)
                AND EXISTS (SELECT FROM public.stream_metadata AS m WHERE m.stream = w.stream AND m.tombstoned)
            );
            GET DIAGNOSTICS written = ROW_COUNT;
            IF written < appends_count THEN
                RAISE unique_violation USING MESSAGE = 'a stream has ended';
            END IF;

            INSERT INTO public.streams (stream, origin, revision, bucket)
            SELECT w.stream, w.origin, w.size - 1, w.bucket
            FROM unnest(streams, origins, sizes, buckets, before) AS w (stream, origin, size, bucket, before)
            WHERE w.before < 0;

            IF any_known THEN
                UPDATE public.streams AS s
                SET revision = w.before + w.size
                FROM unnest(streams, sizes, before) AS w (stream, size, before)
                WHERE s.stream = w.stream AND w.before >= 0;
            END IF;

            INSERT INTO public.events (position, origin, revision, stream, bucket, category, type, event_id, recorded_at, payload, metadata, hash)
            SELECT
                last_position + e.ordinal, origins[e.append], revision_shifts[e.append] + e.ordinal, streams[e.append], buckets[e.append], categories[e.append],
                e.type, e.event_id, now, e.payload, e.metadata, e.hash
            FROM unnest(event_appends, types, event_ids, payloads, metadatas, hashes) WITH ORDINALITY AS e (append, type, event_id, payload, metadata, hash, ordinal);

            UPDATE public.head AS h SET position = this_position, recorded_at = now, hash = chain;
        EXCEPTION
            -- An append id or a stream that is known already, or a stream that has ended: nothing of this is kept.
            WHEN unique_violation THEN
                plain := false;
        END;
    END IF;

    IF plain THEN
        revisions_before := before;
        new_head := this_position;
    ELSE
        slots := ARRAY(SELECT generate_series(1, appends_count));
        SELECT b.* FROM public.append_batch(
            append_ids, slots, fingerprints, array_fill(1, ARRAY[appends_count]), streams, buckets, categories, slots, expected, sizes, event_appends,
            types, event_ids, payloads, metadatas, '{}', '{}', '{}', '{}', '{}'
        ) AS b
        INTO outcomes, refused_parts, first_revisions, last_revisions, positions, alsos, new_head, map_epoch;
    END IF;
END
$$;
