-- How jobs leave the waiting room.

CREATE FUNCTION _pgq_has_waiting(queue text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_has_waiting$
BEGIN
    RETURN EXISTS (
            SELECT FROM pgq_waiting AS w WHERE w.queue = _pgq_has_waiting.queue COLLATE "C" AND w.group_id IS NULL)
        OR EXISTS (
            SELECT
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_has_waiting.queue COLLATE "C"
              AND w.group_id IS NOT NULL
              AND w.group_id < _pgq_room());
END
$_pgq_has_waiting$;

COMMENT ON FUNCTION _pgq_has_waiting(text) IS
    'Return whether jobs wait in a queue, not counting those in its waiting room.';


CREATE FUNCTION _pgq_leave_room(queue text, max_jobs bigint, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_leave_room$
DECLARE
    v_rows tid[];
BEGIN
    -- Most queues have an empty room: one look tells.
    IF NOT EXISTS (
        SELECT
        FROM pgq_waiting AS w
        WHERE w.queue = _pgq_leave_room.queue COLLATE "C"
          AND w.group_id IS NOT NULL
          AND w.group_id = _pgq_room()
    ) THEN
        RETURN;
    END IF;
    v_rows := ARRAY(
        SELECT ripe.ctid
        FROM generate_series(0, 9) AS lane (priority)
        CROSS JOIN LATERAL (
            SELECT w.ctid
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_leave_room.queue COLLATE "C"
              AND w.group_id IS NOT NULL
              AND w.group_id = _pgq_room()
              AND w.priority = lane.priority
              AND w.ripe_at <= at
            ORDER BY w.ripe_at, w.id
            LIMIT max_jobs
            FOR UPDATE SKIP LOCKED
        ) AS ripe
        LIMIT max_jobs
    );
    IF v_rows <> '{}' THEN
        UPDATE pgq_waiting AS w SET group_id = _pgq_group_id(w.group_key) WHERE w.ctid = ANY (v_rows);
    END IF;
END
$_pgq_leave_room$;

COMMENT ON FUNCTION _pgq_leave_room(text, bigint, timestamptz) IS
    'Move up to max_jobs jobs of the waiting room of a queue that are ripe at a time to their groups. Returns nothing.';
