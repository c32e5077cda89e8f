-- The views, and which rows a role sees in them.

-- In a view, current_user is the role that reads from it, although the tables are read with the rights of the view's
-- owner.
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
    'The queues whose jobs the reading role sees, as admin or reader (sees_all, sees), and those whose args, results '
    'and errors it may read, as admin (reads_all, reads).';


-- A security barrier: PostgreSQL evaluates no condition of a query on rows that are hidden from the role.
CREATE VIEW pgq_jobs WITH (security_barrier) AS
SELECT j.id, j.state, j.queue, j.kind, CASE WHEN s.reads THEN j.args END AS args, j.priority, j.ripe_at, j.attempt,
       j.max_retries, coalesce(j.backoff, '1 minute') AS backoff, coalesce(j.backoff_cap, '1 hour') AS backoff_cap,
       j.dedup, CASE WHEN s.reads THEN j.dedup_key END AS dedup_key,
       j.enqueued_at,
       CASE WHEN s.reads AND j.newest_error IS NULL THEN '[]'
            WHEN s.reads THEN coalesce((
                SELECT jsonb_agg(
                    jsonb_build_object('attempt', e.attempt, 'at', e.at, 'worker', e.worker, 'error', e.error)
                    || CASE WHEN e.declined IS NULL THEN '{}' ELSE jsonb_build_object('declined', e.declined) END
                    ORDER BY e.number DESC)
                FROM pgq_error AS e
                WHERE e.id = j.id
            ), '[]')
       END AS errors,
       j.worker, j.claimed_at, j.lease_until, j.ended_at,
       CASE WHEN s.reads THEN j.result END AS result, CASE WHEN s.reads THEN j.context END AS context, j.losses,
       j.cancel_requested_at, CASE WHEN s.reads THEN j.group_key END AS group_key,
       CASE
           WHEN j.state = 'blocked' THEN ARRAY(
               SELECT n.needs FROM pgq_need AS n WHERE n.job = j.id ORDER BY n.needs)
       END AS after,
       CASE WHEN s.reads AND j.newest_error IS NOT NULL THEN (
           SELECT v.saved FROM pgq_saved AS v WHERE v.id = j.id
       ) END AS saved,
       CASE WHEN j.state = 'waiting' AND j.newest_error IS NOT NULL THEN (
           SELECT t.name COLLATE "default" FROM pgq_signal_wait AS t WHERE t.id = j.id AND t.until = j.ripe_at LIMIT 1
       ) END AS waits_for_signal,
       coalesce((
           SELECT q.sensitive FROM pgq_queue_setting AS q WHERE q.queue = j.queue COLLATE "C"
       ), false) AS sensitive
FROM (
    SELECT id, 'waiting'::text AS state, pgq_waiting.queue, kind, args, priority::integer AS priority, ripe_at, attempt,
           coalesce(pgq_waiting.max_retries, s.max_retries, 10) AS max_retries,
           coalesce(pgq_waiting.backoff, s.backoff) AS backoff,
           coalesce(pgq_waiting.backoff_cap, s.backoff_cap) AS backoff_cap, dedup, dedup_key, enqueued_at,
           newest_error, NULL::text AS worker,
           NULL::timestamptz AS claimed_at, NULL::timestamptz AS lease_until, NULL::timestamptz AS ended_at,
           NULL::jsonb AS result, context, losses::integer AS losses, NULL::timestamptz AS cancel_requested_at,
           group_key
    FROM pgq_waiting
    LEFT JOIN pgq_queue_setting AS s ON s.queue = pgq_waiting.queue COLLATE "C"
    UNION ALL
    SELECT id, 'running', queue, kind, args, priority, ripe_at, attempt, max_retries,
           backoff, backoff_cap, dedup, dedup_key, enqueued_at, newest_error, worker,
           claimed_at, lease_until, NULL, NULL, context, abs(losses),
           (SELECT c.requested_at FROM pgq_cancel_request AS c WHERE c.id = _pgq_running.id),
           group_key
    FROM _pgq_running
    UNION ALL
    SELECT id, 'blocked', pgq_blocked.queue, kind, args, priority, ripe_at, attempt,
           coalesce(pgq_blocked.max_retries, s.max_retries, 10), coalesce(pgq_blocked.backoff, s.backoff),
           coalesce(pgq_blocked.backoff_cap, s.backoff_cap), dedup, dedup_key, enqueued_at, newest_error, NULL,
           NULL, NULL, NULL, NULL, context, losses, NULL, group_key
    FROM pgq_blocked
    LEFT JOIN pgq_queue_setting AS s ON s.queue = pgq_blocked.queue COLLATE "C"
    UNION ALL
    SELECT id, outcome, queue, kind, args, priority, ripe_at, attempt, max_retries,
           backoff, backoff_cap, dedup, dedup_key, enqueued_at, newest_error, worker,
           claimed_at, NULL, ended_at, result, context, losses, NULL, group_key
    FROM pgq_ended
) AS j
CROSS JOIN LATERAL (
    SELECT visible.sees_all OR j.queue = ANY (visible.sees) AS sees,
           visible.reads_all OR j.queue = ANY (visible.reads) AS reads
    FROM _pgq_visible_queues AS visible
) AS s
WHERE s.sees;

