-- Waking idle workers: notify only queues in which a worker sleeps.
--
-- A notification takes a lock at commit that all sessions share, so it is sent only where a worker sleeps. A worker
-- that sleeps holds the advisory lock of its queue in shared mode; a session that makes a job ripe tries to take it
-- exclusively. If that session looks just before the worker falls asleep, and commits after, the worker finds the job
-- with its next poll.
--
-- The key of the lock has two parts: the oid of pgq_waiting, which differs between installations in one database, and a
-- hash of the queue. Two queues with the same hash wake each other's workers, at worst.

CREATE FUNCTION _pgq_channel(queue text) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq_' || 'pgq_waiting'::regclass::oid || '_' || md5(queue);

COMMENT ON FUNCTION _pgq_channel(text) IS
    'Return the channel on which the idle workers of a queue are notified.';


-- An expression, so that PostgreSQL inlines it.
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
    'If a worker of a queue sleeps, notify the channel of the queue when this transaction commits. Returns whether a '
    'worker sleeps.';


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
                  HINT = 'Pass true before the session sleeps, and false when it is awake again.';
    END IF;
    PERFORM _pgq_check_claim(queues, 0, NULL);

    FOREACH v_queue IN ARRAY queues LOOP
        -- Session locks are counted: a second one would outlive the next call with idle => false.
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
        -- An enqueue holds this lock for an instant. Do not wait longer: any role can take it and keep it.
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
    'Declare that this session is about to sleep until jobs of these queues are ripe (idle true), or is awake again '
    '(false). Returns the channels, one for each queue in the order given, on which the session is notified of ripe '
    'jobs while it sleeps. Before it sleeps, a worker calls this function, executes LISTEN for the channels, and '
    'claims once more. It sleeps no longer than until its next poll: a notification is a hint. NULL for queues, one of '
    'them or idle raises 22004. Raises 22023 for an empty array, 42501 for a queue that the calling role may not use.';
