-- Jobs that have ended: dead, cancelled, or done with a result or a note, or in a queue that keeps all that is done.

CREATE TABLE pgq_ended (
    id           bigint      NOT NULL,
    queue        text        NOT NULL,
    kind         text        NOT NULL,
    args         jsonb       NOT NULL,
    priority     smallint    NOT NULL,
    ripe_at      timestamptz NOT NULL,
    attempt      integer     NOT NULL,
    max_retries  integer     NOT NULL,
    backoff      interval,
    backoff_cap  interval,
    dedup        boolean     NOT NULL,
    dedup_key    text,
    enqueued_at  timestamptz NOT NULL,
    context      jsonb,
    outcome      text        NOT NULL,
    result       jsonb,
    worker       text,
    ended_at     timestamptz NOT NULL,
    losses       smallint,
    newest_error integer,
    group_key    text,
    group_id     bigint,
    claimed_at   timestamptz,

    CONSTRAINT pgq_ended_pkey PRIMARY KEY (id),

    CONSTRAINT pgq_ended_outcome_check CHECK (outcome IN ('dead', 'cancelled', 'done')),
    CONSTRAINT pgq_ended_result_check CHECK (octet_length(result::text) <= 1048576)
);

CREATE INDEX pgq_ended_ended_at ON pgq_ended (ended_at);

-- Few jobs are dead beside many that are done: what died is found, and counted, without reading the others.
CREATE INDEX pgq_ended_died ON pgq_ended (ended_at) WHERE outcome = 'dead';

COMMENT ON TABLE pgq_ended IS
    'Jobs that have ended, until they have been kept for long enough (see pgq_configure), or pgq_purge deletes them. '
    'The columns of pgq_waiting, and those of the end.';
COMMENT ON COLUMN pgq_ended.backoff IS 'As in pgq_running.';
COMMENT ON COLUMN pgq_ended.outcome IS
    'dead (retries used up, or failed for good), cancelled (by an operator or its worker), or done (with a result or a '
    'note, or in a queue that keeps all that is done).';
COMMENT ON COLUMN pgq_ended.result IS
    'Result that was given to pgq_complete; NULL: none was given, or the job is not done.';
COMMENT ON COLUMN pgq_ended.worker IS
    'Worker of the last attempt; NULL: it gave no name, or the job was cancelled while it waited.';
COMMENT ON COLUMN pgq_ended.ended_at IS 'When the job ended.';
COMMENT ON COLUMN pgq_ended.claimed_at IS
    'When the job was claimed for its last attempt; NULL: it was cancelled while it waited.';
COMMENT ON COLUMN pgq_ended.losses IS 'As in pgq_waiting, when the job ended.';

-- For the reason given in pgq_waiting.
ALTER TABLE pgq_ended ALTER COLUMN args SET STORAGE EXTERNAL;
