-- Which groups of a queue a claim visits, from group to group.

-- One probe of the index for each group, however many jobs it has. A lap goes from the group after "start" to the last
-- one, and then from the first one to "start".
CREATE FUNCTION _pgq_groups_in_turn(
    queue text,
    setting pgq_queue_setting,
    start bigint,
    seen bigint,
    max_groups bigint,
    max_steps bigint,
    max_jobs bigint,
    capped bigint[],
    free bigint[],
    at timestamptz,
    OUT group_ids bigint[],
    OUT priorities smallint[],
    OUT rooms bigint[],
    OUT firsts tid[],
    OUT last_seen bigint,
    OUT steps bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_incremental_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_groups_in_turn$
DECLARE
    c_last CONSTANT bigint := 9223372036854775807;
    v_cap bigint := _pgq_cap(setting);
    v_after bigint := coalesce(seen, start);
    v_up_to bigint := CASE WHEN seen <= start THEN start ELSE c_last END;
    v_found record;
    v_first record;
BEGIN
    group_ids := '{}';
    priorities := '{}';
    rooms := '{}';
    firsts := '{}';
    last_seen := seen;
    steps := 0;
    -- The usual claim of one job needs one probe.
    IF max_groups = 1 THEN
        SELECT w.group_id, w.priority, w.ctid, 0::bigint AS room INTO v_first
        FROM pgq_waiting AS w
        WHERE w.queue = _pgq_groups_in_turn.queue COLLATE "C"
          AND w.group_id IS NOT NULL
          AND w.group_id > v_after
          AND w.group_id <= v_up_to
          AND w.group_id < _pgq_room()
        ORDER BY w.group_id, w.priority, w.ripe_at, w.id
        LIMIT 1;
        v_first.room := _pgq_room_of(v_first.group_id, setting, max_jobs, v_cap, capped, free, at);
        IF v_first.group_id IS NOT NULL AND v_first.room > 0 THEN
            group_ids := ARRAY[v_first.group_id];
            priorities := ARRAY[v_first.priority];
            rooms := ARRAY[v_first.room];
            firsts := ARRAY[v_first.ctid];
            last_seen := v_first.group_id;
            steps := 1;
            RETURN;
        END IF;
    END IF;
    LOOP
        WITH RECURSIVE step (group_id, priority, place, room, n, found) AS (
            SELECT v_after, NULL::smallint, NULL::tid, 0::bigint, 0, 0
            UNION ALL
            SELECT next.group_id, next.priority, next.ctid, has.room, step.n + 1, step.found + (has.room > 0)::integer
            FROM step
            CROSS JOIN LATERAL (
                SELECT w.group_id, w.priority, w.ctid
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_groups_in_turn.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id > step.group_id
                  AND w.group_id <= v_up_to
                  AND w.group_id < _pgq_room()
                ORDER BY w.group_id, w.priority, w.ripe_at, w.id
                LIMIT 1
            ) AS next
            CROSS JOIN LATERAL (
                -- OFFSET 0 keeps the expression from being evaluated for each of its uses.
                SELECT _pgq_room_of(next.group_id, setting, max_jobs, v_cap, capped, free, at) AS room OFFSET 0
            ) AS has
            WHERE step.n < max_steps - steps AND step.found < max_groups - cardinality(group_ids)
        )
        SELECT array_agg(s.group_id) FILTER (WHERE s.room > 0) AS group_ids,
               array_agg(s.priority) FILTER (WHERE s.room > 0) AS priorities,
               array_agg(s.room) FILTER (WHERE s.room > 0) AS rooms,
               array_agg(s.place) FILTER (WHERE s.room > 0) AS firsts,
               max(s.group_id) FILTER (WHERE s.n > 0) AS last_seen,
               max(s.n) AS steps
        INTO v_found
        FROM step AS s;
        group_ids := group_ids || coalesce(v_found.group_ids, '{}');
        priorities := priorities || coalesce(v_found.priorities, '{}');
        rooms := rooms || coalesce(v_found.rooms, '{}');
        firsts := firsts || coalesce(v_found.firsts, '{}');
        last_seen := coalesce(v_found.last_seen, last_seen);
        steps := steps + v_found.steps;
        IF steps >= max_steps OR cardinality(group_ids) >= max_groups THEN
            RETURN;
        END IF;
        IF v_up_to = start THEN
            last_seen := NULL;
            RETURN;
        END IF;
        v_after := 0;
        v_up_to := start;
        SELECT w.priority, w.ctid INTO v_first
        FROM pgq_waiting AS w
        WHERE w.queue = _pgq_groups_in_turn.queue COLLATE "C"
          AND w.group_id IS NULL
        ORDER BY w.priority, w.ripe_at, w.id
        LIMIT 1;
        IF FOUND THEN
            group_ids := group_ids || 0::bigint;
            priorities := priorities || v_first.priority;
            firsts := firsts || v_first.ctid;
            rooms := rooms || max_jobs;
            last_seen := 0;
            steps := steps + 1;
        END IF;
    END LOOP;
END
$_pgq_groups_in_turn$;

COMMENT ON FUNCTION _pgq_groups_in_turn(
    text, pgq_queue_setting, bigint, bigint, bigint, bigint, bigint, bigint[], bigint[], timestamptz
) IS
    'Return up to max_groups groups of a queue in which jobs wait, ripe or not, in a lap that begins after the group '
    '"start", from after "seen" on; the lowest priority number in each; how many jobs may be taken from it (see '
    '_pgq_room_of); and the ctid of its first job. Groups from which none may be taken are left out. Returns the last '
    'group that it has seen, or NULL if the lap is complete, and how many it has seen, which are max_steps at most.';
