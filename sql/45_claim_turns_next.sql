-- The usual claim from many groups: one probe of the index for each job finds the next group, and its first job.

CREATE FUNCTION _pgq_lock_next(
    queue text,
    max_jobs bigint,
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
    v_firsts tid[];
    v_locked record;
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
        PERFORM _pgq_leave_room(queue, max_jobs + 50, at);
    END IF;
    v_read := _pgq_tuples_read();
    BEGIN
        -- As in _pgq_reserve_groups.
        IF pg_try_advisory_xact_lock('pgq_turn_0'::regclass::oid::integer, hashtext(queue COLLATE "C")) THEN
            v_turn := _pgq_reserved_turn(queue);
            IF max_jobs = 1 THEN
                SELECT w.group_id, ARRAY[w.ctid] INTO last_group, v_firsts
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_lock_next.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id > coalesce(v_turn, v_start)
                  AND w.group_id < _pgq_room()
                ORDER BY w.group_id, w.priority, w.ripe_at, w.id
                LIMIT 1;
            ELSE
                WITH RECURSIVE step (group_id, place, n) AS (
                    SELECT coalesce(v_turn, v_start), NULL::tid, 0
                    UNION ALL
                    SELECT next.group_id, next.ctid, step.n + 1
                    FROM step
                    CROSS JOIN LATERAL (
                        SELECT w.group_id, w.ctid
                        FROM pgq_waiting AS w
                        WHERE w.queue = _pgq_lock_next.queue COLLATE "C"
                          AND w.group_id IS NOT NULL
                          AND w.group_id > step.group_id
                          AND w.group_id < _pgq_room()
                        ORDER BY w.group_id, w.priority, w.ripe_at, w.id
                        LIMIT 1
                    ) AS next
                    WHERE step.n < max_jobs
                )
                SELECT max(s.group_id), array_agg(s.place) INTO last_group, v_firsts FROM step AS s WHERE s.n > 0;
            END IF;
            IF cardinality(v_firsts) = max_jobs THEN
                PERFORM setval(_pgq_turn_sequence(queue), _pgq_turn_value(queue, last_group));
            END IF;
            RAISE SQLSTATE 'PGQ00';
        END IF;
    EXCEPTION WHEN SQLSTATE 'PGQ00' THEN
        NULL;
    END;
    IF (cardinality(v_firsts) = max_jobs) IS NOT TRUE THEN
        RETURN;
    END IF;
    IF max_jobs = 1 THEN
        SELECT ARRAY[w.ctid], pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0),
               (w.losses IS NOT NULL)::integer
        INTO rows, bytes, suspects
        FROM pgq_waiting AS w
        WHERE w.ctid = v_firsts[1]
          AND w.ripe_at <= at
        FOR UPDATE SKIP LOCKED;
    ELSE
        v_locked := _pgq_lock_firsts(v_firsts, at);
        rows := v_locked.rows;
        bytes := v_locked.bytes;
        suspects := v_locked.suspects;
    END IF;
    IF (cardinality(rows) = max_jobs) IS NOT TRUE THEN
        rows := NULL;
        PERFORM _pgq_return_turn(queue, last_group, coalesce(v_turn, v_start));
        RETURN;
    END IF;
    is_noted := v_turn IS NOT NULL AND place IS NOT NULL;
    IF (_pgq_tuples_read() - v_read > 100 + 5 * max_jobs) IS NOT FALSE THEN
        v_list := _pgq_look_for_groups(queue, '{}', '{}', NULL, '{}', '{}');
        PERFORM _pgq_keep_groups(queue, v_list.group_ids, v_list.idle, v_list.look_us, v_list.full_look_us);
    END IF;
END
$_pgq_lock_next$;

COMMENT ON FUNCTION _pgq_lock_next(text, bigint, timestamptz) IS
    'Do what _pgq_lock_in_turn does for a claim of max_jobs jobs that are ripe at a time, where one look at each of as '
    'many groups is enough. NULL for rows: it is not, and the turn is as before. The queue has limits, or had a paused '
    'group; the session keeps a list of its groups; another claim moves the turn at this moment; fewer groups follow; '
    'or the first job of one of them is locked or not ripe.';
