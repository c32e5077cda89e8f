-- When the next job of a queue with groups or limits may be claimed.

CREATE FUNCTION _pgq_group_ripe_at(queue text, group_id bigint, kinds text[], is_ordered boolean) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_group_ripe_at$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    IF is_ordered THEN
        RETURN (
            SELECT w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_group_ripe_at.queue COLLATE "C"
              AND w.group_id IS NOT NULL
              AND w.group_id = _pgq_group_ripe_at.group_id
            ORDER BY w.id
            LIMIT 1
        );
    ELSIF group_id = 0 THEN
        RETURN (
            SELECT min(lane.ripe_at)
            FROM generate_series(0, 9) AS p (priority)
            CROSS JOIN LATERAL (
                SELECT w.ripe_at
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_group_ripe_at.queue COLLATE "C"
                  AND w.group_id IS NULL
                  AND w.priority = p.priority
                  AND (kinds IS NULL OR w.kind = ANY (kinds))
                ORDER BY w.ripe_at, w.id
                LIMIT 1
            ) AS lane
        );
    END IF;
    -- From the heads on: from its start a lane may have the entries of many jobs that are gone.
    RETURN (
        SELECT min(lane.ripe_at)
        FROM (
            SELECT (
                SELECT h.lanes
                FROM pgq_head AS h
                WHERE h.queue = _pgq_group_head(_pgq_group_ripe_at.queue, _pgq_group_ripe_at.group_id)
                  AND h.due < v_now + interval '6 minutes'
                  AND h.due BETWEEN v_now AND v_now + h.rescan_delay + interval '1 second'
                ORDER BY h.due DESC
                LIMIT 1
            ) AS heads
            OFFSET 0
        ) AS known
        CROSS JOIN generate_series(0, 9) AS p (priority)
        LEFT JOIN LATERAL (
            SELECT h.here_ripe_us, h.here_id
            FROM unnest(known.heads) AS h
            WHERE h.priority = p.priority
        ) AS head ON true
        CROSS JOIN LATERAL (
            SELECT w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_group_ripe_at.queue COLLATE "C"
              AND w.group_id IS NOT NULL
              AND w.group_id = _pgq_group_ripe_at.group_id
              AND w.priority = p.priority
              AND (w.ripe_at, w.id) > (_pgq_lane_start(head.here_ripe_us), coalesce(head.here_id, 0))
              AND (kinds IS NULL OR w.kind = ANY (kinds))
            ORDER BY w.ripe_at, w.id
            LIMIT 1
        ) AS lane
    );
END
$_pgq_group_ripe_at$;

COMMENT ON FUNCTION _pgq_group_ripe_at(text, bigint, text[], boolean) IS
    'Return when the first job of a group of a queue, and of one of these kinds, or any if these are NULL, is or was '
    'ripe; the first one enqueued, of any kind, if the queue is ordered; NULL if none waits. Group 0 stands for the '
    'jobs without a group.';


CREATE FUNCTION _pgq_grouped_ripe_at(queues text[], kinds text[], at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_grouped_ripe_at$
DECLARE
    v_queue text;
    v_list record;
    v_groups bigint[];
    v_group_id bigint;
    v_ripe_at timestamptz;
    v_until timestamptz;
    v_is_ordered boolean;
BEGIN
    FOREACH v_queue IN ARRAY queues LOOP
        CONTINUE WHEN _pgq_marks() & _pgq_mark_of(v_queue) = 0;
        v_is_ordered := _pgq_is_ordered(v_queue);
        -- The way from group to group passes all entries of jobs that are gone, so it leaves out the groups that the
        -- session knows.
        v_list := _pgq_known_groups(v_queue, clock_timestamp());
        v_groups := array_remove(v_list.group_ids, 0) || v_list.idle;
        v_groups := v_groups || _pgq_groups_between(v_queue, v_groups, NULL) || _pgq_room();
        FOREACH v_group_id IN ARRAY v_groups LOOP
            v_until := (
                SELECT p.until
                FROM pgq_paused AS p
                WHERE p.queue = v_queue COLLATE "C" AND p.group_id = v_group_id AND p.until > at);
            CONTINUE WHEN v_until = 'infinity';
            v_ripe_at := least(
                v_ripe_at, greatest(v_until, _pgq_group_ripe_at(v_queue, v_group_id, kinds, v_is_ordered)));
            IF v_ripe_at <= at THEN
                RETURN v_ripe_at;
            END IF;
        END LOOP;
    END LOOP;
    RETURN v_ripe_at;
END
$_pgq_grouped_ripe_at$;

COMMENT ON FUNCTION _pgq_grouped_ripe_at(text[], text[], timestamptz) IS
    'Return when the first waiting job of these queues that has a group, and is of one of these kinds, or any if these '
    'are NULL, is ripe and its group not paused; NULL if there is none, or only such as are paused until they are '
    'resumed.';
