-- How a session finds the groups that are not in its list.

-- From group to group between each two of those that are passed, whose entries it does not read.
CREATE FUNCTION _pgq_groups_between(queue text, passed bigint[], max_groups bigint) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_incremental_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_groups_between$
BEGIN
    RETURN ARRAY(
        WITH RECURSIVE step (group_id, up_to, is_new) AS (
            SELECT g.group_id, coalesce(lead(g.group_id) OVER (ORDER BY g.group_id), _pgq_room()), false
            FROM (SELECT DISTINCT unnest(passed || 0::bigint)) AS g (group_id)
            UNION ALL
            SELECT next.group_id, step.up_to, true
            FROM step
            CROSS JOIN LATERAL (
                SELECT w.group_id
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_groups_between.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id > step.group_id
                  AND w.group_id < step.up_to
                -- The order of the index whose entries are counted.
                ORDER BY w.group_id, w.priority, w.ripe_at, w.id
                LIMIT 1
            ) AS next
        )
        SELECT s.group_id FROM step AS s WHERE s.is_new LIMIT max_groups
    );
END
$_pgq_groups_between$;

COMMENT ON FUNCTION _pgq_groups_between(text, bigint[], bigint) IS
    'Return up to max_groups groups of a queue in which jobs wait, but for those that are passed.';


CREATE FUNCTION _pgq_look_for_groups(
    queue text,
    known bigint[],
    INOUT idle bigint[],
    INOUT full_look_us bigint,
    capped bigint[],
    free bigint[],
    OUT group_ids bigint[],
    OUT look_us bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_incremental_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_look_for_groups$
DECLARE
    c_groups CONSTANT integer := 2000;
    v_read bigint := _pgq_entries_read('pgq_waiting_group');
    v_is_full boolean :=
        idle = '{}' OR coalesce(full_look_us <= _pgq_microseconds(clock_timestamp()), true);
    v_passed bigint[] := known || CASE WHEN v_is_full THEN '{}' ELSE idle END;
    v_new bigint[];
    v_entries bigint;
    v_steps bigint;
BEGIN
    v_new := _pgq_groups_between(queue, v_passed || capped, c_groups + 1);
    IF cardinality(v_passed) + cardinality(v_new) > c_groups THEN
        -- Those that are idle may be found again.
        v_passed := known;
    END IF;
    group_ids := ARRAY(
        SELECT g.group_id
        FROM (
            SELECT unnest(array_remove(v_passed, 0))
            UNION
            SELECT unnest(v_new)
            UNION
            SELECT unnest(capped)
            UNION
            SELECT 0
            WHERE EXISTS (
                SELECT
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_look_for_groups.queue COLLATE "C" AND w.group_id IS NULL)
        ) AS g (group_id)
        WHERE coalesce(_pgq_free(g.group_id, NULL, capped, free) > 0, true)
        ORDER BY g.group_id
    );
    v_entries := coalesce(_pgq_entries_read('pgq_waiting_group') - v_read, 100000);
    -- Measured: a step takes as long as 100 entries.
    v_steps := cardinality(v_passed) + cardinality(capped) + cardinality(v_new);
    IF v_is_full THEN
        full_look_us := _pgq_microseconds(clock_timestamp() + _pgq_rescan_delay(20 * v_entries + 100 * v_steps));
        -- To visit an idle group takes as long as 150 entries.
        idle := CASE
            WHEN v_entries > 1000 + 10 * v_steps + 150 * cardinality(idle) THEN
                ARRAY(SELECT unnest(idle) EXCEPT SELECT unnest(group_ids))
            ELSE '{}'
        END;
        look_us := _pgq_microseconds(
            clock_timestamp() + _pgq_rescan_delay(100 * (v_steps + cardinality(idle))));
    ELSE
        idle := '{}';
        look_us := _pgq_microseconds(clock_timestamp() + _pgq_rescan_delay(v_entries + 100 * v_steps));
    END IF;
    IF cardinality(group_ids) > c_groups THEN
        group_ids := NULL;
        look_us := _pgq_microseconds(clock_timestamp() + interval '5 minutes');
    END IF;
END
$_pgq_look_for_groups$;

COMMENT ON FUNCTION _pgq_look_for_groups(text, bigint[], bigint[], bigint, bigint[], bigint[]) IS
    'Look for groups of a queue in which jobs wait, and that are neither known nor among the capped ones (see '
    '_pgq_caps). Returns these, the known ones and those that are capped and have jobs free, in order, or NULL if they '
    'are too many, and when to look again, in microseconds since 1970. A full look, from full_look_us on, looks for '
    'idle groups, too, and returns those of them that are to be remembered, and when to make the next one; another '
    'look returns all idle groups among the known ones.';
