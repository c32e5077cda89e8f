-- Jobs that a worker has claimed, each under its token and until its lease ends. A lease that never ends would hide its
-- job for ever; _pgq_lease_end refuses it.

CREATE TABLE pgq_running (
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
    token        bigint      NOT NULL,
    lease_until  timestamptz NOT NULL,
    worker       text,
    claimed_at   timestamptz NOT NULL,
    losses       smallint,
    newest_error integer,
    group_key    text,
    group_id     bigint,

    CONSTRAINT pgq_running_pkey PRIMARY KEY (id)
)
-- A row lives for one attempt: vacuum as early as pgq_waiting.
WITH (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX pgq_running_lease ON pgq_running (lease_until);

-- A token is a value of this sequence, which claims keep near the clock, in microseconds since 1970. Nothing else
-- identifies a claim: pgq_retry counts attempts from the start again, and two workers may share a name. The clock
-- alone would not do, because it can be set back, nor the sequence alone: a crash can lose claims that committed
-- without waiting for the disk, and sets the sequence back with them. MAXVALUE is 2^53 - 1, the greatest integer up to
-- which every JSON parser reads all of them exactly.
CREATE SEQUENCE pgq_token AS bigint MAXVALUE 9007199254740991;

COMMENT ON TABLE pgq_running IS 'Jobs that a worker has claimed. The columns of pgq_waiting, and those of the claim.';
COMMENT ON COLUMN pgq_running.backoff IS
    'As in pgq_waiting, with the setting of the queue filled in; NULL: 1 minute, and 1 hour in backoff_cap.';
COMMENT ON COLUMN pgq_running.token IS
    'Number that names the claim; every call about the job must present it. Jobs that were claimed together share it.';
COMMENT ON COLUMN pgq_running.lease_until IS
    'When the worker loses the job, unless it has ended the attempt or extended the lease.';
COMMENT ON COLUMN pgq_running.worker IS 'Name under which the worker has claimed the job; NULL: it gave none.';
COMMENT ON COLUMN pgq_running.claimed_at IS 'When the job was claimed.';
COMMENT ON COLUMN pgq_running.losses IS
    'As in pgq_waiting. Negative from when the job is found lost together with others until the rescue puts it back; '
    'the number then includes this loss.';
COMMENT ON COLUMN pgq_running.group_id IS
    'Number of the group if the queue has limits, 0 for a job without a group: the limits count the job. NULL '
    'otherwise.';
COMMENT ON SEQUENCE pgq_token IS 'Source of tokens; it follows the clock, in microseconds since 1970.';

-- For the reason given in pgq_waiting.
ALTER TABLE pgq_running ALTER COLUMN args SET STORAGE EXTERNAL;