COMMENT ON VIEW pgq_jobs IS
    'All jobs with their state: waiting, blocked, running, dead, cancelled or done. A job that was completed without a '
    'result is gone, unless its queue keeps all that is done. A role sees the jobs of the queues that it may use as '
    'admin or reader; where it is only a reader, args, dedup_key, errors, result, context, group_key '
    'and saved are NULL.';
COMMENT ON COLUMN pgq_jobs.id IS 'Number of the job; it stays the same in all states.';
COMMENT ON COLUMN pgq_jobs.state IS 'waiting, blocked, running, dead, cancelled or done.';
COMMENT ON COLUMN pgq_jobs.queue IS 'Queue whose workers may claim the job.';
COMMENT ON COLUMN pgq_jobs.kind IS 'Kind of work, by which a worker finds its handler.';
COMMENT ON COLUMN pgq_jobs.args IS 'Arguments for the handler; NULL to a role that is not an admin of the queue.';
COMMENT ON COLUMN pgq_jobs.priority IS '0 is claimed first, 9 last.';
COMMENT ON COLUMN pgq_jobs.ripe_at IS 'No worker can claim the job before this time.';
COMMENT ON COLUMN pgq_jobs.attempt IS 'Attempts so far: a claim adds one; a snooze, decline or release takes it back.';
COMMENT ON COLUMN pgq_jobs.max_retries IS 'Number of attempts allowed after the first one.';
COMMENT ON COLUMN pgq_jobs.backoff IS 'Delay before the first retry; it doubles with each further one.';
COMMENT ON COLUMN pgq_jobs.backoff_cap IS 'Longest delay between two attempts, before jitter.';
COMMENT ON COLUMN pgq_jobs.dedup IS 'Whether the job is deduplicated, so that no twin can wait beside it.';
COMMENT ON COLUMN pgq_jobs.dedup_key IS
    'Key that decides, instead of args, which jobs are twins; NULL: args decide, or it is hidden like args.';
COMMENT ON COLUMN pgq_jobs.enqueued_at IS 'When the job was enqueued.';
COMMENT ON COLUMN pgq_jobs.errors IS
    'The newest ten failures, and notes of pgq_complete and pgq_decline, newest first: objects with attempt, at, '
    'worker and error; those of merged jobs, too. A note of pgq_decline also has declined: how often the job was '
    'declined. Hidden like args.';
COMMENT ON COLUMN pgq_jobs.worker IS
    'Worker that holds the job or made its last attempt; NULL: none, or it gave no name.';
COMMENT ON COLUMN pgq_jobs.claimed_at IS
    'When the job was claimed for the attempt that runs, or was its last one; NULL: it waits, or was cancelled while '
    'it waited.';
COMMENT ON COLUMN pgq_jobs.lease_until IS
    'When its worker loses the job, unless it extends the lease; NULL unless running.';
