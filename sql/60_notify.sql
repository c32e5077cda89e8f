-- Who sleeps, and how an enqueue wakes him without troubling a queue whose workers are all awake.
--
-- A notification takes a lock at commit that all sessions share, so it is sent only where a worker sleeps. One that does
-- holds the advisory lock of its queue in shared mode; whoever makes a job ripe tries to get it exclusively. A job that
-- is committed by somebody who looked just before the worker fell asleep is found by the worker's poll.
--
-- The key of the lock has two parts: the oid of pgq_waiting, which no other installation in this database has, and a
-- hash of the queue. Two queues with the same hash wake each other's workers, at worst.

CREATE FUNCTION _pgq_channel(queue text) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq_' || 'pgq_waiting'::regclass::oid || '_' || md5(queue);

COMMENT ON FUNCTION _pgq_channel(text) IS
    'The channel on which the sleeping workers of a queue are notified.';


-- An expression, so that it is inlined.
CREATE FUNCTION _pgq_wake(queue text) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN CASE
        WHEN pg_try_advisory_lock('pgq_waiting'::regclass::oid::integer, hashtext(queue)) THEN
            NOT pg_advisory_unlock('pgq_waiting'::regclass::oid::integer, hashtext(queue))
        ELSE
            pg_notify(_pgq_channel(queue), '') IS NOT NULL
    END;

COMMENT ON FUNCTION _pgq_wake(text) IS
    'Notify the workers of a queue when this transaction commits, if one of them sleeps; answers whether.';


CREATE FUNCTION pgq_idle(queues text[] DEFAULT '{default}', idle boolean DEFAULT true) RETURNS SETOF text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_idle$
DECLARE
    c_class CONSTANT integer := 'pgq_waiting'::regclass::oid::integer;
    v_queue text;
    v_asleep boolean;
BEGIN
    IF idle IS NULL THEN
        RAISE EXCEPTION 'idle is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Say true before the session sleeps and false when it is awake again.';
    END IF;
    PERFORM _pgq_check_claim(queues, 0, NULL);

    FOREACH v_queue IN ARRAY queues LOOP
        -- Session locks are counted; a second one would outlive the next waking.
        v_asleep := EXISTS (
            SELECT FROM pg_locks AS l
            WHERE l.locktype = 'advisory'
              AND l.pid = pg_backend_pid()
              AND l.classid = 'pgq_waiting'::regclass
              AND l.objid::integer = hashtext(v_queue)
              AND l.objsubid = 2);
        IF NOT idle AND v_asleep THEN
            PERFORM pg_advisory_unlock_shared(c_class, hashtext(v_queue));
        END IF;
        -- An enqueue has it for a moment; to wait for it for longer would be to trust a stranger.
        FOR v_try IN 1..20 LOOP
            EXIT WHEN v_asleep OR NOT idle;
            v_asleep := pg_try_advisory_lock_shared(c_class, hashtext(v_queue));
            IF NOT v_asleep THEN
                PERFORM pg_sleep(0.001);
            END IF;
        END LOOP;
        RETURN NEXT _pgq_channel(v_queue);
    END LOOP;
END
$pgq_idle$;

COMMENT ON FUNCTION pgq_idle(text[], boolean) IS
    'Say that this session is about to sleep until there are jobs in these queues (true), or awake again (false), and '
    'answer the channels, one for each queue, on which it is notified of ripe jobs while it sleeps. LISTEN to them, call '
    'this, claim once more, then sleep: no longer than a poll, for a notification is a hint. NULL is refused (22004), bad '
    'values raise 22023, a queue that your role may not use 42501.';
