-- Jobs that wait for other jobs, their prerequisites, and what each of them waits for.
--
-- A blocked job has a row in pgq_need for each prerequisite that is not over yet, and one at least. It leaves this
-- table in the transaction that removes the last of them, or that cancels it. Rows of pgq_need are removed, and looked
-- for in vain, only under the lock on the blocked job: so of two prerequisites that end at the same time the later one
-- finds that none is left.

-- The columns of pgq_waiting come first.
CREATE TABLE pgq_blocked (
    id           bigint      NOT NULL,
    queue        text        NOT NULL,
    kind         text        NOT NULL,
    args         jsonb       NOT NULL,
    priority     smallint    NOT NULL,
    ripe_at      timestamptz NOT NULL,
    attempt      integer     NOT NULL,
    max_retries  integer,
    backoff      interval,
    backoff_cap  interval,
    dedup        boolean     NOT NULL,
    dedup_key    text,
    enqueued_at  timestamptz NOT NULL,
    context      jsonb,
    signature    uuid,
    losses       smallint,
    newest_error integer,
    group_key    text,
    group_id     bigint,
    after_failed text        NOT NULL,

    CONSTRAINT pgq_blocked_pkey PRIMARY KEY (id)
)
WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_delay = 0
);

CREATE UNIQUE INDEX pgq_blocked_signature ON pgq_blocked (signature) WHERE signature IS NOT NULL;

COMMENT ON TABLE pgq_blocked IS
    'Jobs that wait for other jobs. The columns of pgq_waiting, and after_failed.';
COMMENT ON COLUMN pgq_blocked.signature IS
    'MD5 over that of a waiting job, what the job was enqueued after, and after_failed; NULL without dedup.';
COMMENT ON COLUMN pgq_blocked.group_id IS 'NULL: the job gets a number when it goes to pgq_waiting.';
COMMENT ON COLUMN pgq_blocked.after_failed IS
    'What becomes of the job if one that it waits for is dead or cancelled: cancel, run or wait.';

-- For the reason given in pgq_waiting.
ALTER TABLE pgq_blocked ALTER COLUMN args SET STORAGE EXTERNAL;


CREATE TABLE pgq_need (
    job   bigint NOT NULL,
    needs bigint NOT NULL,

    CONSTRAINT pgq_need_pkey PRIMARY KEY (job, needs)
)
WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX pgq_need_needs ON pgq_need (needs);

COMMENT ON TABLE pgq_need IS 'What blocked jobs wait for.';
COMMENT ON COLUMN pgq_need.job IS 'Number of the blocked job.';
COMMENT ON COLUMN pgq_need.needs IS
    'Number of a job that it waits for: one that has not ended or, with after_failed wait, one that is dead or '
    'cancelled.';


-- What ends a job deals with those that wait for it, up to a number. It leaves the rest, those that other transactions
-- have locked, and those that wait for the latter, to the maintenance of claims.
CREATE TABLE pgq_need_ended (
    id      bigint NOT NULL,
    outcome text   NOT NULL,

    CONSTRAINT pgq_need_ended_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE pgq_need_ended IS
    'Jobs that have ended, and of which blocked jobs have still to be unblocked or cancelled.';
COMMENT ON COLUMN pgq_need_ended.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_need_ended.outcome IS
    'How it has ended: done, failed (dead or cancelled), or purged (and dead or cancelled before).';


-- As with pgq_mark, a value is seen by all sessions at once, and no rollback takes it back. Maintenance takes it away
-- when pgq_need is empty and no transaction is open that has inserted there.
CREATE SEQUENCE pgq_needed;

COMMENT ON SEQUENCE pgq_needed IS
    'Whether any job may be blocked: then it has been called. Maintenance resets it.';


-- An expression, so that PostgreSQL inlines it. This is all that the end of a job pays where no job is blocked.
CREATE FUNCTION _pgq_has_needs() RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN pg_sequence_last_value('pgq_needed') IS NOT NULL;

COMMENT ON FUNCTION _pgq_has_needs() IS 'Return whether any job may be blocked.';
