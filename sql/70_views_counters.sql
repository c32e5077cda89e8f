-- The view of the counts since ever.

-- What is done is the rest of what was claimed: of the jobs that live, only the running ones are counted for it.
CREATE VIEW _pgq_counters AS
SELECT e.queue, e.kind, coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('row', 'part')), 0)::bigint AS running,
       coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('claimed', 'packed')), 0)::bigint AS claimed,
       (coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('claimed', 'packed', 'gone')), 0)
        - coalesce(sum(e.jobs) FILTER (
              WHERE e.event IN ('returned', 'failed', 'dead', 'stopped', 'row')), 0))::bigint AS done,
       coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('failed', 'dead')), 0)::bigint AS failed,
       coalesce(sum(e.jobs) FILTER (WHERE e.event = 'dead'), 0)::bigint AS dead,
       coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('stopped', 'cancelled')), 0)::bigint AS cancelled,
       coalesce(sum(e.jobs) FILTER (WHERE e.event = 'merged'), 0)::bigint AS merged,
       coalesce(sum(e.jobs) FILTER (WHERE e.event = 'retried'), 0)::bigint AS retried,
       coalesce(sum(extract(epoch FROM e.waited)), 0)::double precision AS waited_seconds,
       coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('timed', 'packed')), 0)::bigint AS timed,
       coalesce(sum(extract(epoch FROM e.ran)), 0)::double precision AS ran_seconds
FROM (
    SELECT o.queue, o.kind, o.event, o.jobs, o.waited, o.ran FROM pgq_count AS o
    UNION ALL
    SELECT r.queue, r.kind, 'row', count(*), NULL, NULL FROM pgq_running AS r GROUP BY r.queue, r.kind
    UNION ALL
    SELECT j.queue, j.kind, CASE WHEN j.id = ANY (b.gone) THEN 'gone' ELSE 'part' END, 1, NULL, NULL
    FROM pgq_running_batch AS b
    CROSS JOIN LATERAL unnest(b.ids, b.queues, b.kinds) AS j (id, queue, kind)
) AS e
GROUP BY e.queue, e.kind;

COMMENT ON VIEW _pgq_counters IS
    'The counters of pgq_counters by queue and kind, and the number of running jobs; waiting and ended jobs are not '
    'read.';


CREATE VIEW pgq_counters WITH (security_barrier) AS
SELECT e.queue, e.kind, e.live + e.done + e.dead + e.cancelled + e.merged - e.retried AS enqueued, e.claimed, e.done,
       e.failed, e.dead, e.cancelled, e.merged, e.retried, e.waited_seconds, e.timed, e.ran_seconds
FROM (
    SELECT queue, kind, coalesce(w.waiting, 0) + coalesce(c.running, 0) AS live, coalesce(c.claimed, 0) AS claimed,
           coalesce(c.done, 0) AS done, coalesce(c.failed, 0) AS failed, coalesce(c.dead, 0) AS dead,
           coalesce(c.cancelled, 0) AS cancelled, coalesce(c.merged, 0) AS merged, coalesce(c.retried, 0) AS retried,
           coalesce(c.waited_seconds, 0) AS waited_seconds, coalesce(c.timed, 0) AS timed,
           coalesce(c.ran_seconds, 0) AS ran_seconds
    FROM _pgq_counters AS c
    FULL JOIN (
        SELECT j.queue, j.kind, count(*) AS waiting
        FROM (
            SELECT w.queue, w.kind FROM pgq_waiting AS w
            UNION ALL
            SELECT b.queue, b.kind FROM pgq_blocked AS b
        ) AS j
        GROUP BY j.queue, j.kind
    ) AS w USING (queue, kind)
) AS e
CROSS JOIN _pgq_visible_queues AS visible
WHERE visible.sees_all OR e.queue = ANY (visible.sees);

COMMENT ON VIEW pgq_counters IS
    'What has happened to the jobs of each queue and kind since pgq was installed, or upgraded from 0.2.0: numbers '
    'that only grow, for metrics. They are those of committed transactions: a call that is rolled back, or lost in a '
    'crash, is not counted, and neither is it doubled. The two sums of times are estimates in part. A query counts '
    'all jobs that wait, for enqueued; pgq_overview_counters does not. A role sees the counters of the queues that '
    'it may use as admin or reader.';
COMMENT ON COLUMN pgq_counters.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN pgq_counters.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN pgq_counters.enqueued IS
    'Number of jobs that were created, and of those that there were at the upgrade; a duplicate creates none.';
COMMENT ON COLUMN pgq_counters.claimed IS
    'Number of attempts that have begun; those of a packed batch count when the batch has ended or is unpacked.';
COMMENT ON COLUMN pgq_counters.done IS 'Number of jobs that were completed.';
COMMENT ON COLUMN pgq_counters.failed IS
    'Number of attempts that have failed, whether the job was retried or became dead; lost ones among them, if they '
    'count.';
COMMENT ON COLUMN pgq_counters.dead IS 'Number of jobs that failed for good, each time that they did.';
COMMENT ON COLUMN pgq_counters.cancelled IS 'Number of jobs that were given up on purpose, each time.';
COMMENT ON COLUMN pgq_counters.merged IS 'Number of jobs that became one with their waiting twins.';
COMMENT ON COLUMN pgq_counters.retried IS 'Number of times that pgq_retry has put a job back.';
COMMENT ON COLUMN pgq_counters.waited_seconds IS
    'How long jobs had been ripe when they were claimed, summed up over "claimed". In a packed batch one job, chosen '
    'at random, stands for all.';
COMMENT ON COLUMN pgq_counters.timed IS
    'Number of jobs of which ran_seconds has the times, a part of "done": all that were packed, and one claim in '
    '64 of the others, whose jobs count for 64.';
COMMENT ON COLUMN pgq_counters.ran_seconds IS
    'Times from the claim to the end of these jobs, summed up; in a batch, to the end of the batch. Divide by timed.';
