-- What is left to do, for a worker that stops when there is nothing.

CREATE FUNCTION pgq_remaining(
    queues text[] DEFAULT '{default}',
    kinds text[] DEFAULT NULL,
    OUT ripe_in interval,
    OUT running boolean
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_remaining$
DECLARE
    v_now timestamptz := pgq_now();
BEGIN
    PERFORM _pgq_check_claim(queues, 0, NULL);

    -- From the start of each lane: jobs that claims have not found yet count, too.
    SELECT min(nullif(greatest(soonest.ripe_at, p.until), 'infinity')) - v_now
    INTO ripe_in
    FROM unnest(queues) AS q (queue)
    LEFT JOIN pgq_paused AS p ON p.queue = q.queue COLLATE "C" AND p.group_id = 0 AND p.until > v_now
    CROSS JOIN LATERAL (
        SELECT least(_pgq_grouped_ripe_at(ARRAY[q.queue], kinds, v_now), min(first.ripe_at)) AS ripe_at
        FROM generate_series(0, 9) AS lane (priority)
        CROSS JOIN LATERAL (
            SELECT w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = q.queue COLLATE "C"
              AND w.group_id IS NULL
              AND w.priority = lane.priority
              AND (kinds IS NULL OR w.kind = ANY (kinds))
            ORDER BY w.ripe_at, w.id
            LIMIT 1
        ) AS first
    ) AS soonest
    WHERE soonest.ripe_at IS NOT NULL;
    -- Maintenance may be about to unblock jobs of these queues.
    running := EXISTS (SELECT FROM _pgq_running AS r WHERE r.queue = ANY (queues))
        OR _pgq_has_needs() AND EXISTS (SELECT FROM pgq_need_ended);
END
$pgq_remaining$;

COMMENT ON FUNCTION pgq_remaining(text[], text[]) IS
    'Look for jobs that wait or run in these queues. Returns ripe_in, the time until the next waiting job is ripe (0 '
    'or less: one is ripe; NULL: none waits, or only in queues that are paused until they are resumed), and running, '
    'whether jobs are running, or maintenance is still to unblock or cancel some that are blocked. It reads each queue '
    'from its start, so it may take longer than a claim. With kinds, waiting jobs of other kinds do not count; NULL '
    'for kinds means all. NULL for queues or one of them raises 22004. Raises 22023 for an empty array, 42501 for a '
    'queue that the calling role may not use.';
