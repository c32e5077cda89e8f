-- The view of the batches.

CREATE VIEW pgq_batches WITH (security_barrier) AS
SELECT b.id, b.queue, b.jobs,
       b.jobs - b.given_up - (SELECT count(*) FROM pgq_need AS n WHERE n.job = b.id) AS ended,
       cardinality(b.failed_ids) AS failed, b.failed_ids, b.enqueued_at
FROM (
    SELECT o.id, o.queue, sum(o.jobs)::bigint AS jobs, sum(o.given_up)::bigint AS given_up,
           min(o.at) AS enqueued_at,
           ARRAY(
               SELECT DISTINCT j.id
               FROM pgq_batch AS p
               CROSS JOIN LATERAL unnest(p.failed) AS j (id)
               WHERE p.id = o.id
               ORDER BY j.id) AS failed_ids
    FROM pgq_batch AS o
    GROUP BY o.id, o.queue
) AS b
CROSS JOIN _pgq_visible_queues AS visible
WHERE visible.sees_all OR b.queue = ANY (visible.sees);

COMMENT ON VIEW pgq_batches IS
    'The batches, with the numbers that pgq_batch_progress returns. A role sees those in the queues that it may use as '
    'admin or reader.';
COMMENT ON COLUMN pgq_batches.id IS 'Number of the job that comes after all others of the batch.';
COMMENT ON COLUMN pgq_batches.queue IS 'Its queue.';
COMMENT ON COLUMN pgq_batches.jobs IS 'Number of jobs that were put into the batch.';
COMMENT ON COLUMN pgq_batches.ended IS 'How many of these have ended.';
COMMENT ON COLUMN pgq_batches.failed IS 'How many of these have failed: they were dead or cancelled.';
COMMENT ON COLUMN pgq_batches.failed_ids IS 'Their numbers.';
COMMENT ON COLUMN pgq_batches.enqueued_at IS 'When the batch was enqueued.';
