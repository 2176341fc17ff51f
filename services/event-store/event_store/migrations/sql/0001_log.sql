-- The log of one shard. The reasons stand in docs/adr and in append_batch below.

-- The counter. Whoever holds its row decides what comes next, so positions are gapless and in the order of commit.
CREATE TABLE head (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    -- The last position given out; 0 before the first event.
    position bigint NOT NULL CHECK (position >= 0),
    -- The time given to it. It never goes back, whatever the clock does, so time orders like position.
    recorded_at timestamptz NOT NULL
);
-- statement
INSERT INTO head (position, recorded_at) VALUES (0, '-infinity');
-- statement
CREATE TABLE events (
    position bigint PRIMARY KEY,
    -- The position of the first event of its stream, by which the stream is indexed: a name there would be four times as long, and in random order.
    origin bigint NOT NULL,
    revision bigint NOT NULL CHECK (revision >= 0),
    stream text COLLATE "C" NOT NULL,
    bucket smallint NOT NULL CHECK (bucket BETWEEN 0 AND 1023),
    category text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    -- Not unique by an index: an event is in one append only, and append ids are unique. A second index on random keys would buy nothing for its writes.
    event_id uuid NOT NULL,
    recorded_at timestamptz NOT NULL,
    payload bytea NOT NULL,
    -- An almagest.eventstore.v1.EventMetadata.
    metadata bytea NOT NULL
);
-- statement
CREATE UNIQUE INDEX events_origin_revision ON events (origin, revision);
-- statement
-- Where each stream begins and ends. The end could be read from the index above; a row of its own stays true when old events leave for an archive.
-- The free space lets a revision move on without touching the index.
CREATE TABLE streams (
    stream text COLLATE "C" PRIMARY KEY,
    origin bigint NOT NULL,
    revision bigint NOT NULL CHECK (revision >= 0),
    bucket smallint NOT NULL CHECK (bucket BETWEEN 0 AND 1023)
) WITH (fillfactor = 80);
-- statement
-- What was answered to each append: the same id again gets the same answer.
CREATE TABLE appends (
    append_id uuid PRIMARY KEY,
    fingerprint bytea NOT NULL,
    stream text COLLATE "C" NOT NULL,
    first_revision bigint NOT NULL,
    last_revision bigint NOT NULL,
    position bigint NOT NULL
);
