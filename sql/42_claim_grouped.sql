-- Jobs that have a group: a claim takes them where it has room after those without one.

-- The groups of a queue are one range of their index. Each step finds the next one, however many jobs it has.
CREATE FUNCTION _pgq_lock_grouped(
    queues text[],
    max_jobs bigint,
    max_bytes bigint,
    at timestamptz,
    may_be_suspect boolean,
    OUT rows tid[],
    OUT bytes bigint,
    OUT failed bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_grouped$
DECLARE
    v_queue text;
    v_group_id bigint;
    v_job record;
BEGIN
    rows := '{}';
    bytes := 0;
    failed := 0;
    FOREACH v_queue IN ARRAY queues LOOP
        CONTINUE WHEN _pgq_marks() & _pgq_mark_of(v_queue) = 0;
        v_group_id := 0;
        LOOP
            SELECT w.group_id INTO v_group_id
            FROM pgq_waiting AS w
            WHERE w.queue = v_queue COLLATE "C"
              AND w.group_id > v_group_id
            ORDER BY w.group_id
            LIMIT 1;
            EXIT WHEN NOT FOUND;
            CONTINUE WHEN EXISTS (
                SELECT
                FROM pgq_paused AS p
                WHERE p.queue = v_queue COLLATE "C" AND p.group_id = v_group_id AND p.until > at);

            FOR v_job IN
                SELECT ripe.ctid, ripe.bytes, ripe.losses, ripe.newest_error
                FROM generate_series(0, 9) AS lane (priority)
                CROSS JOIN LATERAL (
                    SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses,
                           w.newest_error
                    FROM pgq_waiting AS w
                    WHERE w.queue = v_queue COLLATE "C"
                      AND w.group_id = v_group_id
                      AND w.priority = lane.priority
                      AND w.ripe_at <= at
                    ORDER BY w.ripe_at, w.id
                    LIMIT max_jobs - cardinality(_pgq_lock_grouped.rows)
                    FOR UPDATE SKIP LOCKED
                ) AS ripe
                LIMIT max_jobs - cardinality(_pgq_lock_grouped.rows)
            LOOP
                -- A suspect is claimed alone.
                IF v_job.losses IS NOT NULL AND (rows <> '{}' OR NOT may_be_suspect) THEN
                    RETURN;
                END IF;
                rows := rows || v_job.ctid;
                bytes := bytes + v_job.bytes;
                failed := failed + (v_job.newest_error IS NOT NULL)::integer;
                IF v_job.losses IS NOT NULL OR bytes >= max_bytes OR cardinality(rows) = max_jobs THEN
                    RETURN;
                END IF;
            END LOOP;
        END LOOP;
    END LOOP;
END
$_pgq_lock_grouped$;

COMMENT ON FUNCTION _pgq_lock_grouped(text[], bigint, bigint, timestamptz, boolean) IS
    'Lock the rows of up to max_jobs jobs of these queues that have a group and are ripe at a time, and no more once '
    'their args and contexts reach max_bytes. A suspect is taken alone, and only if may_be_suspect. Returns their '
    'ctids, the size of their args and contexts, and how many have errors.';


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
BEGIN
    FOREACH v_queue IN ARRAY queues LOOP
        CONTINUE WHEN _pgq_marks() & _pgq_mark_of(v_queue) = 0;
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
            SELECT least(v_ripe_at, greatest(v_until, min(soonest.ripe_at))) INTO v_ripe_at
            FROM generate_series(0, 9) AS lane (priority)
            CROSS JOIN LATERAL (
                SELECT w.ripe_at
                FROM pgq_waiting AS w
                WHERE w.queue = v_queue COLLATE "C"
                  AND w.group_id = v_group_id
                  AND w.priority = lane.priority
                  AND (kinds IS NULL OR w.kind = ANY (kinds))
                ORDER BY w.ripe_at, w.id
                LIMIT 1
            ) AS soonest;
        END LOOP;
    END LOOP;
    RETURN v_ripe_at;
END
$_pgq_grouped_ripe_at$;

COMMENT ON FUNCTION _pgq_grouped_ripe_at(text[], text[], timestamptz) IS
    'Return when the first waiting job of these queues that has a group, and is of one of these kinds, or any if these '
    'are NULL, is ripe and its group not paused; NULL if there is none, or only such as are paused until they are '
    'resumed.';
