-- Jobs that a worker has claimed, each under its token and until its lease runs out.

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
-- Rows live for one attempt: vacuum as early as for pgq_waiting.
WITH (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX pgq_running_lease ON pgq_running (lease_until);

-- A token is the time of the claim in microseconds, and ten bits of this sequence. Nothing else about a claim is unique: a
-- retry by hand starts the attempts again, and two workers may share a name. Nor is the sequence by itself: a crash sets
-- it back, when the claims that did not wait for the disk are lost.
CREATE SEQUENCE pgq_token AS bigint;

COMMENT ON TABLE pgq_running IS 'Jobs that a worker has claimed. Columns as in pgq_waiting, and the claim''s own.';
COMMENT ON COLUMN pgq_running.token IS 'Names this one claim; whoever acts on the job must show it.';
COMMENT ON COLUMN pgq_running.lease_until IS 'When the worker loses the job, unless it is done with it or extends the lease.';
COMMENT ON COLUMN pgq_running.worker IS 'What the worker called itself at the claim; NULL: nothing.';
COMMENT ON COLUMN pgq_running.claimed_at IS 'When the job was claimed.';
COMMENT ON SEQUENCE pgq_token IS 'Tells the claims of one moment apart.';

-- As in pgq_waiting.
ALTER TABLE pgq_running ALTER COLUMN args SET STORAGE EXTERNAL;
