-- When a claim from a queue with groups or limits may find a job.

-- A look, which locks nothing: what it says of limits may have changed when a claim comes. It looks at a thousand
-- groups at most.
CREATE FUNCTION _pgq_turn_at(queue text, at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_turn_at$
DECLARE
    v_setting pgq_queue_setting;
    v_turn record;
    v_caps record;
    v_list record;
    v_spent timestamptz;
    v_token_at timestamptz := at;
    v_groups record;
    v_soonest timestamptz;
BEGIN
    SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = _pgq_turn_at.queue;
    v_turn := _pgq_turn(queue);
    v_caps := _pgq_caps(queue, v_setting, v_turn.oldest, at);
    IF v_caps.running >= v_setting.max_running THEN
        RETURN NULL;
    END IF;
    IF v_setting.rate IS NOT NULL THEN
        v_spent := _pgq_all_spent(v_setting, 0, at);
        IF _pgq_may_start(v_spent, v_setting.rate, v_setting, at) = 0 THEN
            v_token_at := v_spent - _pgq_span(coalesce(v_setting.burst, 1) - 1, v_setting.rate, v_setting.per);
        END IF;
    END IF;
    v_list := _pgq_known_groups(queue, clock_timestamp());
    v_groups := _pgq_find_groups(
        queue, v_setting, v_list.group_ids, coalesce(_pgq_reserved_turn(queue), v_turn.group_id, 0), NULL, 1000, 1000,
        1, v_caps.capped, v_caps.free, at);

    SELECT min(soonest.ripe_at) INTO v_soonest
    FROM (
        SELECT _pgq_group_ripe_at(queue, g.group_id, NULL, v_setting.ordered) AS ripe_at
        FROM unnest(array_remove(v_groups.group_ids, 0)) AS g (group_id)
        UNION ALL
        SELECT _pgq_group_ripe_at(queue, 0, NULL, false)
        UNION ALL
        SELECT _pgq_group_ripe_at(queue, _pgq_room(), NULL, false)
    ) AS soonest;
    IF v_groups.last_seen IS NOT NULL AND (v_soonest > at) IS NOT FALSE THEN
        -- There are more groups: the next claims go on round them.
        v_soonest := least(v_soonest, at + interval '50 milliseconds');
    END IF;
    -- The tokens of groups that wait for them.
    IF v_setting.rate_per_group IS NOT NULL THEN
        SELECT least(v_soonest, min(s.token_at)) INTO v_soonest
        FROM (
            SELECT r.all_spent - _pgq_span(
                       coalesce(v_setting.burst, 1) - 1, v_setting.rate_per_group, v_setting.per) AS token_at,
                   r.group_id
            FROM pgq_rate AS r
            WHERE r.queue = _pgq_turn_at.queue AND r.group_id > 0 AND r.all_spent > at
            ORDER BY r.group_id
            LIMIT 1000
        ) AS s
        WHERE s.token_at > at
          AND EXISTS (
              SELECT
              FROM pgq_waiting AS w
              WHERE w.queue = _pgq_turn_at.queue COLLATE "C" AND w.group_id IS NOT NULL AND w.group_id = s.group_id);
    END IF;
    RETURN greatest(v_soonest, CASE WHEN v_soonest IS NOT NULL THEN v_token_at END);
END
$_pgq_turn_at$;

COMMENT ON FUNCTION _pgq_turn_at(text, timestamptz) IS
    'Return when the next job of a queue with groups or limits may be claimed, as far as that is known at a time: now '
    'or before, later, or NULL if none waits, or only such as wait for the end of others or of a pause.';
