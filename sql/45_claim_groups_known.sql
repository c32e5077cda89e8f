-- Which groups of a queue a claim visits, from a list.
--
-- The way from group to group is long where it passes many groups of which no job may be taken, or the entries of many
-- jobs that are gone. So once it was, a session keeps a list of the groups from which jobs may be taken, and visits
-- these. From time to time it looks for others, between those that it knows: at least 20 times as long after a look as
-- that took, and at once if the list leads to no job. A group in which nothing is found leaves the list until then.
--
-- The value of the setting is the time of the next look, in microseconds since 1970, and the groups. Any role can set
-- it: a forged one may hide groups from its own session for ten minutes, and a damaged one counts as none. With more
-- groups than a list may have, it is that time alone, and claims go from group to group.

CREATE FUNCTION _pgq_groups_setting(queue text) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.groups_' || 'pgq_head'::regclass::oid || '_' || md5(queue);

COMMENT ON FUNCTION _pgq_groups_setting(text) IS
    'Return the name of the setting in which a session keeps a list of the groups of a queue.';


CREATE FUNCTION _pgq_known_groups(queue text, at timestamptz, OUT group_ids bigint[], OUT look_us bigint)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_known_groups$
DECLARE
    v_setting text := current_setting(_pgq_groups_setting(queue), true);
BEGIN
    IF coalesce(v_setting, '') = '' THEN
        RETURN;
    END IF;
    group_ids := nullif(split_part(v_setting, ' ', 2), '')::bigint[];
    look_us := split_part(v_setting, ' ', 1)::bigint;
    IF array_ndims(group_ids) > 1 OR array_position(group_ids, NULL) IS NOT NULL THEN
        group_ids := '{}';
    END IF;
    -- A time that lies too far ahead was kept before the clock was set back.
    IF NOT look_us - _pgq_microseconds(at) BETWEEN 0 AND 600000000 THEN
        look_us := 0;
    END IF;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    group_ids := NULL;
    look_us := NULL;
END
$_pgq_known_groups$;

COMMENT ON FUNCTION _pgq_known_groups(text, timestamptz) IS
    'Return the groups of a queue that this session has in a list, and when it looks for others, in microseconds since '
    '1970, 0 for now. NULL for the groups: it keeps none, and from that time on it may make one; NULL for both: it '
    'never had one.';


CREATE FUNCTION _pgq_keep_groups(queue text, group_ids bigint[], look_us bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_keep_groups$
BEGIN
    PERFORM set_config(_pgq_groups_setting(queue), look_us || coalesce(' ' || group_ids::text, ''), false);
END
$_pgq_keep_groups$;

COMMENT ON FUNCTION _pgq_keep_groups(text, bigint[], bigint) IS
    'Keep a list of groups of a queue in this session, and when it looks for others; NULL for the groups: they are too '
    'many. Returns nothing.';


CREATE FUNCTION _pgq_look_for_groups(
    queue text,
    known bigint[],
    capped bigint[],
    free bigint[],
    OUT group_ids bigint[],
    OUT look_us bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_look_for_groups$
DECLARE
    c_groups CONSTANT integer := 2000;
    v_read bigint := _pgq_entries_read('pgq_waiting_group');
    v_new bigint[];
BEGIN
    -- Between each two groups that are known, from group to group.
    v_new := ARRAY(
        WITH RECURSIVE step (group_id, up_to, is_new) AS (
            SELECT g.group_id, coalesce(lead(g.group_id) OVER (ORDER BY g.group_id), _pgq_room()), false
            FROM (SELECT unnest(known || 0::bigint) UNION SELECT unnest(capped)) AS g (group_id)
            UNION ALL
            SELECT next.group_id, step.up_to, true
            FROM step
            CROSS JOIN LATERAL (
                SELECT w.group_id
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_look_for_groups.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id > step.group_id
                  AND w.group_id < step.up_to
                ORDER BY w.group_id
                LIMIT 1
            ) AS next
        )
        SELECT s.group_id FROM step AS s WHERE s.is_new LIMIT c_groups + 1
    );
    group_ids := ARRAY(
        SELECT g.group_id
        FROM (
            SELECT unnest(array_remove(known, 0))
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
    -- Measured: a step takes as long as 100 entries.
    look_us := _pgq_microseconds(
        clock_timestamp() + _pgq_rescan_delay(
            coalesce(_pgq_entries_read('pgq_waiting_group') - v_read, 100000)
            + 100 * (cardinality(known) + cardinality(capped) + cardinality(v_new))));
    IF cardinality(group_ids) > c_groups THEN
        group_ids := NULL;
        look_us := _pgq_microseconds(clock_timestamp() + interval '5 minutes');
    END IF;
END
$_pgq_look_for_groups$;

COMMENT ON FUNCTION _pgq_look_for_groups(text, bigint[], bigint[], bigint[]) IS
    'Look for groups of a queue in which jobs wait, and that are neither known nor among the capped ones (see '
    '_pgq_caps). Returns these, the known ones and those that are capped and have jobs free, in order, or NULL if they '
    'are too many; and when to look again, in microseconds since 1970.';
