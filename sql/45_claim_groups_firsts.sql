-- Which jobs a claim takes from many groups: one of each.

CREATE FUNCTION _pgq_lock_firsts(firsts tid[], at timestamptz, OUT rows tid[], OUT bytes bigint, OUT suspects bigint)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_firsts$
BEGIN
    SELECT coalesce(array_agg(locked.ctid), '{}'), coalesce(sum(locked.bytes), 0), count(locked.losses)
    INTO rows, bytes, suspects
    FROM unnest(firsts) AS first (place)
    CROSS JOIN LATERAL (
        SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses
        FROM pgq_waiting AS w
        WHERE w.ctid = first.place
          AND w.ripe_at <= at
        FOR UPDATE SKIP LOCKED
    ) AS locked;
END
$_pgq_lock_firsts$;

COMMENT ON FUNCTION _pgq_lock_firsts(tid[], timestamptz) IS
    'Lock these rows of pgq_waiting, of jobs that are ripe at a time, and skip those that another transaction has '
    'locked. Returns their ctids, in the given order, the size of their args and contexts, and how many are suspects.';


-- One job of each group, where heads are known: of the first lane with one, or of a lane before it. Where neither has a
-- job, none is returned for the group.
CREATE FUNCTION _pgq_first_jobs(queue text, group_ids bigint[], at timestamptz, now timestamptz) RETURNS tid[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET enable_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_first_jobs$
BEGIN
    RETURN ARRAY(
        SELECT first.ctid
        FROM unnest(group_ids) AS g (group_id)
        CROSS JOIN LATERAL (
            -- OFFSET 0 is a fence: the head is taken out of the row once.
            SELECT coalesce((head.lane).priority, 10) AS priority, _pgq_lane_start((head.lane).here_ripe_us) AS ripe_at,
                   coalesce((head.lane).here_id, 0) AS id
            FROM (
                SELECT (
                    SELECT h.lanes[1]
                    FROM pgq_head AS h
                    WHERE h.queue = _pgq_group_head(_pgq_first_jobs.queue, g.group_id)
                      AND h.due < _pgq_first_jobs.now + interval '6 minutes'
                      AND h.due BETWEEN _pgq_first_jobs.now
                                AND _pgq_first_jobs.now + h.rescan_delay + interval '1 second'
                    ORDER BY h.due DESC
                    LIMIT 1
                ) AS lane
                OFFSET 0
            ) AS head
            OFFSET 0
        ) AS known
        CROSS JOIN LATERAL (
            SELECT fresh.ctid
            FROM (
                SELECT w.ctid
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_first_jobs.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id = nullif(g.group_id, 0)
                  AND w.priority < known.priority
                  AND w.ripe_at <= at
                ORDER BY w.priority, w.ripe_at, w.id
            ) AS fresh
            UNION ALL
            SELECT lane.ctid
            FROM (
                SELECT w.ctid
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_first_jobs.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id = nullif(g.group_id, 0)
                  AND w.priority = known.priority
                  AND (w.ripe_at, w.id) > (known.ripe_at, known.id)
                  AND w.ripe_at <= at
                ORDER BY w.ripe_at, w.id
            ) AS lane
            LIMIT 1
        ) AS first
    );
END
$_pgq_first_jobs$;

COMMENT ON FUNCTION _pgq_first_jobs(text, bigint[], timestamptz, timestamptz) IS
    'Return the ctids of the first jobs of these groups of a queue that are ripe at a time, from their heads on, in '
    'the order of the groups; none for a group where that takes more than two look-ups, nor for the jobs without a '
    'group.';