COMMENT ON COLUMN pgq_jobs.ended_at IS 'When the job ended; NULL unless dead, cancelled or done.';
COMMENT ON COLUMN pgq_jobs.result IS
    'Result that was given to pgq_complete; NULL: none was given, the job is not done, or it is hidden like args.';
COMMENT ON COLUMN pgq_jobs.context IS
    'JSON object that the worker gets beside args; NULL: none, or it is hidden like args.';
COMMENT ON COLUMN pgq_jobs.losses IS
    'Number of attempts that did not count because the job was lost together with others; NULL: none since its last '
    'failure. A job with a number is a suspect, which is claimed alone.';
COMMENT ON COLUMN pgq_jobs.cancel_requested_at IS
    'When pgq_cancel asked the worker of the job to give it up; NULL: there is no such request, or the job is not '
    'running.';
COMMENT ON COLUMN pgq_jobs.group_key IS
    'Key of the group of the job; NULL: it has no group, or it is hidden like args.';
COMMENT ON COLUMN pgq_jobs.after IS
    'Numbers of the jobs that the job still waits for; a dead or cancelled one of them is to be retried. NULL unless '
    'blocked.';
COMMENT ON COLUMN pgq_jobs.saved IS
    'What the job has saved (see pgq_save); NULL: nothing, or the role is not an admin of the queue.';
COMMENT ON COLUMN pgq_jobs.waits_for_signal IS
    'Name of the signal for which the job waits, until ripe_at at the latest (see pgq_wait_signal); NULL: none.';
COMMENT ON COLUMN pgq_jobs.sensitive IS
    'Whether the queue is sensitive (see pgq_configure): what a reader does not see of the job is then for an admin '
    'who asks for it, and not for lists, logs and pages.';


-- Both sides are filtered before the join: a worker that claims under the name of a hidden worker must not learn that
-- it exists.
CREATE VIEW pgq_workers WITH (security_barrier) AS
SELECT coalesce(w.name COLLATE "default", r.worker) AS name, w.host, w.pid, w.queues, w.registered_at,
       CASE WHEN w.number IS NOT NULL THEN w.number IN (SELECT number FROM _pgq_presence) END AS present,
       coalesce(r.running, 0) AS running, r.kinds,
       r.oldest_claimed_at, w.handles, coalesce(r.overdue, 0) AS overdue
FROM (
    SELECT worker.name, worker.number, worker.host, worker.pid, worker.registered_at,
           CASE WHEN s.sees_all THEN worker.queues
                ELSE ARRAY(SELECT q FROM unnest(worker.queues) AS q WHERE q = ANY (s.sees))
           END AS queues,
           CASE WHEN s.sees_all OR worker.queues <@ s.sees THEN worker.kinds END AS handles
    FROM pgq_worker_session AS worker
    CROSS JOIN _pgq_visible_queues AS s
    WHERE s.sees_all OR worker.queues && s.sees
) AS w
FULL JOIN (
    SELECT job.worker, count(*) AS running, array_agg(DISTINCT job.kind ORDER BY job.kind) AS kinds,
           min(job.claimed_at) AS oldest_claimed_at, count(*) FILTER (WHERE job.lease_until < clock.now) AS overdue
    FROM _pgq_running AS job
    CROSS JOIN _pgq_visible_queues AS s
    CROSS JOIN (SELECT pgq_now() AS now) AS clock
    WHERE job.worker IS NOT NULL
      AND (s.sees_all OR job.queue = ANY (s.sees))
    GROUP BY job.worker
) AS r ON r.worker = w.name;

COMMENT ON VIEW pgq_workers IS
    'Workers that are registered or hold jobs. A role sees those that serve, or hold jobs of, queues that it may use '
    'as admin or reader.';
COMMENT ON COLUMN pgq_workers.name IS 'Name under which the worker claims.';
COMMENT ON COLUMN pgq_workers.host IS
    'Host of the worker, as it reports itself; NULL: not reported, or not registered.';
COMMENT ON COLUMN pgq_workers.pid IS 'Process id of the worker on that host; NULL: not reported, or not registered.';
COMMENT ON COLUMN pgq_workers.queues IS
    'Queues that the worker serves, as far as the role may see them; NULL: not registered.';
