-- Signals that were sent to jobs, and what jobs wait for.
--
-- A signal is a row of its own, so that what sends one never waits for the transaction of a handler. It finds a job
-- that waits for it, and makes it ripe. If it finds none, it is marked as unseen: the job may just be about to wait, in
-- a transaction that is still open, or about to merge with its twin. Maintenance looks again (_pgq_settle_signals), and
-- must not look too early: a call that waits holds an advisory lock of the job in shared mode, from before it looks for
-- the signal to its commit.
--
-- A row of pgq_signal_wait holds only while the job waits until exactly this time. Afterwards it tells the next
-- attempts when the wait was over. pgq_merged tells where the signals of a job belong that has merged.

CREATE TABLE pgq_job_signal (
    id      bigint      NOT NULL,
    name    text        NOT NULL COLLATE "C",
    payload jsonb,
    sent_at timestamptz NOT NULL,
    unseen  boolean     NOT NULL,

    CONSTRAINT pgq_job_signal_pkey PRIMARY KEY (id, name)
);

CREATE INDEX pgq_job_signal_unseen ON pgq_job_signal (id) WHERE unseen;

CREATE TABLE pgq_signal_wait (
    id    bigint      NOT NULL,
    name  text        NOT NULL COLLATE "C",
    until timestamptz NOT NULL,

    CONSTRAINT pgq_signal_wait_pkey PRIMARY KEY (id, name)
);

CREATE TABLE pgq_merged (
    id   bigint NOT NULL,
    twin bigint NOT NULL,

    CONSTRAINT pgq_merged_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE pgq_job_signal IS 'Signals that were sent to jobs (see pgq_signal), until the jobs are deleted.';
COMMENT ON COLUMN pgq_job_signal.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_job_signal.name IS 'Name of the signal; a job gets one of each name.';
COMMENT ON COLUMN pgq_job_signal.payload IS 'What was sent with it: any JSON of at most 1 MiB as text; NULL: nothing.';
COMMENT ON COLUMN pgq_job_signal.sent_at IS 'When pgq_signal was called.';
COMMENT ON COLUMN pgq_job_signal.unseen IS 'Whether maintenance is to look for a job that waits for the signal.';
COMMENT ON TABLE pgq_signal_wait IS 'What jobs wait for, or have waited for (see pgq_wait_signal).';
COMMENT ON COLUMN pgq_signal_wait.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_signal_wait.name IS 'Name of the signal.';
COMMENT ON COLUMN pgq_signal_wait.until IS 'When the wait is over without the signal.';
COMMENT ON TABLE pgq_merged IS
    'Jobs that have merged, so that signals for them reach the job that has survived, and jobs that are to run after '
    'them wait for it, while that is there.';
COMMENT ON COLUMN pgq_merged.id IS 'Number of the job that has merged.';
COMMENT ON COLUMN pgq_merged.twin IS 'Number of the twin that has survived.';
