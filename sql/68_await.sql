-- How a session waits until a job has ended.
--
-- A session that waits holds two advisory locks in shared mode, that of its job and one that all such sessions share,
-- and LISTENs to the channel of the job. The sequence pgq_awaited has a value while any session may wait, or any job be
-- blocked. What ends a job looks there first, and this is all that a completion pays where neither is so. Otherwise it
-- tries the lock of the job exclusively. If it gets the lock, no session waits for this job: it unlocks and notifies
-- none.
--
-- Maintenance takes the value away when no session holds the common lock. A session takes the lock before it sets the
-- value, so none that waits is missed.
--
-- If a job ends just before a session declares that it waits, and commits afterwards, the session finds that at its
-- next look: a notification is a hint.
--
-- The key of each lock has two parts: the oid of pgq_ended, and a hash of the id, or 0 for the common lock. Two jobs
-- with the same hash cause a notification to which no session listens, at worst.

CREATE SEQUENCE pgq_awaited;

COMMENT ON SEQUENCE pgq_awaited IS
    'Whether any session may wait for the end of a job, or any job be blocked: then it has been called. Maintenance '
    'resets it.';


CREATE FUNCTION _pgq_end_channel(id bigint) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq_' || 'pgq_ended'::regclass::oid || '_' || id;

COMMENT ON FUNCTION _pgq_end_channel(bigint) IS
    'Return the channel on which sessions that wait for the end of a job are notified.';


-- An expression, so that PostgreSQL inlines it, like _pgq_tell_end and _pgq_tell_ends.
CREATE FUNCTION _pgq_is_awaited() RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN pg_sequence_last_value('pgq_awaited') IS NOT NULL;

COMMENT ON FUNCTION _pgq_is_awaited() IS
    'Return whether any session may wait for the end of a job, or any job be blocked.';


CREATE FUNCTION _pgq_notify_ends(ids bigint[], outcome text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_notify_ends$
DECLARE
    c_class CONSTANT integer := 'pgq_ended'::regclass::oid::integer;
    v_id bigint;
    v_told boolean := false;
BEGIN
    IF outcome IS NOT NULL AND _pgq_has_needs() THEN
        PERFORM _pgq_settle_ends(ids, outcome);
    END IF;
    FOREACH v_id IN ARRAY ids LOOP
        IF pg_try_advisory_lock(c_class, hashint8(v_id)) THEN
            PERFORM pg_advisory_unlock(c_class, hashint8(v_id));
        ELSE
            PERFORM pg_notify(_pgq_end_channel(v_id), '');
            v_told := true;
        END IF;
    END LOOP;
    RETURN v_told;
END
$_pgq_notify_ends$;

COMMENT ON FUNCTION _pgq_notify_ends(bigint[], text) IS
    'Do what _pgq_settle_ends does, for an outcome that is not NULL, and notify the sessions that wait for the end of '
    'one of these jobs, when this transaction commits. Returns whether there are any.';


CREATE FUNCTION _pgq_tell_end(id bigint, outcome text) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN CASE WHEN _pgq_is_awaited() THEN _pgq_notify_ends(ARRAY[id], outcome) ELSE false END;

COMMENT ON FUNCTION _pgq_tell_end(bigint, text) IS
    'Do what _pgq_notify_ends does, for one job, and only if any session may wait, or any job be blocked.';


CREATE FUNCTION _pgq_tell_ends(ids bigint[], outcome text) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN CASE WHEN _pgq_is_awaited() THEN _pgq_notify_ends(ids, outcome) ELSE false END;

COMMENT ON FUNCTION _pgq_tell_ends(bigint[], text) IS
    'Do what _pgq_notify_ends does, but only if any session may wait, or any job be blocked.';


-- While any session waits, maintenance cannot get the lock that all of them share.
CREATE FUNCTION _pgq_settle_awaited() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_settle_awaited$
DECLARE
    c_class CONSTANT integer := 'pgq_ended'::regclass::oid::integer;
BEGIN
    IF _pgq_is_awaited() AND NOT _pgq_has_needs() THEN
        IF pg_try_advisory_lock(c_class, 0) THEN
            PERFORM setval('pgq_awaited', 1, false);
            PERFORM pg_advisory_unlock(c_class, 0);
        END IF;
    END IF;
    -- An enqueue sets that one first. The dump of an extension has that one only.
    IF _pgq_has_needs() AND NOT _pgq_is_awaited() THEN
        PERFORM setval('pgq_awaited', 1);
    END IF;
END
$_pgq_settle_awaited$;

COMMENT ON FUNCTION _pgq_settle_awaited() IS
    'Let _pgq_is_awaited return false again if no session waits for the end of a job, and true if any job may be '
    'blocked. Returns nothing.';


CREATE FUNCTION pgq_await(id bigint, waiting boolean DEFAULT true) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_await$
DECLARE
    c_class CONSTANT integer := 'pgq_ended'::regclass::oid::integer;
    v_key integer;
BEGIN
    PERFORM _pgq_refuse_in_maintenance();
    IF id IS NULL OR waiting IS NULL THEN
        RAISE EXCEPTION '% is null', CASE WHEN id IS NULL THEN 'id' ELSE 'waiting' END
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass the id of a job, with true before the session waits for it, and false afterwards.';
    END IF;

    FOREACH v_key IN ARRAY ARRAY[0, hashint8(id)] LOOP
        IF NOT waiting THEN
            -- To release a lock that is not held is a warning.
            PERFORM pg_advisory_unlock_shared(c_class, v_key)
            FROM pg_locks AS l
            WHERE l.locktype = 'advisory'
              AND l.pid = pg_backend_pid()
              AND l.classid = 'pgq_ended'::regclass
              AND l.objid = v_key::oid
              AND l.objsubid = 2
              AND l.mode = 'ShareLock';
        ELSE
            -- What ends a job holds the lock for an instant, so it is tried for about 20 milliseconds, and no longer:
            -- any role can take it and keep it.
            FOR v_try IN 1..20 LOOP
                EXIT WHEN pg_try_advisory_lock_shared(c_class, v_key);
                PERFORM pg_sleep(0.001);
            END LOOP;
        END IF;
    END LOOP;
    IF waiting AND NOT _pgq_is_awaited() AND NOT current_setting('transaction_read_only')::boolean THEN
        PERFORM setval('pgq_awaited', 1);
    END IF;
    RETURN _pgq_end_channel(id);
END
$pgq_await$;

COMMENT ON FUNCTION pgq_await(bigint, boolean) IS
    'Declare that this session waits for the end of a job, or no longer does (waiting false). Returns the channel on '
    'which the session is notified when the job has ended. Before it waits, a session calls this function, executes '
    'LISTEN for the channel, and calls pgq_result once more. It waits until it is notified, but calls pgq_result about '
    'once a second: a notification is a hint. Then it executes UNLISTEN, and calls this function with waiting false. A '
    'session may wait for several jobs. Behind a pooler in transaction mode it cannot wait in this way: there it only '
    'calls pgq_result from time to time; a session that may not write may find no notification either. The call says '
    'nothing of the job, which need not exist. NULL for an argument raises 22004.';
