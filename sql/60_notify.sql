-- Waking idle workers: one for each ripe job, and only where a worker sleeps.
--
-- A notification takes a lock at commit that all sessions share, so it is sent only where a worker sleeps. A session
-- that sleeps holds advisory locks, and a session that makes a job ripe tries to take them:
--
-- - Queues are hashed into 64 buckets. A sleeping session has the locks of its buckets in shared mode. If an enqueue
--   gets the lock of its bucket, no session sleeps there: this is all that it does.
-- - Otherwise it looks for a session to wake. Each queue has 16 slots. A sleeping session has one of them exclusively,
--   and LISTENs to the channel of the slot. Those for which no slot is left share the slot 16, and wake together.
-- - A session that serves many queues would need too many locks. It takes all buckets, and one slot of the empty queue.
--   An enqueue does not know which of these sessions serves its queue, so it notifies all of them, but only if too few
--   sleep for this queue alone.
--
-- The session that wakes leaves its slot, so that the next enqueue wakes another one. If an enqueue looks just before a
-- session falls asleep, and commits afterwards, the session finds the job at its next look.
--
-- The key of each lock has two parts: the oid of pgq_waiting, which differs between installations in one database, and
-- the bucket, or a hash of queue and slot. Two slots with the same hash wake each other's sessions, at worst.

CREATE FUNCTION _pgq_channel(queue text, slot integer) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq_' || 'pgq_waiting'::regclass::oid || '_' || md5(queue) || '_' || slot;

COMMENT ON FUNCTION _pgq_channel(text, integer) IS
    'Return the channel on which the session in a slot of a queue is notified.';


CREATE FUNCTION _pgq_slot_key(queue text, slot integer) RETURNS integer
    LANGUAGE sql
    IMMUTABLE
    RETURN hashtext(slot || '/' || queue);

COMMENT ON FUNCTION _pgq_slot_key(text, integer) IS
    'Return the second part of the key of the advisory lock for a slot of a queue.';


-- A session asks at least once a second when the next job is ripe, so it need not be notified of a job that is ripe
-- later.
CREATE FUNCTION _pgq_is_soon(ripe_at timestamptz, at timestamptz) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN ripe_at <= at OR ripe_at <= at + interval '2 seconds';

COMMENT ON FUNCTION _pgq_is_soon(timestamptz, timestamptz) IS
    'Return whether a job with this ripe_at is to wake a session: it is ripe at a time, or within 2 seconds.';


-- Slots are tried in shared mode, so sessions that try the same one do not disturb each other; the shared slot, which
-- sleeping sessions hold in shared mode, is tried exclusively. The first slot is random: so a woken session that is
-- stuck delays few other jobs, and the calls of one transaction wake several sessions.
CREATE FUNCTION _pgq_wake_sleepers(queue text, jobs bigint) RETURNS boolean
    LANGUAGE plpgsql
    STRICT
    SET search_path FROM CURRENT
AS $_pgq_wake_sleepers$
DECLARE
    c_class CONSTANT integer := 'pgq_waiting'::regclass::oid::integer;
    v_first CONSTANT integer := floor(random() * 16);
    v_left bigint := greatest(jobs, 1);
    v_queue text;
    v_slot integer;
    v_key integer;
    v_free boolean;
BEGIN
    FOREACH v_queue IN ARRAY ARRAY[queue, ''] LOOP
        EXIT WHEN v_left <= 0;
        FOR v_n IN 0..16 LOOP
            v_slot := CASE WHEN v_n < 16 THEN (v_first + v_n) % 16 ELSE 16 END;
            v_key := _pgq_slot_key(v_queue, v_slot);
            IF v_n < 16 THEN
                v_free := pg_try_advisory_lock_shared(c_class, v_key) AND pg_advisory_unlock_shared(c_class, v_key);
            ELSE
                v_free := pg_try_advisory_lock(c_class, v_key) AND pg_advisory_unlock(c_class, v_key);
            END IF;
            IF NOT v_free THEN
                PERFORM pg_notify(_pgq_channel(v_queue, v_slot), CASE WHEN jobs = 0 THEN 'later' ELSE '' END);
                v_left := v_left - 1;
                EXIT WHEN v_left = 0 AND v_queue <> '';
            END IF;
        END LOOP;
    END LOOP;
    RETURN v_left < greatest(jobs, 1);
END
$_pgq_wake_sleepers$;

COMMENT ON FUNCTION _pgq_wake_sleepers(text, bigint) IS
    'Notify as many sleeping sessions of this queue as there are ripe jobs when this transaction commits; if there are '
    'fewer of them, all sessions of many queues, too. 0 means that a job is ripe soon: as for one job, but with the '
    'payload "later". NULL: notify none. Returns whether a session sleeps.';


-- An expression, so that PostgreSQL inlines it, and evaluates jobs only where a session may sleep.
CREATE FUNCTION _pgq_wake(queue text, jobs bigint DEFAULT 1) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN CASE
        WHEN pg_try_advisory_lock('pgq_waiting'::regclass::oid::integer, hashtext(queue) & 63) THEN
            NOT pg_advisory_unlock('pgq_waiting'::regclass::oid::integer, hashtext(queue) & 63)
        ELSE
            _pgq_wake_sleepers(queue, jobs)
    END;

COMMENT ON FUNCTION _pgq_wake(text, bigint) IS
    'If sessions sleep for a queue, call _pgq_wake_sleepers. Returns whether one sleeps.';
