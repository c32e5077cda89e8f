-- What is paused or full. What runs is counted as claims count it: from the oldest token on that ran at the last claim.

CREATE FUNCTION pgq_overview_queues() RETURNS TABLE (
    queue text,
    paused boolean,
    paused_until timestamptz,
    paused_groups bigint,
    running bigint,
    max_running integer,
    at_limit boolean,
    groups_at_limit bigint,
    next_start_at timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET jit = off
AS $pgq_overview_queues$
DECLARE
    c_most CONSTANT integer := 1000;
    v_now timestamptz := pgq_now();
    v_seen text[] := _pgq_seen_queues();
BEGIN
    RETURN QUERY
    SELECT q.queue, p.queue IS NOT NULL, nullif(p.until, 'infinity'), cardinality(g.paused)::bigint, c.running,
           s.max_running, coalesce(c.running >= s.max_running, false),
           (
               SELECT count(*)
               FROM unnest(c.capped, c.free) AS f (group_id, free)
               WHERE f.free = 0 AND f.group_id <> ALL (g.paused)
           ),
           nullif(
               greatest(v_now, _pgq_all_spent(s, 0, v_now) - _pgq_span(coalesce(s.burst, 1) - 1, s.rate, s.per)), v_now)
    FROM (
        SELECT k.queue COLLATE "default" AS queue
        FROM (
            SELECT o.queue FROM pgq_queue_setting AS o WHERE o.queue <> ''
            UNION
            SELECT o.queue FROM pgq_paused AS o WHERE o.until > v_now
        ) AS k
        WHERE v_seen IS NULL OR k.queue = ANY (v_seen)
        ORDER BY k.queue
        LIMIT c_most
    ) AS q
    LEFT JOIN pgq_queue_setting AS s ON s.queue = q.queue COLLATE "C"
    LEFT JOIN pgq_paused AS p ON p.queue = q.queue COLLATE "C" AND p.group_id = 0 AND p.until > v_now
    CROSS JOIN LATERAL (
        SELECT ARRAY(
                   SELECT o.group_id
                   FROM pgq_paused AS o
                   WHERE o.queue = q.queue COLLATE "C" AND o.group_id <> 0 AND o.until > v_now) AS paused
    ) AS g
    LEFT JOIN LATERAL (
        SELECT n.running, n.capped, n.free
        FROM _pgq_caps(q.queue, s, (_pgq_turn(q.queue)).oldest, v_now) AS n
        WHERE num_nonnulls(s.max_running, _pgq_cap(s)) > 0
    ) AS c ON true
    ORDER BY q.queue COLLATE "C";
END
$pgq_overview_queues$;

COMMENT ON FUNCTION pgq_overview_queues() IS
    'Return the queues that have settings or are paused, with what keeps their jobs from starting, like the view '
    'pgq_queues, without counting all jobs. running is the number of running jobs that the limits of the queue count, '
    'and NULL without such a limit. at_limit: as many run as max_running allows. groups_at_limit: the number of groups '
    'that are not paused, and of which as many jobs run as the settings allow; paused_groups: of those that are paused '
    'by themselves. next_start_at: when the rate lets the next job start; NULL: now, or there is no rate. paused_until '
    'is NULL for a pause that has no end. Returns up to 1,000 queues that the calling role may use as admin or reader.';
