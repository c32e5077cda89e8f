-- What there is to look at.

CREATE VIEW pgq_job AS
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
FROM pgq_ended;

COMMENT ON VIEW pgq_job IS
    'All jobs as one list, with their state: waiting, running, dead, cancelled or done. A job that was completed '
    'without a result is gone.';


CREATE VIEW pgq_workers AS
SELECT coalesce(w.name, r.worker) AS name, w.host, w.pid, w.queues, w.registered_at,
       w.number IN (SELECT number FROM _pgq_presence) AS present, coalesce(r.running, 0) AS running, r.kinds, r.oldest_claimed_at
FROM pgq_worker AS w
FULL JOIN (
    SELECT worker, count(*) AS running, array_agg(DISTINCT kind ORDER BY kind) AS kinds, min(claimed_at) AS oldest_claimed_at
    FROM pgq_running
    WHERE worker IS NOT NULL
    GROUP BY worker
) AS r ON r.worker = w.name;

COMMENT ON VIEW pgq_workers IS
    'Workers that have registered or hold jobs: where they run and since when, whether they are present (NULL: never '
    'registered), how many jobs they hold, of which kinds, and since when the oldest of them.';


CREATE VIEW pgq_stats AS
SELECT j.queue, j.kind,
       count(*) FILTER (WHERE j.state = 'waiting') AS waiting,
       count(*) FILTER (WHERE j.state = 'waiting' AND j.ripe_at <= clock.now) AS ripe,
       count(*) FILTER (WHERE j.state = 'running') AS running,
       count(*) FILTER (WHERE j.state = 'dead') AS dead,
       count(*) FILTER (WHERE j.state = 'cancelled') AS cancelled,
       count(*) FILTER (WHERE j.state = 'done') AS done,
       max(clock.now - j.ripe_at) FILTER (WHERE j.state = 'waiting' AND j.ripe_at <= clock.now) AS oldest_ripe_age
FROM pgq_job AS j
CROSS JOIN (SELECT pgq_now() AS now) AS clock
GROUP BY j.queue, j.kind;

COMMENT ON VIEW pgq_stats IS
    'Numbers of jobs by queue and kind; ripe are those of the waiting that a worker could claim now, and '
    'oldest_ripe_age is how long the first of them has been (NULL: none is ripe).';
