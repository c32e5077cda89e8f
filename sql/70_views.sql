-- What there is to look at, and for whom.

-- A view knows who asks: current_user is whoever reads from it, while the tables are read with the rights of its owner.
CREATE VIEW _pgq_visible_queues AS
SELECT o.is_owner OR bool_or(p.privilege IS NOT NULL AND p.queues IS NULL) AS sees_all,
       array_agg(q.queue) AS sees,
       o.is_owner OR bool_or(p.privilege = 'admin' AND p.queues IS NULL) IS TRUE AS reads_all,
       array_agg(q.queue) FILTER (WHERE p.privilege = 'admin') AS reads
FROM (
    SELECT pg_has_role(current_user, c.relowner, 'USAGE') AS is_owner
    FROM pg_class AS c
    WHERE c.oid = 'pgq_permission'::regclass
) AS o
LEFT JOIN pgq_permission AS p ON p.privilege IN ('admin', 'reader') AND pg_has_role(current_user, p.role::oid, 'USAGE')
LEFT JOIN LATERAL unnest(p.queues) AS q (queue) ON true
GROUP BY o.is_owner;

COMMENT ON VIEW _pgq_visible_queues IS
    'The queues that whoever reads a view may see, as reader or admin, and those whose jobs he may read, as admin.';


-- A barrier, so that no condition of the reader's is shown a row that is hidden from him.
CREATE VIEW pgq_jobs WITH (security_barrier) AS
SELECT j.id, j.state, j.queue, j.kind, CASE WHEN s.reads THEN j.args END AS args, j.priority, j.ripe_at, j.attempt,
       j.max_retries, j.backoff, j.backoff_cap, j.dedup, CASE WHEN s.reads THEN j.dedup_key END AS dedup_key,
       j.enqueued_at, CASE WHEN s.reads THEN j.errors END AS errors, j.worker, j.claimed_at, j.lease_until, j.ended_at,
       CASE WHEN s.reads THEN j.result END AS result, CASE WHEN s.reads THEN j.context END AS context
FROM (
    SELECT id, 'waiting'::text AS state, queue, kind, args, priority::integer AS priority, ripe_at, attempt, max_retries,
           backoff, backoff_cap, dedup, dedup_key, enqueued_at, errors, NULL::text AS worker,
           NULL::timestamptz AS claimed_at, NULL::timestamptz AS lease_until, NULL::timestamptz AS ended_at,
           NULL::jsonb AS result, context
    FROM pgq_waiting
    UNION ALL
    SELECT id, 'running', queue, kind, args, priority, ripe_at, attempt, max_retries,
           backoff, backoff_cap, dedup, dedup_key, enqueued_at, errors, worker,
           claimed_at, lease_until, NULL, NULL, context
    FROM pgq_running
    UNION ALL
    SELECT id, outcome, queue, kind, args, priority, ripe_at, attempt, max_retries,
           backoff, backoff_cap, dedup, dedup_key, enqueued_at, errors, worker,
           NULL, NULL, ended_at, result, context
    FROM pgq_ended
) AS j
CROSS JOIN LATERAL (
    SELECT sight.sees_all OR j.queue = ANY (sight.sees) AS sees, sight.reads_all OR j.queue = ANY (sight.reads) AS reads
    FROM _pgq_visible_queues AS sight
) AS s
WHERE s.sees;

COMMENT ON VIEW pgq_jobs IS
    'All jobs as one list, with their state: waiting, running, dead, cancelled or done. A job that was completed '
    'without a result is gone. Only jobs of queues that your role may see, as admin or reader; args, dedup_key, errors, '
    'result and context are NULL unless as admin.';


-- Each side is filtered before the join: whoever claims under the name of a hidden worker must not learn of it.
CREATE VIEW pgq_workers WITH (security_barrier) AS
SELECT coalesce(w.name, r.worker) AS name, w.host, w.pid, w.queues, w.registered_at,
       w.number IN (SELECT number FROM _pgq_presence) AS present, coalesce(r.running, 0) AS running, r.kinds, r.oldest_claimed_at
FROM (
    SELECT worker.name, worker.number, worker.host, worker.pid, worker.registered_at,
           CASE WHEN s.sees_all THEN worker.queues ELSE ARRAY(SELECT q FROM unnest(worker.queues) AS q WHERE q = ANY (s.sees)) END AS queues
    FROM pgq_worker_session AS worker
    CROSS JOIN _pgq_visible_queues AS s
    WHERE s.sees_all OR worker.queues && s.sees
) AS w
FULL JOIN (
    SELECT job.worker, count(*) AS running, array_agg(DISTINCT job.kind ORDER BY job.kind) AS kinds,
           min(job.claimed_at) AS oldest_claimed_at
    FROM pgq_running AS job
    CROSS JOIN _pgq_visible_queues AS s
    WHERE job.worker IS NOT NULL
      AND (s.sees_all OR job.queue = ANY (s.sees))
    GROUP BY job.worker
) AS r ON r.worker = w.name;

COMMENT ON VIEW pgq_workers IS
    'Workers that have registered or hold jobs: where they run and since when, whether they are present (NULL: never '
    'registered), how many jobs they hold, of which kinds, and since when the oldest of them. Only as far as they serve '
    'queues that your role may see.';


CREATE VIEW pgq_stats AS
SELECT j.queue, j.kind,
       count(*) FILTER (WHERE j.state = 'waiting') AS waiting,
       count(*) FILTER (WHERE j.state = 'waiting' AND j.ripe_at <= clock.now) AS ripe,
       count(*) FILTER (WHERE j.state = 'running') AS running,
       count(*) FILTER (WHERE j.state = 'dead') AS dead,
       count(*) FILTER (WHERE j.state = 'cancelled') AS cancelled,
       count(*) FILTER (WHERE j.state = 'done') AS done,
       max(clock.now - j.ripe_at) FILTER (WHERE j.state = 'waiting' AND j.ripe_at <= clock.now) AS oldest_ripe_age
FROM pgq_jobs AS j
CROSS JOIN (SELECT pgq_now() AS now) AS clock
GROUP BY j.queue, j.kind;

COMMENT ON VIEW pgq_stats IS
    'Numbers of jobs by queue and kind; ripe are those of the waiting that a worker could claim now, and '
    'oldest_ripe_age is how long the first of them has been (NULL: none is ripe). Only queues that your role may see.';
