-- Windows: signatures of which no further job is enqueued for a while, also when the first one has ended.
--
-- Only an enqueue with dedup_for reads or writes them.

CREATE TABLE pgq_seen (
    signature uuid        NOT NULL,
    id        bigint,
    until     timestamptz NOT NULL,

    CONSTRAINT pgq_seen_pkey PRIMARY KEY (signature)
);

CREATE INDEX pgq_seen_until ON pgq_seen (until);

COMMENT ON TABLE pgq_seen IS
    'Windows that pgq_enqueue has opened for its argument dedup_for; claims delete those that are over.';
COMMENT ON COLUMN pgq_seen.signature IS 'The signature of the job, as in pgq_waiting.';
COMMENT ON COLUMN pgq_seen.id IS 'Number of the first job of the window.';
COMMENT ON COLUMN pgq_seen.until IS 'When the window is over.';
