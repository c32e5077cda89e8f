-- Waking an idle worker when a job that the limits of its queue have counted ends, and leaves its place to another one.
--
-- Where a session may sleep for the queue, the call counts what runs, and looks for a job that may start. Otherwise it
-- only tries one lock, as an enqueue does. A notification is a hint: what is counted here may have changed when the
-- transaction commits, and a session that sleeps looks once a second in any case.

CREATE FUNCTION _pgq_may_start_next(queue text, group_ids bigint[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_may_start_next$
DECLARE
    v_now timestamptz := pgq_now();
    v_setting pgq_queue_setting;
    v_caps record;
    v_room bigint;
    v_jobs bigint;
BEGIN
    SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = _pgq_may_start_next.queue;
    IF num_nonnulls(v_setting.max_running, _pgq_cap(v_setting)) = 0
       OR EXISTS (
           SELECT FROM pgq_paused AS p WHERE p.queue = _pgq_may_start_next.queue AND p.group_id = 0 AND p.until > v_now)
    THEN
        RETURN NULL;
    END IF;
    v_caps := _pgq_caps(queue, v_setting, (_pgq_turn(queue)).oldest, v_now);
    v_room := v_setting.max_running - v_caps.running;
    IF v_room <= 0 THEN
        RETURN NULL;
    END IF;

    -- The queue was full, so a job of any group may have waited for the place. Otherwise only one of the same group.
    IF coalesce(v_room <= cardinality(group_ids), false)
       AND (_pgq_has_waiting(queue) OR _pgq_group_ripe_at(queue, _pgq_room(), NULL, false) <= v_now) THEN
        RETURN v_room;
    END IF;
    SELECT count(*) INTO v_jobs
    FROM (SELECT DISTINCT unnest(group_ids)) AS g (group_id)
    WHERE g.group_id <> 0
      AND _pgq_free(g.group_id, _pgq_cap(v_setting), v_caps.capped, v_caps.free) > 0
      AND _pgq_group_ripe_at(queue, g.group_id, NULL, coalesce(v_setting.ordered, false)) <= v_now;
    RETURN nullif(least(v_jobs, v_room), 0);
END
$_pgq_may_start_next$;

COMMENT ON FUNCTION _pgq_may_start_next(text, bigint[]) IS
    'Given the groups of jobs of a queue that have just ended, and that its limits have counted, return how many '
    'sessions to wake because a job may start in the place of one of them; NULL: none.';


-- An expression, as _pgq_wake is.
CREATE FUNCTION _pgq_wake_next(queue text, group_ids bigint[]) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN _pgq_wake(queue, _pgq_may_start_next(queue, group_ids));

COMMENT ON FUNCTION _pgq_wake_next(text, bigint[]) IS
    'Wake sessions that sleep for this queue, as many as _pgq_may_start_next says for these groups. Returns whether '
    'one sleeps; NULL if none is woken.';


CREATE FUNCTION _pgq_wake_places(queues text[], group_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_wake_places$
BEGIN
    PERFORM _pgq_wake_next(p.queue, p.group_ids)
    FROM (
        SELECT f.queue, array_agg(f.group_id) AS group_ids
        FROM unnest(queues, _pgq_wake_places.group_ids) AS f (queue, group_id)
        GROUP BY f.queue
    ) AS p;
END
$_pgq_wake_places$;

COMMENT ON FUNCTION _pgq_wake_places(text[], bigint[]) IS
    'Call _pgq_wake_next for each queue of jobs that have just ended, given their queues and groups. Returns nothing.';
