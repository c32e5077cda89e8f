-- Jobs that a worker has claimed, each under its token and until its lease ends.

CREATE TABLE pgq_running (
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
    token       bigint      NOT NULL,
    lease_until timestamptz NOT NULL,
    worker      text,
    claimed_at  timestamptz NOT NULL,

    CONSTRAINT pgq_running_pkey PRIMARY KEY (id),

    CONSTRAINT pgq_running_check CHECK (isfinite(lease_until))
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

-- A token consists of the time of the claim in microseconds and ten bits of this sequence. Nothing else identifies a
-- claim: pgq_retry counts attempts from the start again, and two workers may share a name. Nor is the sequence alone
-- unique: a crash can lose claims that committed without waiting for the disk, and sets the sequence back with them.
CREATE SEQUENCE pgq_token AS bigint;

COMMENT ON TABLE pgq_running IS 'Jobs that a worker has claimed. The columns of pgq_waiting, and those of the claim.';
COMMENT ON COLUMN pgq_running.token IS 'Number that names this claim; every call about the job must present it.';
COMMENT ON COLUMN pgq_running.lease_until IS
    'When the worker loses the job, unless it has ended the attempt or extended the lease.';
COMMENT ON COLUMN pgq_running.worker IS 'Name under which the worker has claimed the job; NULL: it gave none.';
COMMENT ON COLUMN pgq_running.claimed_at IS 'When the job was claimed.';
COMMENT ON SEQUENCE pgq_token IS
    'Source of the low ten bits of tokens, which tell claims of the same microsecond apart.';

-- For the reason given in pgq_waiting.
ALTER TABLE pgq_running ALTER COLUMN args SET STORAGE EXTERNAL;