COMMENT ON COLUMN pgq_workers.registered_at IS
    'When the worker first registered under this name; NULL: not registered.';
COMMENT ON COLUMN pgq_workers.present IS 'Whether the session that registered the worker lives; NULL: not registered.';
COMMENT ON COLUMN pgq_workers.running IS 'Number of jobs that the worker holds, in queues that the role may see.';
COMMENT ON COLUMN pgq_workers.kinds IS 'Kinds of the jobs that the worker holds; NULL: it holds none.';
COMMENT ON COLUMN pgq_workers.oldest_claimed_at IS
    'When the first of the jobs that the worker holds was claimed; NULL: it holds none.';
COMMENT ON COLUMN pgq_workers.handles IS
    'Kinds that the worker has handlers for; NULL: it does not tell, is not registered, or serves queues that the role '
    'may not see.';
COMMENT ON COLUMN pgq_workers.overdue IS
    'Number of the jobs that the worker holds although their leases have ended. Claims rescue such a job within two '
    'seconds, unless a transaction holds it (see pgq_hold), such as that of a frozen worker.';


CREATE VIEW pgq_stats AS
SELECT j.queue, j.kind, j.waiting, j.ripe, j.running, j.dead, j.cancelled, j.done, j.oldest_ripe_age,
       (SELECT CASE
                   WHEN bool_or(j.kind = ANY (w.kinds)) THEN true
                   WHEN bool_or(w.kinds IS NULL) THEN NULL
                   ELSE false
               END
        FROM pgq_worker_session AS w
        WHERE j.queue = ANY (w.queues)
          AND w.number IN (SELECT p.number FROM _pgq_presence AS p)) AS handled,
       j.blocked
FROM (
    SELECT job.queue, job.kind,
           count(*) FILTER (WHERE job.state = 'waiting') AS waiting,
           count(*) FILTER (WHERE job.state = 'waiting' AND job.ripe_at <= clock.now) AS ripe,
           count(*) FILTER (WHERE job.state = 'running') AS running,
           count(*) FILTER (WHERE job.state = 'dead') AS dead,
           count(*) FILTER (WHERE job.state = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE job.state = 'done') AS done,
           max(clock.now - job.ripe_at) FILTER (WHERE job.state = 'waiting' AND job.ripe_at <= clock.now)
               AS oldest_ripe_age,
           count(*) FILTER (WHERE job.state = 'blocked') AS blocked
    FROM pgq_jobs AS job
    CROSS JOIN (SELECT pgq_now() AS now) AS clock
    GROUP BY job.queue, job.kind
) AS j;

COMMENT ON VIEW pgq_stats IS
    'Numbers of jobs by queue and kind. A query counts all jobs; pgq_overview_kinds does not. A role sees those of '
    'the queues that it may use as admin or reader.';
COMMENT ON COLUMN pgq_stats.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN pgq_stats.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN pgq_stats.waiting IS 'Number of jobs that wait, ripe or not.';
COMMENT ON COLUMN pgq_stats.ripe IS 'Number of waiting jobs that a worker could claim now.';
COMMENT ON COLUMN pgq_stats.running IS 'Number of jobs that a worker has claimed.';
COMMENT ON COLUMN pgq_stats.dead IS 'Number of jobs that failed for good.';
COMMENT ON COLUMN pgq_stats.cancelled IS 'Number of jobs that were given up on purpose.';
COMMENT ON COLUMN pgq_stats.done IS
    'Number of jobs that are done and kept: with a result or a note, or all of a queue that keeps them.';
COMMENT ON COLUMN pgq_stats.oldest_ripe_age IS 'How long the first ripe job has been ripe; NULL: none is.';
COMMENT ON COLUMN pgq_stats.handled IS
    'Whether a present worker that serves the queue has a handler for the kind; NULL: none is known to have one, and '
    'one of them does not tell its kinds.';
COMMENT ON COLUMN pgq_stats.blocked IS 'Number of jobs that wait for other jobs.';
