-- The view of the queues: what is set, and how many jobs they have.

CREATE VIEW pgq_queues WITH (security_barrier) AS
SELECT q.queue, p.queue IS NOT NULL AS paused, nullif(p.until, 'infinity') AS paused_until,
       (
           SELECT count(*)
           FROM pgq_paused AS g
           WHERE g.queue = q.queue COLLATE "C" AND g.group_id <> 0 AND g.until > q.now
       ) AS paused_groups,
       coalesce(q.running >= s.max_running, false) AS at_limit,
       (
           SELECT count(*)
           FROM (
               SELECT
               FROM _pgq_running AS r
               WHERE r.queue = q.queue AND r.group_key IS NOT NULL
               GROUP BY r.group_key
               HAVING count(*) >= CASE WHEN s.ordered THEN 1 ELSE s.max_per_group END
           ) AS g
       ) AS groups_at_limit,
       (
           -- A hundred years at most, as in _pgq_span, which the reading role may not execute.
           SELECT nullif(greatest(
                      q.now,
                      r.all_spent - make_interval(secs => least(
                          extract(epoch FROM s.per)::double precision * (coalesce(s.burst, 1) - 1) / s.rate,
                          3155760000))), q.now)
           FROM pgq_rate AS r
           WHERE r.queue = s.queue AND r.group_id = 0
           ORDER BY r.all_spent DESC
           LIMIT 1
       ) AS next_start_at,
       q.waiting, q.ripe, q.running, s.max_running, s.max_per_group, coalesce(s.ordered, false) AS ordered, s.on_dead,
       s.rate, s.per, s.burst, s.rate_per_group, s.max_retries, s.backoff, s.backoff_cap, s.lease,
       s.keep_done, s.keep_dead, s.keep_cancelled, coalesce(s.sensitive, false) AS sensitive
FROM (
    SELECT part.queue, clock.now, sum(part.waiting)::bigint AS waiting, sum(part.ripe)::bigint AS ripe,
           sum(part.running)::bigint AS running
    FROM (SELECT pgq_now() AS now) AS clock
    CROSS JOIN LATERAL (
        SELECT w.queue, count(*) AS waiting, count(*) FILTER (WHERE w.ripe_at <= clock.now) AS ripe, 0 AS running
        FROM pgq_waiting AS w
        GROUP BY w.queue
        UNION ALL
        SELECT r.queue, 0, 0, count(*) FROM _pgq_running AS r GROUP BY r.queue
        UNION ALL
        SELECT o.queue COLLATE "default", 0, 0, 0 FROM pgq_queue_setting AS o WHERE o.queue <> ''
        UNION ALL
        SELECT o.queue COLLATE "default", 0, 0, 0 FROM pgq_paused AS o WHERE o.until > clock.now
    ) AS part
    GROUP BY part.queue, clock.now
) AS q
LEFT JOIN pgq_queue_setting AS s ON s.queue = q.queue COLLATE "C"
LEFT JOIN pgq_paused AS p ON p.queue = q.queue COLLATE "C" AND p.group_id = 0 AND p.until > q.now
CROSS JOIN _pgq_visible_queues AS visible
WHERE visible.sees_all OR q.queue = ANY (visible.sees);

COMMENT ON VIEW pgq_queues IS
    'Queues that have settings, are paused, or have jobs that wait or run. A role sees those that it may use as admin '
    'or reader. NULL for a setting means that it is not set. A query counts all jobs that wait; pgq_overview_queues '
    'does not.';
COMMENT ON COLUMN pgq_queues.queue IS 'Name of the queue.';
COMMENT ON COLUMN pgq_queues.paused IS 'Whether the queue is paused: no job of it is claimed.';
COMMENT ON COLUMN pgq_queues.paused_until IS
    'When the pause ends; NULL: the queue is not paused, or is paused until pgq_resume is called.';
COMMENT ON COLUMN pgq_queues.paused_groups IS 'Number of the groups of the queue that are paused by themselves.';
COMMENT ON COLUMN pgq_queues.at_limit IS 'Whether as many jobs run as max_running allows.';
COMMENT ON COLUMN pgq_queues.groups_at_limit IS 'Number of the groups of which as many jobs run as the settings allow.';
COMMENT ON COLUMN pgq_queues.next_start_at IS
    'When the rate lets the next job start; NULL: now, or the queue has no rate. The rates of groups are not shown.';
COMMENT ON COLUMN pgq_queues.waiting IS 'Number of jobs that wait, ripe or not.';
COMMENT ON COLUMN pgq_queues.ripe IS 'Number of waiting jobs whose time has come.';
COMMENT ON COLUMN pgq_queues.running IS 'Number of jobs that a worker has claimed.';
COMMENT ON COLUMN pgq_queues.max_running IS 'Most jobs of the queue that run at a time.';
COMMENT ON COLUMN pgq_queues.max_per_group IS 'Most jobs of each group that run at a time.';
COMMENT ON COLUMN pgq_queues.ordered IS
    'Whether the jobs of each group run one after the other, in the order in which they were enqueued.';
COMMENT ON COLUMN pgq_queues.on_dead IS 'What a dead job does to those after it in its group: continue or stop.';
COMMENT ON COLUMN pgq_queues.rate IS 'Jobs of the queue that may start in each interval "per".';
COMMENT ON COLUMN pgq_queues.per IS 'Interval of rate and rate_per_group.';
COMMENT ON COLUMN pgq_queues.burst IS 'Jobs that may start at once after a pause, beyond what the rates allow.';
COMMENT ON COLUMN pgq_queues.rate_per_group IS 'Jobs of each group that may start in each interval "per".';
COMMENT ON COLUMN pgq_queues.max_retries IS 'max_retries of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queues.backoff IS 'backoff of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queues.backoff_cap IS 'backoff_cap of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queues.lease IS 'Lease of claims that are made without.';
COMMENT ON COLUMN pgq_queues.keep_done IS 'How long a job is kept that is done, also without a result.';
COMMENT ON COLUMN pgq_queues.keep_dead IS 'How long a dead job is kept.';
COMMENT ON COLUMN pgq_queues.keep_cancelled IS 'How long a cancelled job is kept.';
COMMENT ON COLUMN pgq_queues.sensitive IS
    'Whether the programs of pgq show no arguments, results and errors of the queue unless they are asked to.';
