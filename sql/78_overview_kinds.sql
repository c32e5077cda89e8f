-- Numbers of jobs by queue and kind, bounded.

CREATE FUNCTION _pgq_tally_running(seen text[]) RETURNS SETOF _pgq_tally
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET jit = off
AS $_pgq_tally_running$
BEGIN
    RETURN QUERY
    SELECT r.queue, r.kind, 'running', count(*), 0::bigint, NULL::timestamptz, false
    FROM _pgq_running AS r
    WHERE seen IS NULL OR r.queue = ANY (seen)
    GROUP BY r.queue, r.kind;
END
$_pgq_tally_running$;

COMMENT ON FUNCTION _pgq_tally_running(text[]) IS
    'Return the numbers of the running jobs of these queues, of all if the argument is NULL, by queue and kind.';


CREATE FUNCTION _pgq_tally_blocked(seen text[]) RETURNS SETOF _pgq_tally
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET jit = off
AS $_pgq_tally_blocked$
DECLARE
    v_percent real := _pgq_sample_percent('pgq_blocked');
BEGIN
    RETURN QUERY
    SELECT b.queue, b.kind, 'blocked', (count(*) * 100 / coalesce(v_percent, 100))::bigint, 0::bigint,
           NULL::timestamptz, v_percent IS NOT NULL
    FROM pgq_blocked AS b TABLESAMPLE SYSTEM (coalesce(v_percent, 100)) REPEATABLE (1)
    WHERE seen IS NULL OR b.queue = ANY (seen)
    GROUP BY b.queue, b.kind;
END
$_pgq_tally_blocked$;

COMMENT ON FUNCTION _pgq_tally_blocked(text[]) IS
    'Return the numbers of the blocked jobs of these queues, of all if the argument is NULL, by queue and kind.';


-- Dead jobs have an index of their own: a sample of millions of jobs that are done could miss all of them.
CREATE FUNCTION _pgq_tally_ended(seen text[]) RETURNS SETOF _pgq_tally
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET jit = off
AS $_pgq_tally_ended$
DECLARE
    c_most CONSTANT bigint := 10001;
    v_percent real := _pgq_sample_percent('pgq_ended');
    v_dead _pgq_tally[];
    v_exact boolean;
BEGIN
    IF v_percent IS NOT NULL THEN
        v_dead := ARRAY(
            SELECT ROW(d.queue, d.kind, 'dead', count(*), 0, NULL, false)::_pgq_tally
            FROM (
                SELECT e.queue, e.kind
                FROM pgq_ended AS e
                WHERE e.outcome = 'dead'
                ORDER BY e.ended_at DESC
                LIMIT c_most
            ) AS d
            WHERE seen IS NULL OR d.queue = ANY (seen)
            GROUP BY d.queue, d.kind
        );
        v_exact := (SELECT coalesce(sum(d.jobs), 0) FROM unnest(v_dead) AS d) < c_most;
    END IF;
    RETURN QUERY
    SELECT t.queue, t.kind, t.state, max(t.jobs), 0::bigint, NULL::timestamptz, bool_or(t.estimated)
    FROM (
        SELECT e.queue, e.kind, e.outcome AS state, (count(*) * 100 / coalesce(v_percent, 100))::bigint AS jobs,
               v_percent IS NOT NULL AS estimated
        FROM pgq_ended AS e TABLESAMPLE SYSTEM (coalesce(v_percent, 100)) REPEATABLE (1)
        WHERE (seen IS NULL OR e.queue = ANY (seen))
          AND (v_exact IS NOT TRUE OR e.outcome <> 'dead')
        GROUP BY e.queue, e.kind, e.outcome
        UNION ALL
        SELECT d.queue, d.kind, d.state, d.jobs, NOT v_exact FROM unnest(v_dead) AS d
    ) AS t
    GROUP BY t.queue, t.kind, t.state;
END
$_pgq_tally_ended$;

COMMENT ON FUNCTION _pgq_tally_ended(text[]) IS
    'Return the numbers of the ended jobs of these queues, of all if the argument is NULL, by queue, kind and state.';


CREATE FUNCTION pgq_overview_kinds() RETURNS TABLE (
    queue text,
    kind text,
    waiting bigint,
    ripe bigint,
    blocked bigint,
    running bigint,
    dead bigint,
    cancelled bigint,
    done bigint,
    oldest_ripe_age interval,
    handled boolean,
    estimated boolean
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET jit = off
AS $pgq_overview_kinds$
DECLARE
    v_now timestamptz := pgq_now();
    v_seen text[] := _pgq_seen_queues();
BEGIN
    RETURN QUERY
    WITH present AS MATERIALIZED (
        SELECT w.queues, w.kinds
        FROM pgq_worker_session AS w
        WHERE w.number IN (SELECT p.number FROM _pgq_presence AS p)
    )
    SELECT n.queue, n.kind, n.waiting, n.ripe, n.blocked, n.running, n.dead, n.cancelled, n.done, v_now - n.oldest,
           (
               SELECT CASE
                          WHEN bool_or(n.kind = ANY (p.kinds)) THEN true
                          WHEN bool_or(p.kinds IS NULL) THEN NULL
                          ELSE false
                      END
               FROM present AS p
               WHERE n.queue = ANY (p.queues)
           ),
           n.estimated
    FROM (
        SELECT t.queue, t.kind,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'waiting'), 0)::bigint AS waiting,
               sum(t.ripe)::bigint AS ripe,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'blocked'), 0)::bigint AS blocked,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'running'), 0)::bigint AS running,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'dead'), 0)::bigint AS dead,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'cancelled'), 0)::bigint AS cancelled,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'done'), 0)::bigint AS done,
               min(t.oldest) AS oldest, bool_or(t.estimated) AS estimated
        FROM (
            SELECT w.* FROM _pgq_tally_waiting(v_seen, v_now) AS w
            UNION ALL
            SELECT r.* FROM _pgq_tally_running(v_seen) AS r
            UNION ALL
            SELECT b.* FROM _pgq_tally_blocked(v_seen) AS b
            UNION ALL
            SELECT e.* FROM _pgq_tally_ended(v_seen) AS e
        ) AS t
        GROUP BY t.queue, t.kind
    ) AS n
    ORDER BY n.queue COLLATE "C", n.kind COLLATE "C";
END
$pgq_overview_kinds$;

COMMENT ON FUNCTION pgq_overview_kinds() IS
    'Return the numbers of jobs by queue and kind like the view pgq_stats, for displays that read them every few '
    'seconds: the time that a call takes does not grow with the number of jobs that wait or have ended. While a '
    'snapshot is held, it also reads the rows of the jobs that have run since, a million of them in about a tenth of '
    'a second. A table of up to 1,000 pages is counted as a whole; otherwise up to 10,000 waiting jobs of each queue, '
    'and 10,000 dead ones, are counted. What there is beyond is estimated from a sample, which may miss kinds with '
    'few jobs, and estimated is true in the rows that have such a number. oldest_ripe_age is how long the first ripe '
    'job has been ripe, and NULL if none is; in a row with estimates it is that of the jobs that were read. handled '
    'is NULL if no present worker is known to have a handler for the kind and one of them does not tell its kinds. '
    'Returns the queues that the calling role may use as admin or reader.';
