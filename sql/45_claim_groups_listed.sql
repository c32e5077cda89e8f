-- Which groups of the list of a session a claim visits.

CREATE FUNCTION _pgq_groups_of_list(
    list bigint[],
    setting pgq_queue_setting,
    start bigint,
    seen bigint,
    max_groups bigint,
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
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_groups_of_list$
DECLARE
    v_cap bigint := _pgq_cap(setting);
    v_from integer := width_bucket(coalesce(seen, start), list) + 1;
    v_up_to integer := width_bucket(start, list);
    v_groups bigint[];
BEGIN
    v_groups := CASE
        WHEN seen <= start THEN list[v_from:v_up_to]
        ELSE list[v_from:] || list[:v_up_to]
    END;
    -- In the select list, unnest() is evaluated group by group, until there are enough.
    SELECT coalesce(array_agg(found.group_id), '{}'), array_agg(0::smallint), array_agg(found.room), '{}', 0
    INTO group_ids, priorities, rooms, firsts, steps
    FROM (
        SELECT g.group_id, has.room
        FROM (SELECT unnest(v_groups) AS group_id) AS g
        CROSS JOIN LATERAL (
            SELECT _pgq_room_of(g.group_id, setting, max_jobs, v_cap, capped, free, at) AS room OFFSET 0
        ) AS has
        WHERE has.room > 0
        LIMIT max_groups
    ) AS found;
    IF cardinality(group_ids) = max_groups THEN
        last_seen := group_ids[max_groups];
    END IF;
END
$_pgq_groups_of_list$;

COMMENT ON FUNCTION _pgq_groups_of_list(
    bigint[], pgq_queue_setting, bigint, bigint, bigint, bigint, bigint[], bigint[], timestamptz
) IS
    'Return what _pgq_groups_in_turn does, of the groups in a list, with the highest priority for each, and without '
    'the jobs.';


CREATE FUNCTION _pgq_find_groups(
    queue text,
    setting pgq_queue_setting,
    list bigint[],
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
AS $_pgq_find_groups$
DECLARE
    v_groups record;
BEGIN
    IF list IS NULL THEN
        v_groups := _pgq_groups_in_turn(
            queue, setting, start, seen, max_groups, max_steps, max_jobs, capped, free, at);
    ELSE
        v_groups := _pgq_groups_of_list(list, setting, start, seen, max_groups, max_jobs, capped, free, at);
    END IF;
    group_ids := v_groups.group_ids;
    priorities := v_groups.priorities;
    rooms := v_groups.rooms;
    firsts := v_groups.firsts;
    last_seen := v_groups.last_seen;
    steps := v_groups.steps;
END
$_pgq_find_groups$;

COMMENT ON FUNCTION _pgq_find_groups(
    text, pgq_queue_setting, bigint[], bigint, bigint, bigint, bigint, bigint, bigint[], bigint[], timestamptz
) IS
    'Return what _pgq_groups_of_list does, or _pgq_groups_in_turn if the list is NULL.';
