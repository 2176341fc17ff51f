-- Moves that are made slice by slice, and that an operator can cancel.

-- One more phase is allowed. The list of moves is short, and read and written a few times a second at most.
ALTER TABLE moves
-- squawk-ignore ban-drop-constraint
DROP CONSTRAINT moves_phase_check,
-- squawk-ignore constraint-missing-not-valid
ADD CONSTRAINT moves_phase_check CHECK (phase IN ('copying', 'fenced', 'done', 'failed', 'cancelled')),
-- How many buckets are switched together. Those that were begun before are made at once.
ADD COLUMN slice_buckets smallint NOT NULL DEFAULT 1024,
-- Whether it is to be ended where it is.
ADD COLUMN cancelled boolean NOT NULL DEFAULT false;
-- statement
-- In shard 0 only, for those who look: the slices that were switched.
CREATE TABLE move_slices (
    move_id uuid NOT NULL,
    first_bucket smallint NOT NULL,
    last_bucket smallint NOT NULL,
    -- How long no shard took appends for its buckets; null when the process that fenced them did not live to tell.
    pause interval,
    epoch bigint NOT NULL,
    switched_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (move_id, first_bucket)
);
-- statement
-- Begin the arrival of a slice: what was copied by the move of which it is one is copied for it.
CREATE FUNCTION begin_slice(slice uuid, moving uuid, OUT copied_to bigint, OUT taken boolean, OUT closed boolean)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO public.arrivals AS present (move_id, copied_to)
    SELECT slice, a.copied_to FROM public.arrivals AS a WHERE a.move_id = moving
    ON CONFLICT (move_id) DO UPDATE SET copied_to = greatest(present.copied_to, excluded.copied_to);
    SELECT a.copied_to, a.taken, a.closed FROM public.arrivals AS a WHERE a.move_id = slice
    INTO begin_slice.copied_to, begin_slice.taken, begin_slice.closed;
END
$$;
