-- The usual claim of one job: one probe of the index finds the group whose turn it is, and its first job.

CREATE FUNCTION _pgq_lock_next(
    queue text,
    at timestamptz,
    OUT rows tid[],
    OUT bytes bigint,
    OUT suspects bigint,
    OUT locked_at timestamptz,
    OUT place tid,
    OUT is_noted boolean,
    OUT last_group bigint,
    OUT oldest bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_incremental_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_next$
DECLARE
    v_start bigint;
    v_turn bigint;
    v_first tid;
    v_read bigint;
    v_list record;
    v_has_room boolean;
BEGIN
    SELECT turn.ctid, coalesce(turn.group_id, 0),
           EXISTS (
               SELECT
               FROM pgq_waiting AS w
               WHERE w.queue = _pgq_lock_next.queue COLLATE "C"
                 AND w.group_id IS NOT NULL
                 AND w.group_id = _pgq_room())
    INTO place, v_start, v_has_room
    FROM (SELECT) AS usual
    LEFT JOIN LATERAL (
        SELECT t.ctid, t.group_id
        FROM pgq_turn AS t
        WHERE t.queue = _pgq_lock_next.queue
        ORDER BY t.token DESC
        LIMIT 1
    ) AS turn ON true
    WHERE coalesce(current_setting(_pgq_groups_setting(_pgq_lock_next.queue), true), '') = ''
      AND NOT EXISTS (
          SELECT FROM pgq_queue_setting AS s WHERE s.queue = _pgq_lock_next.queue AND _pgq_has_limits(s))
      AND NOT EXISTS (SELECT FROM pgq_paused AS p WHERE p.queue = _pgq_lock_next.queue AND p.group_id <> 0);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF v_has_room THEN
        PERFORM _pgq_leave_room(queue, 51, at);
    END IF;
    v_read := _pgq_tuples_read();
    BEGIN
        -- As in _pgq_reserve_groups.
        IF pg_try_advisory_xact_lock('pgq_turn_0'::regclass::oid::integer, hashtext(queue COLLATE "C")) THEN
            v_turn := _pgq_reserved_turn(queue);
            SELECT w.group_id, w.ctid INTO last_group, v_first
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_lock_next.queue COLLATE "C"
              AND w.group_id IS NOT NULL
              AND w.group_id > coalesce(v_turn, v_start)
              AND w.group_id < _pgq_room()
            ORDER BY w.group_id, w.priority, w.ripe_at, w.id
            LIMIT 1;
            IF FOUND THEN
                PERFORM setval(_pgq_turn_sequence(queue), _pgq_turn_value(queue, last_group));
            END IF;
            RAISE SQLSTATE 'PGQ00';
        END IF;
    EXCEPTION WHEN SQLSTATE 'PGQ00' THEN
        NULL;
    END;
    IF v_first IS NULL THEN
        RETURN;
    END IF;
    SELECT ARRAY[w.ctid], pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0),
           (w.losses IS NOT NULL)::integer, v_turn IS NOT NULL AND place IS NOT NULL
    INTO rows, bytes, suspects, is_noted
    FROM pgq_waiting AS w
    WHERE w.ctid = v_first
      AND w.ripe_at <= at
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        PERFORM _pgq_return_turn(queue, last_group, coalesce(v_turn, v_start));
    ELSIF (_pgq_tuples_read() - v_read > 100) IS NOT FALSE THEN
        v_list := _pgq_look_for_groups(queue, '{}', '{}', NULL, '{}', '{}');
        PERFORM _pgq_keep_groups(queue, v_list.group_ids, v_list.idle, v_list.look_us, v_list.full_look_us);
    END IF;
END
$_pgq_lock_next$;

COMMENT ON FUNCTION _pgq_lock_next(text, timestamptz) IS
    'Do what _pgq_lock_in_turn does for a claim of one job that is ripe at a time, where one look is enough. NULL for '
    'rows: it is not, and the turn is as before. The queue has limits, or had a paused group; the session keeps a list '
    'of its groups; another claim moves the turn at this moment; no group follows; or its first job is locked or not '
    'ripe.';
