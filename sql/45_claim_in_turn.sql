-- How a claim takes from a queue that has groups or limits.

CREATE FUNCTION _pgq_lock_in_turn(
    queue text,
    max_jobs bigint,
    at timestamptz,
    waits boolean,
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
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_in_turn$
DECLARE
    v_setting pgq_queue_setting;
    v_turn record;
    v_caps record;
    v_list record;
    v_groups record;
    v_locked record;
    v_start bigint;
    v_room bigint := max_jobs;
    v_chunk bigint;
    v_seen bigint;
    v_first bigint;
    v_steps bigint := 0;
    v_read bigint;
    v_idle bigint[] := '{}';
    v_is_cut boolean := false;
    v_visited bigint[] := '{}';
    v_priorities smallint[] := '{}';
    v_rooms bigint[] := '{}';
    v_is_long boolean := false;
    v_has_looked boolean := false;
    v_may_look boolean;
    v_has_groups boolean := false;
    v_is_shared boolean := false;
BEGIN
    rows := '{}';
    bytes := 0;
    suspects := 0;
    is_noted := false;
    SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = _pgq_lock_in_turn.queue;
    -- In an ordered queue no job is to be left there; a row was locked when the queue became ordered.
    PERFORM _pgq_leave_room(queue, max_jobs + 50, CASE WHEN v_setting.ordered THEN 'infinity' ELSE at END);
    v_list := _pgq_known_groups(queue, clock_timestamp());
    IF _pgq_has_limits(v_setting) THEN
        -- To lock is to write: a claim from an empty queue writes nothing.
        IF v_list.look_us IS NULL AND NOT _pgq_has_waiting(queue) THEN
            last_group := 0;
            RETURN;
        END IF;
        v_setting := _pgq_lock_queue(queue, waits);
        IF v_setting.queue IS NULL THEN
            last_group := 0;
            RETURN;
        END IF;
        -- Under the lock, as the token is drawn: what this claim writes is later than what those before it have
        -- written.
        locked_at := pgq_now();
        at := locked_at;
    END IF;
    v_turn := _pgq_turn(queue);
    place := v_turn.place;
    v_start := coalesce(v_turn.group_id, 0);
    v_caps := _pgq_caps(queue, v_setting, v_turn.oldest, at);
    oldest := v_caps.oldest;
    IF locked_at IS NOT NULL THEN
        v_room := least(v_room, v_setting.max_running - v_caps.running);
        IF v_setting.rate IS NOT NULL THEN
            v_room := least(v_room, _pgq_may_start(_pgq_all_spent(v_setting, 0, at), v_setting.rate, v_setting, at));
        END IF;
    END IF;

    v_may_look := coalesce(v_list.look_us <= _pgq_microseconds(clock_timestamp()), true);
    IF v_room > 0 AND v_list.group_ids IS NOT NULL AND v_may_look THEN
        v_list := _pgq_look_for_groups(
            queue, v_list.group_ids, v_list.idle, v_list.full_look_us, v_caps.capped, v_caps.free);
        v_has_looked := true;
    END IF;
    v_chunk := v_room;
    WHILE v_room > 0 LOOP
        v_read := _pgq_tuples_read();
        IF locked_at IS NOT NULL THEN
            v_groups := _pgq_find_groups(
                queue, v_setting, v_list.group_ids, v_start, v_seen, v_chunk, 1000 - v_steps, v_room, v_caps.capped,
                v_caps.free, at);
        ELSE
            v_groups := _pgq_reserve_groups(
                queue, v_setting, v_list.group_ids, v_start, v_seen, v_chunk, 1000 - v_steps, v_room, v_caps.capped,
                v_caps.free, at);
            v_start := v_groups.start;
            v_is_shared := v_groups.was_shared;
        END IF;
        v_seen := v_groups.last_seen;
        v_steps := v_steps + v_groups.steps;
        v_first := coalesce(v_first, v_groups.group_ids[1]);
        v_has_groups := v_has_groups OR v_seen IS NOT NULL OR v_groups.steps > 1 OR NOT v_groups.group_ids <@ '{0}';
        v_is_long := v_is_long OR v_groups.steps > cardinality(v_groups.group_ids) + 100
            OR coalesce(
                _pgq_tuples_read() - v_read > greatest(v_groups.steps + 100, 8 * v_groups.steps - 200), true);
        IF v_groups.group_ids <> '{}' AND v_setting.ordered THEN
            v_locked := _pgq_lock_heads(
                queue, v_groups.group_ids, v_room, at, coalesce(v_setting.on_dead = 'stop', false));
            rows := rows || v_locked.rows;
            bytes := bytes + v_locked.bytes;
            suspects := suspects + v_locked.suspects;
            v_room := v_room - cardinality(v_locked.rows);
            v_seen := CASE WHEN v_room = 0 THEN v_locked.last_group ELSE v_seen END;
            -- Jobs without a group have no order.
            v_groups.rooms := ARRAY[v_room];
            v_groups.priorities := ARRAY[v_groups.priorities[array_position(v_groups.group_ids, 0)]];
            v_groups.group_ids := CASE WHEN 0 = ANY (v_groups.group_ids) THEN '{0}'::bigint[] ELSE '{}' END;
        END IF;
        IF v_groups.group_ids <> '{}' AND v_room > 0 THEN
            v_locked := _pgq_lock_shares(
                queue, v_groups.group_ids, v_groups.priorities, v_groups.rooms, v_groups.firsts, v_room, at,
                coalesce(cardinality(v_list.group_ids) + 1, 0), locked_at IS NOT NULL, v_seen IS NULL);
            rows := rows || v_locked.rows;
            bytes := bytes + v_locked.bytes;
            suspects := suspects + v_locked.suspects;
            v_room := v_room - cardinality(v_locked.rows);
            v_seen := coalesce(v_locked.last_group, v_seen);
            IF locked_at IS NULL AND v_locked.last_group IS NOT NULL THEN
                PERFORM _pgq_return_turn(queue, v_groups.reserved, v_locked.last_group);
            END IF;
            v_idle := v_idle || v_locked.idle;
            v_is_long := v_is_long OR v_locked.is_long;
            v_is_cut := v_is_cut OR v_seen IS NOT NULL;
            v_visited := v_visited || v_groups.group_ids;
            v_priorities := v_priorities || v_groups.priorities;
            v_rooms := v_rooms || v_groups.rooms;
        END IF;
        -- The next groups may have no job to take either.
        v_chunk := greatest(v_room, 64);
        CONTINUE WHEN v_seen IS NOT NULL AND v_steps < 1000;

        -- The end of a lap, or of what one claim does of it.
        EXIT WHEN rows <> '{}' OR v_has_looked OR (v_list.group_ids IS NULL AND NOT (v_is_long AND v_may_look));
        v_list := _pgq_look_for_groups(
            queue, CASE WHEN v_setting.ordered THEN '{}' ELSE coalesce(v_list.group_ids, '{}') END, v_list.idle,
            v_list.full_look_us, v_caps.capped, v_caps.free);
        v_has_looked := true;
        EXIT WHEN v_list.group_ids IS NULL;
        v_seen := NULL;
        v_steps := 0;
    END LOOP;
    -- The groups that came first have had no more than a share, because others were to follow.
    IF v_room > 0 AND v_seen IS NULL AND v_is_cut AND rows <> '{}' AND v_setting.ordered IS NOT TRUE THEN
        SELECT array_agg(g.group_id) AS group_ids, array_agg(g.priority) AS priorities, array_agg(g.room) AS rooms
        INTO v_groups
        FROM unnest(v_visited, v_priorities, v_rooms) AS g (group_id, priority, room)
        WHERE g.group_id NOT IN (SELECT unnest(v_idle));
        v_locked := _pgq_lock_shares(
            queue, v_groups.group_ids, v_groups.priorities, v_groups.rooms, '{}', cardinality(rows) + v_room, at,
            coalesce(cardinality(v_list.group_ids) + 1, 0), locked_at IS NOT NULL, true);
        rows := v_locked.rows;
        bytes := v_locked.bytes;
        suspects := v_locked.suspects;
    END IF;
    IF v_is_long AND v_may_look AND v_list.group_ids IS NULL AND NOT v_has_looked THEN
        v_list := _pgq_look_for_groups(queue, '{}', '{}', NULL, v_caps.capped, v_caps.free);
        v_has_looked := true;
    END IF;
    IF v_has_looked OR (v_list.group_ids IS NOT NULL AND v_idle <> '{}' AND v_setting.ordered IS NOT TRUE) THEN
        PERFORM _pgq_keep_groups(
            queue,
            CASE WHEN v_list.group_ids IS NOT NULL THEN
                ARRAY(SELECT unnest(v_list.group_ids) EXCEPT SELECT unnest(v_idle) ORDER BY 1)
            END,
            ARRAY(SELECT unnest(array_remove(v_idle, 0)) UNION SELECT unnest(v_list.idle)),
            v_list.look_us, v_list.full_look_us);
    END IF;
    -- After a whole lap the next one begins a group later. After one that has met no group the queue is as others.
    IF locked_at IS NOT NULL OR v_list.look_us IS NOT NULL OR v_has_groups THEN
        last_group := coalesce(v_seen, v_first, v_start);
        is_noted := locked_at IS NULL AND v_is_shared AND place IS NOT NULL;
    END IF;
END
$_pgq_lock_in_turn$;

COMMENT ON FUNCTION _pgq_lock_in_turn(text, bigint, timestamptz, boolean) IS
    'Lock the rows of up to max_jobs jobs of a queue that are ripe at a time, from its groups in turn, and no more '
    'than its limits allow. Returns their ctids; the size of their args and contexts; how many are suspects; if the '
    'queue has limits, when it was locked; and for _pgq_end_turn, where its turn was noted, whether that does, the '
    'group that is served last, NULL if the queue has none, and the oldest token that counts. A queue with limits is '
    'taken by one transaction at a time: while another keeps it, no job is locked, and with waits this is tried for 40 '
    'milliseconds.';
