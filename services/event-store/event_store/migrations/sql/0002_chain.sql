-- What proves that the log is whole, what a shard knows of the shard map, and what is said of streams.

-- The hash of an event: SHA-256 over the binary form of a record, which holds the hash of the event before it and then every column of the event itself. Before the
-- first event stand 32 zero bytes. The binary form is that of record_send: the number of columns (14) in 32 bits, then per column the OID of its type and its
-- length in 32 bits each (-1 for null, and nothing after it), then its value: integers big-endian, text in UTF-8, a time as microseconds since 2000-01-01 UTC in 64 bits.
-- So no two events have the same form, and anybody can compute it: event_store/domain/chain.py does in Python, on its own.
--
-- One expression, which the planner puts in place of the call.
CREATE FUNCTION event_hash(
    previous bytea,
    event_position bigint,
    origin bigint,
    revision bigint,
    stream text,
    bucket smallint,
    category text,
    type text,
    event_id uuid,
    recorded_at timestamptz,
    payload bytea,
    metadata bytea,
    original_shard integer,
    original_position bigint
)
RETURNS bytea
LANGUAGE sql
STABLE
AS $$
    SELECT pg_catalog.sha256(pg_catalog.record_send(ROW(
        previous, event_position, origin, revision, stream, bucket, category, type, event_id, recorded_at, payload, metadata, original_shard, original_position
    )))
$$;
-- statement
-- Where an event was first written, when its bucket has moved here since: it is a copy then, with a position of this shard.
ALTER TABLE events
ADD COLUMN hash bytea,
-- squawk-ignore prefer-bigint-over-int
ADD COLUMN original_shard integer,
ADD COLUMN original_position bigint;
-- statement
ALTER TABLE head
-- The version of the shard map that this shard knows.
ADD COLUMN epoch bigint NOT NULL DEFAULT 1,
-- One bit per bucket, the first one leftmost: whether this shard takes appends for it. Every append locks this row, so a change of it is an exact fence.
-- squawk-ignore adding-field-with-default
ADD COLUMN held bit(1024) NOT NULL DEFAULT ~(0::bit(1024)),
-- The hash of the last event. The table has one row.
-- squawk-ignore adding-field-with-default
ADD COLUMN hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex');
-- statement
DO $$
DECLARE
    chain bytea := decode(repeat('00', 32), 'hex');
    e record;
BEGIN
    FOR e IN SELECT * FROM public.events ORDER BY position LOOP
        chain := public.event_hash(
            chain, e.position, e.origin, e.revision, e.stream, e.bucket, e.category, e.type, e.event_id, e.recorded_at, e.payload, e.metadata,
            e.original_shard, e.original_position
        );
        UPDATE public.events SET hash = chain WHERE position = e.position;
    END LOOP;
    UPDATE public.head SET hash = chain;
END
$$;
-- statement
-- Every row was given its hash just now, in the transaction that keeps writers out.
-- squawk-ignore adding-not-nullable-field
ALTER TABLE events ALTER COLUMN hash SET NOT NULL;
-- statement
-- The further streams that an append wrote to, as [stream, first revision, last revision] each; null for none.
ALTER TABLE appends ADD COLUMN also jsonb;
-- statement
-- How much of a stream is answered, and whether it has ended: the latest StreamMetadataSet of the stream metadata-<stream>, written in the same transaction as it.
CREATE TABLE stream_metadata (
    stream text COLLATE "C" PRIMARY KEY,
    bucket smallint NOT NULL CHECK (bucket BETWEEN 0 AND 1023),
    -- The revision in the stream metadata-<stream>.
    revision bigint NOT NULL CHECK (revision >= 0),
    max_count bigint CHECK (max_count > 0),
    max_age interval CHECK (max_age > '0'::interval),
    tombstoned boolean NOT NULL
);
-- statement
-- What every append asks; nearly always empty.
CREATE INDEX stream_metadata_tombstones ON stream_metadata (stream) WHERE tombstoned;
