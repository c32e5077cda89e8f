-- Batches of running jobs, each packed into one row.
--
-- Moving small jobs to pgq_running and removing them from there is most of what it costs to run them. So
-- pgq_claim_batch stores a batch of plain jobs as one row, with an array for each column of pgq_running; the values of
-- one job are at the same place in every array. When all jobs are done, the row is deleted; jobs that are done before
-- the others are added to "gone". pgq_extend prolongs the lease of all jobs. Any other call for a job first unpacks the
-- batch: its jobs are then rows of pgq_running like all others.
--
-- So there are two tables of running jobs. A function that reads running jobs reads the view _pgq_running; one that
-- changes a job unpacks its batch by _pgq_unpack. _pgq_is_plain decides which batches are packed.

CREATE TABLE pgq_running_batch (
    token        bigint        NOT NULL,
    lease_until  timestamptz   NOT NULL,
    worker       text,
    claimed_at   timestamptz   NOT NULL,
    ids          bigint[]      NOT NULL,
    queues       text[]        NOT NULL,
    kinds        text[]        NOT NULL,
    args         text[]        NOT NULL,
    priorities   integer[]     NOT NULL,
    ripe_ats     timestamptz[] NOT NULL,
    attempts     integer[]     NOT NULL,
    max_retries  integer[]     NOT NULL,
    backoffs     interval[]    NOT NULL,
    backoff_caps interval[]    NOT NULL,
    dedups       boolean[]     NOT NULL,
    dedup_keys   text[],
    enqueued_ats timestamptz[] NOT NULL,
    contexts     text[],
    gone         bigint[]      NOT NULL DEFAULT '{}',

    CONSTRAINT pgq_running_batch_pkey PRIMARY KEY (token)
)
-- A row lives only as long as its batch runs, so vacuum comes as early as for pgq_waiting.
WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 100,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX pgq_running_batch_lease ON pgq_running_batch (lease_until);

COMMENT ON TABLE pgq_running_batch IS
    'Batches of small, plain jobs that a worker has claimed together. Each array has the values of one column of '
    'pgq_running, in the order of the claim.';
COMMENT ON COLUMN pgq_running_batch.token IS 'Token of all jobs of the batch.';
COMMENT ON COLUMN pgq_running_batch.lease_until IS
    'When the worker loses the jobs of the batch, unless it extends the lease.';
COMMENT ON COLUMN pgq_running_batch.worker IS 'Name under which the worker has claimed the batch; NULL: it gave none.';
COMMENT ON COLUMN pgq_running_batch.claimed_at IS 'When the batch was claimed.';
COMMENT ON COLUMN pgq_running_batch.ids IS 'Numbers of the jobs.';
COMMENT ON COLUMN pgq_running_batch.queues IS 'Their queues.';
COMMENT ON COLUMN pgq_running_batch.kinds IS 'Their kinds.';
COMMENT ON COLUMN pgq_running_batch.args IS 'Their arguments, as the text of JSON.';
COMMENT ON COLUMN pgq_running_batch.priorities IS 'Their priorities.';
COMMENT ON COLUMN pgq_running_batch.ripe_ats IS 'The times from which they were ripe.';
COMMENT ON COLUMN pgq_running_batch.attempts IS 'The numbers of their attempts, that of this claim included.';
COMMENT ON COLUMN pgq_running_batch.max_retries IS 'The numbers of attempts allowed after the first one.';
COMMENT ON COLUMN pgq_running_batch.backoffs IS 'The delays before their first retries.';
COMMENT ON COLUMN pgq_running_batch.backoff_caps IS 'The longest delays between two of their attempts.';
COMMENT ON COLUMN pgq_running_batch.dedups IS 'Whether they have signatures.';
COMMENT ON COLUMN pgq_running_batch.dedup_keys IS 'Their dedup_keys; NULL: no job has one.';
COMMENT ON COLUMN pgq_running_batch.enqueued_ats IS 'When they were enqueued.';
COMMENT ON COLUMN pgq_running_batch.contexts IS 'Their contexts, as the text of JSON; NULL: no job has one.';
COMMENT ON COLUMN pgq_running_batch.gone IS 'Numbers of the jobs that are done, and no longer running.';

-- Compressing args that are hard to compress would take more time than all else. Most other arrays repeat one value.
ALTER TABLE pgq_running_batch ALTER COLUMN args SET STORAGE EXTERNAL;
