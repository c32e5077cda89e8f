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
    RETURN (
        SELECT min(lane.ripe_at)
        FROM generate_series(0, 9) AS p (priority)
        CROSS JOIN LATERAL (
            SELECT w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_group_ripe_at.queue COLLATE "C"
              AND w.group_id IS NOT NULL
              AND w.group_id = _pgq_group_ripe_at.group_id
              AND w.priority = p.priority
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
    v_group_id bigint;
    v_ripe_at timestamptz;
    v_until timestamptz;
    v_is_ordered boolean;
BEGIN
    FOREACH v_queue IN ARRAY queues LOOP
        CONTINUE WHEN _pgq_marks() & _pgq_mark_of(v_queue) = 0;
        v_is_ordered := _pgq_is_ordered(v_queue);
        v_group_id := 0;
        LOOP
            SELECT w.group_id INTO v_group_id
            FROM pgq_waiting AS w
            WHERE w.queue = v_queue COLLATE "C"
              AND w.group_id > v_group_id
            ORDER BY w.group_id
            LIMIT 1;
            EXIT WHEN NOT FOUND;

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
