-- Jobs that are over: dead, cancelled, or done with a result.

CREATE TABLE pgq_ended (
    id          bigint      NOT NULL,
    queue       text        NOT NULL,
    kind        text        NOT NULL,
    args        jsonb       NOT NULL,
    priority    smallint    NOT NULL,
    ripe_at     timestamptz NOT NULL,
    attempt     integer     NOT NULL,
    max_retries integer     NOT NULL,
    backoff     interval    NOT NULL,
    backoff_cap interval    NOT NULL,
    dedup       boolean     NOT NULL,
    dedup_key   text,
    enqueued_at timestamptz NOT NULL,
    errors      jsonb       NOT NULL,
    context     jsonb,
    outcome     text        NOT NULL,
    result      jsonb,
    worker      text,
    ended_at    timestamptz NOT NULL,

    CONSTRAINT pgq_ended_pkey PRIMARY KEY (id),

    CONSTRAINT pgq_ended_outcome_check CHECK (outcome IN ('dead', 'cancelled', 'done')),
    CONSTRAINT pgq_ended_result_check CHECK (octet_length(result::text) <= 1048576)
);

CREATE INDEX pgq_ended_ended_at ON pgq_ended (ended_at);

COMMENT ON TABLE pgq_ended IS 'Jobs that are over, until pgq_purge removes them. Columns as in pgq_waiting, and the end''s own.';
COMMENT ON COLUMN pgq_ended.outcome IS 'dead (retries used up, or not worth one), cancelled (by an operator or a worker), or done (completed with a result).';
COMMENT ON COLUMN pgq_ended.result IS 'What pgq_complete was given; NULL unless done.';
COMMENT ON COLUMN pgq_ended.worker IS 'The worker of the last attempt; NULL: none, or one without a name.';
COMMENT ON COLUMN pgq_ended.ended_at IS 'When the job ended.';

-- As in pgq_waiting.
ALTER TABLE pgq_ended ALTER COLUMN args SET STORAGE EXTERNAL;
