-- What is left to do, for a worker that wants to end when there is nothing.

CREATE FUNCTION pgq_remaining(queues text[] DEFAULT '{default}', OUT ripe_in interval, OUT running boolean)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_remaining$
BEGIN
    PERFORM _pgq_check_claim(queues, 0, NULL);

    -- From the left end of each lane: what a claim has not found yet counts, too.
    SELECT min(soonest.ripe_at) - pgq_now() INTO ripe_in
    FROM unnest(queues) AS q (queue)
    CROSS JOIN generate_series(0, 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT w.ripe_at
        FROM pgq_waiting AS w
        WHERE w.queue = q.queue
          AND w.priority = p.priority
        ORDER BY w.ripe_at, w.id
        LIMIT 1
    ) AS soonest;
    running := EXISTS (SELECT FROM pgq_running AS r WHERE r.queue = ANY (queues));
END
$pgq_remaining$;

COMMENT ON FUNCTION pgq_remaining(text[]) IS
    'Whether there is work left in these queues: how long until the next waiting job is ripe (0 or less: one is, NULL: '
    'none waits), and whether jobs are running. It looks at all there is, so it may take longer than a claim. NULL is '
    'refused (22004), bad values raise 22023, a queue that your role may not use 42501.';
