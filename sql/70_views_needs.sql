-- The view of what blocked jobs wait for.

CREATE VIEW pgq_needs WITH (security_barrier) AS
SELECT n.job, n.needs
FROM pgq_need AS n
JOIN pgq_blocked AS b ON b.id = n.job
CROSS JOIN _pgq_visible_queues AS visible
WHERE visible.sees_all OR b.queue = ANY (visible.sees);

COMMENT ON VIEW pgq_needs IS
    'What blocked jobs wait for, one row for each job and prerequisite. A search by either number reads an index. A '
    'role sees the rows of blocked jobs in the queues that it may use as admin or reader.';
COMMENT ON COLUMN pgq_needs.job IS 'Number of the blocked job.';
COMMENT ON COLUMN pgq_needs.needs IS
    'Number of a job that it still waits for; a dead or cancelled one of them is to be retried.';
