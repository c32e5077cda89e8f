-- Which jobs a claim takes from an ordered queue: the first of each group.
--
-- The order is that of the ids, which producers draw one after the other, but commit in any order. So the first job of
-- a group is known only while no enqueue in the group is open (see _pgq_order_key).

CREATE INDEX pgq_waiting_order ON pgq_waiting (queue COLLATE "C", group_id, id) WHERE group_id IS NOT NULL;

CREATE INDEX pgq_ended_dead ON pgq_ended (queue COLLATE "C", group_id, id)
    WHERE outcome = 'dead' AND group_id IS NOT NULL;


-- While a claim waits here, new producers queue behind it, so that they cannot keep it waiting for ever by coming one
-- after the other. A producer that stays in its transaction keeps both waiting for as long as this may take.
CREATE FUNCTION _pgq_await_order(key integer) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET lock_timeout = '20ms'
AS $_pgq_await_order$
BEGIN
    PERFORM pg_advisory_xact_lock('pgq_queue_setting'::regclass::oid::integer, key);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$_pgq_await_order$;

COMMENT ON FUNCTION _pgq_await_order(integer) IS
    'Wait until no enqueue is open in the groups that share a lock, for 20 milliseconds at most, and keep others from '
    'beginning. Returns whether that was reached.';


-- The locks go with the subtransaction: after it, a producer can only draw later ids. The row of a head that another
-- transaction has locked is skipped, and not the head: its group waits.
CREATE FUNCTION _pgq_lock_heads(
    queue text,
    group_ids bigint[],
    max_jobs bigint,
    at timestamptz,
    stops boolean,
    OUT rows tid[],
    OUT bytes bigint,
    OUT suspects bigint,
    OUT last_group bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_heads$
DECLARE
    c_class CONSTANT integer := 'pgq_queue_setting'::regclass::oid::integer;
    v_groups bigint[] := array_remove(group_ids, 0);
    v_first integer := _pgq_order_key(queue, v_groups[1]);
    v_keys integer[];
    v_heads bigint[];
BEGIN
    rows := '{}';
    bytes := 0;
    suspects := 0;
    IF v_groups = '{}' THEN
        RETURN;
    END IF;
    BEGIN
        -- The groups take turns in being the first one.
        IF NOT pg_try_advisory_xact_lock(c_class, v_first) AND NOT _pgq_await_order(v_first) THEN
            v_groups := v_groups[2:];
        END IF;
        v_keys := ARRAY(
            SELECT k.key
            FROM (SELECT DISTINCT _pgq_order_key(queue, g) AS key FROM unnest(v_groups) AS g) AS k
            WHERE pg_try_advisory_xact_lock(c_class, k.key)
        );
        v_heads := ARRAY(
            SELECT head.id
            FROM unnest(v_groups) WITH ORDINALITY AS g (group_id, n)
            CROSS JOIN LATERAL (
                SELECT w.id, w.ripe_at
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_lock_heads.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id = g.group_id
                ORDER BY w.id
                LIMIT 1
            ) AS head
            WHERE _pgq_order_key(queue, g.group_id) = ANY (v_keys)
              AND head.ripe_at <= at
              AND NOT (
                  stops
                  AND EXISTS (
                      SELECT
                      FROM pgq_ended AS e
                      WHERE e.queue = _pgq_lock_heads.queue COLLATE "C"
                        AND e.group_id = g.group_id
                        AND e.outcome = 'dead'
                        AND e.id < head.id
                  )
              )
            ORDER BY g.n
            LIMIT max_jobs
        );
        RAISE SQLSTATE 'PGQ00';
    EXCEPTION WHEN SQLSTATE 'PGQ00' THEN
        NULL;
    END;

    SELECT coalesce(array_agg(locked.ctid ORDER BY locked.n), '{}'), coalesce(sum(locked.bytes), 0),
           count(locked.losses), (array_agg(locked.group_id ORDER BY locked.n DESC))[1]
    INTO rows, bytes, suspects, last_group
    FROM (
        SELECT head.*, h.n
        FROM unnest(v_heads) WITH ORDINALITY AS h (id, n)
        CROSS JOIN LATERAL (
            SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses,
                   w.group_id
            FROM pgq_waiting AS w
            WHERE w.id = h.id
              AND w.ripe_at <= at
            FOR UPDATE SKIP LOCKED
        ) AS head
    ) AS locked;
END
$_pgq_lock_heads$;

COMMENT ON FUNCTION _pgq_lock_heads(text, bigint[], bigint, timestamptz, boolean) IS
    'Lock the rows of up to max_jobs jobs of an ordered queue, each the first of one of these groups, of which no job '
    'runs. A first job that is not ripe at a time, or that another transaction has locked, keeps its group waiting; so '
    'does a dead one before it, if stops. Returns their ctids in the order of the groups, the size of their args and '
    'contexts, how many are suspects, and the group of the last row.';
