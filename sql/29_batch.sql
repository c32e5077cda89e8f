-- What was put into batches, and what of it has failed.
--
-- A batch is a blocked job with rows in this table. Rows are appended, never updated: one when the batch is enqueued,
-- one for each addition, and one whenever jobs of the batch have failed. So those that add and those that fail wait for
-- no other. What is left of a batch is counted in pgq_need.

CREATE TABLE pgq_batch (
    id       bigint      NOT NULL,
    queue    text        NOT NULL,
    jobs     bigint      NOT NULL,
    failed   bigint[]    NOT NULL,
    given_up bigint      NOT NULL,
    at       timestamptz NOT NULL
);

CREATE INDEX pgq_batch_id ON pgq_batch (id);

-- The table has no key. Without an identity its rows could not be deleted once a publication has the table.
ALTER TABLE pgq_batch REPLICA IDENTITY FULL;

COMMENT ON TABLE pgq_batch IS
    'What was put into batches, and what of it has failed: the sums count, by id. Kept for 7 days, and for as long as '
    'the batch is a job.';
COMMENT ON COLUMN pgq_batch.id IS 'Number of the job that comes after all others of the batch.';
COMMENT ON COLUMN pgq_batch.queue IS 'Its queue.';
COMMENT ON COLUMN pgq_batch.jobs IS 'Number of jobs that were put into the batch.';
COMMENT ON COLUMN pgq_batch.failed IS 'Numbers of those that are dead or cancelled.';
COMMENT ON COLUMN pgq_batch.given_up IS 'Number of jobs that were left when the batch itself was cancelled.';
COMMENT ON COLUMN pgq_batch.at IS 'When the row was inserted.';
