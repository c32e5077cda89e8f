-- The view of the counts since ever.

CREATE VIEW pgq_counters WITH (security_barrier) AS
SELECT c.queue, c.kind, c.waiting + c.running + c.done + c.dead + c.cancelled + c.merged - c.retried AS enqueued,
       c.claimed, c.done, c.failed, c.dead, c.cancelled, c.merged, c.retried, c.waited_seconds, c.timed, c.ran_seconds
FROM (
    SELECT e.queue, e.kind, coalesce(sum(e.jobs) FILTER (WHERE e.event = 'waiting'), 0)::bigint AS waiting,
           coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('row', 'part')), 0)::bigint AS running,
           coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('claimed', 'packed')), 0)::bigint AS claimed,
           (coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('claimed', 'packed', 'gone')), 0)
            - coalesce(sum(e.jobs) FILTER (
                  WHERE e.event IN ('returned', 'failed', 'dead', 'stopped', 'row')), 0))::bigint AS done,
           coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('failed', 'dead')), 0)::bigint AS failed,
           coalesce(sum(e.jobs) FILTER (WHERE e.event = 'dead'), 0)::bigint AS dead,
           coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('stopped', 'cancelled')), 0)::bigint AS cancelled,
           coalesce(sum(e.jobs) FILTER (WHERE e.event = 'merged'), 0)::bigint AS merged,
           coalesce(sum(e.jobs) FILTER (WHERE e.event = 'retried'), 0)::bigint AS retried,
           extract(epoch FROM coalesce(sum(e.waited), '0'))::double precision AS waited_seconds,
           coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('timed', 'packed')), 0)::bigint AS timed,
           extract(epoch FROM coalesce(sum(e.ran), '0'))::double precision AS ran_seconds
    FROM (
        SELECT o.queue, o.kind, o.event, o.jobs, o.waited, o.ran FROM pgq_count AS o
        UNION ALL
        SELECT w.queue, w.kind, 'waiting', count(*), NULL, NULL FROM pgq_waiting AS w GROUP BY w.queue, w.kind
        UNION ALL
        SELECT b.queue, b.kind, 'waiting', count(*), NULL, NULL FROM pgq_blocked AS b GROUP BY b.queue, b.kind
        UNION ALL
        SELECT r.queue, r.kind, 'row', count(*), NULL, NULL FROM pgq_running AS r GROUP BY r.queue, r.kind
        UNION ALL
        SELECT j.queue, j.kind, CASE WHEN j.id = ANY (b.gone) THEN 'gone' ELSE 'part' END, 1, NULL, NULL
        FROM pgq_running_batch AS b
        CROSS JOIN LATERAL unnest(b.ids, b.queues, b.kinds) AS j (id, queue, kind)
    ) AS e
    GROUP BY e.queue, e.kind
) AS c
CROSS JOIN _pgq_visible_queues AS visible
WHERE visible.sees_all OR c.queue = ANY (visible.sees);

COMMENT ON VIEW pgq_counters IS
    'What has happened to the jobs of each queue and kind since pgq was installed, or upgraded from 0.2.0: numbers '
    'that only grow, for metrics. They are those of committed transactions: a call that is rolled back, or lost in a '
    'crash, is not counted, and neither is it doubled. The two sums of times are estimates in part. A role sees the '
    'counters of the queues that it may use as admin or reader.';
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
