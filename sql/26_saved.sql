-- What jobs have saved for their next attempts, and for those who look: progress, and the results of their steps.
--
-- It stands beside the jobs, as errors do, because a job is written anew with each move, and this may take 1 MiB. A job
-- that has saved nothing costs nothing: newest_error of its row is NULL, and no call looks here. One that has saved has
-- -1 there, or the number of an error. So it is never packed, and its end takes the way on which this is deleted.
--
-- A transaction changes the row of a job only while it has the row of the job locked, or has just removed it.

CREATE TABLE pgq_saved (
    id    bigint NOT NULL,
    saved jsonb  NOT NULL,

    CONSTRAINT pgq_saved_pkey PRIMARY KEY (id)
)
-- Each call of pgq_save leaves a dead row: vacuum as early as pgq_waiting.
WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_delay = 0
);

COMMENT ON TABLE pgq_saved IS
    'What jobs have saved by pgq_save, until they are deleted: it is kept through retries, snoozes and lost workers.';
COMMENT ON COLUMN pgq_saved.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_saved.saved IS 'Any JSON of at most 1 MiB as text.';
