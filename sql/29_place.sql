-- Where a job with a group waits.
--
-- The range of a group in the index pgq_waiting_group has jobs that are ripe or have been. A job that is to be ripe
-- later waits in the *waiting room* of its queue, one range for all groups, in the order of ripe_at; claims move it to
-- its group when its time has come. So a claim that goes round the groups does not visit a million of them in vain,
-- because each has a reminder for next month. In an ordered queue a job that is not ripe keeps its group waiting, so it
-- is there.

CREATE FUNCTION _pgq_room() RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN 9223372036854775807;

COMMENT ON FUNCTION _pgq_room() IS 'Return the number under which jobs wait whose time is to come, after all groups.';


-- The groups of an ordered queue share 64 advisory locks. An enqueue holds that of its group, in shared mode, from
-- before it draws the id until its transaction ends. While a claim has the lock exclusively, no enqueue in the group is
-- open: all ids that are missing are later ones. Two queues may share their locks, and then wait for each other a
-- little.
CREATE FUNCTION _pgq_order_key(queue text, group_id bigint) RETURNS integer
    LANGUAGE sql
    IMMUTABLE
    RETURN (hashtext(queue COLLATE "C") & ~63) | (group_id & 63)::integer;

COMMENT ON FUNCTION _pgq_order_key(text, bigint) IS
    'Return the second key of the advisory lock under which ids are drawn in a group of an ordered queue.';


CREATE FUNCTION _pgq_is_ordered(queue text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_is_ordered$
BEGIN
    RETURN EXISTS (SELECT FROM pgq_queue_setting AS s WHERE s.queue = _pgq_is_ordered.queue AND s.ordered);
END
$_pgq_is_ordered$;

COMMENT ON FUNCTION _pgq_is_ordered(text) IS 'Return whether a queue is ordered.';


-- Waits for a claim that looks for the first job of the group: some milliseconds.
CREATE FUNCTION _pgq_enter_group(queue text, group_key text, is_ripe boolean) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enter_group$
DECLARE
    v_group_id bigint := _pgq_group_id(group_key);
BEGIN
    PERFORM _pgq_mark(queue);
    IF _pgq_is_ordered(queue) THEN
        PERFORM pg_advisory_xact_lock_shared(
            'pgq_queue_setting'::regclass::oid::integer, _pgq_order_key(queue, v_group_id));
        RETURN v_group_id;
    END IF;
    RETURN CASE WHEN is_ripe THEN v_group_id ELSE _pgq_room() END;
END
$_pgq_enter_group$;

COMMENT ON FUNCTION _pgq_enter_group(text, text, boolean) IS
    'Prepare the enqueue of a job with a group, before its id is drawn. Returns the number under which it is to wait.';


-- In one order, so that two calls do not wait for each other in a circle with a claim between them.
CREATE FUNCTION _pgq_enter_groups(jobs jsonb) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_enter_groups$
DECLARE
    v_ordered text[] := ARRAY(SELECT s.queue FROM pgq_queue_setting AS s WHERE s.ordered);
BEGIN
    IF v_ordered <> '{}' THEN
        PERFORM pg_advisory_xact_lock_shared('pgq_queue_setting'::regclass::oid::integer, k.key)
        FROM (
            SELECT DISTINCT _pgq_order_key(j.queue, _pgq_group_id(j.group_key)) AS key
            FROM (
                SELECT coalesce(r.queue, 'default'), r.group_key
                FROM jsonb_to_recordset(jobs) AS r (queue text, group_key text)
            ) AS j (queue, group_key)
            WHERE j.group_key IS NOT NULL AND j.queue = ANY (v_ordered)
            ORDER BY key
        ) AS k;
    END IF;
    RETURN v_ordered;
END
$_pgq_enter_groups$;

COMMENT ON FUNCTION _pgq_enter_groups(jsonb) IS
    'Prepare the enqueue of an array of jobs, before their ids are drawn, as _pgq_enter_group does. Returns the queues '
    'that are ordered.';


CREATE FUNCTION _pgq_place(queue text, group_key text, is_ripe boolean) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_place$
BEGIN
    IF group_key IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN CASE WHEN is_ripe OR _pgq_is_ordered(queue) THEN _pgq_group_id(group_key) ELSE _pgq_room() END;
END
$_pgq_place$;

COMMENT ON FUNCTION _pgq_place(text, text, boolean) IS
    'Return the number under which a job that goes back to waiting is to wait; NULL without a group.';
