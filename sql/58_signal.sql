-- How signals reach jobs that wait for them.

CREATE FUNCTION _pgq_wait_class() RETURNS integer
    LANGUAGE sql
    STABLE
    RETURN 'pgq_signal_wait'::regclass::oid::integer;

COMMENT ON FUNCTION _pgq_wait_class() IS 'Return the first part of the advisory locks of jobs that begin to wait.';


-- 1024 locks for all jobs, so that a transaction that lets many jobs wait does not fill the table of locks. Maintenance
-- has a lock for an instant only, but any role can take one and keep it.
CREATE FUNCTION _pgq_enter_wait(id bigint) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enter_wait$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RETURN false;
    END IF;
    FOR v_try IN 1..20 LOOP
        IF pg_try_advisory_xact_lock_shared(_pgq_wait_class(), (id & 1023)::integer) THEN
            RETURN true;
        END IF;
        PERFORM pg_sleep(0.001);
    END LOOP;
    RETURN false;
END
$_pgq_enter_wait$;

COMMENT ON FUNCTION _pgq_enter_wait(bigint) IS
    'Announce, until the end of the transaction, that it lets a job wait for a signal. Returns whether the next '
    'statement sees each signal that maintenance will not look at again.';


CREATE FUNCTION _pgq_survivor(id bigint) RETURNS bigint
    LANGUAGE plpgsql
    STABLE
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_survivor$
DECLARE
    v_twin bigint;
BEGIN
    LOOP
        SELECT m.twin INTO v_twin FROM pgq_merged AS m WHERE m.id = _pgq_survivor.id;
        IF NOT FOUND THEN
            RETURN id;
        END IF;
        id := v_twin;
    END LOOP;
END
$_pgq_survivor$;

COMMENT ON FUNCTION _pgq_survivor(bigint) IS
    'Return the number of the job with which a job has merged in the end, or its own number.';


CREATE FUNCTION _pgq_wake_waiting(id bigint, name text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_wake_waiting$
DECLARE
    v_now timestamptz := pgq_now();
    v_job record;
BEGIN
    SELECT w.queue, w.group_key INTO v_job
    FROM pgq_waiting AS w
    WHERE w.id = _pgq_wake_waiting.id
      AND w.ripe_at > v_now
      AND w.ripe_at = (SELECT s.until FROM pgq_signal_wait AS s WHERE s.id = w.id AND s.name = _pgq_wake_waiting.name)
    FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE pgq_waiting AS w
    SET ripe_at = v_now, group_id = _pgq_place(v_job.queue, v_job.group_key, true)
    WHERE w.id = _pgq_wake_waiting.id;
    PERFORM _pgq_wake(v_job.queue, 1);
    RETURN true;
END
$_pgq_wake_waiting$;

COMMENT ON FUNCTION _pgq_wake_waiting(bigint, text) IS
    'Make a job ripe that waits for a signal, and wake a worker. Returns whether it has waited for it. Waits for no '
    'lock.';


-- A signal, or a job that is to run after this one, may not be committed yet, and a signal may be sent later. Where none
-- was ever sent, this looks for none.
CREATE FUNCTION _pgq_note_merge(id bigint, signature uuid) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_note_merge$
BEGIN
    IF pg_relation_size('pgq_job_signal') = 0 AND NOT _pgq_has_needs() THEN
        RETURN false;
    END IF;
    INSERT INTO pgq_merged (id, twin)
    SELECT _pgq_note_merge.id, w.id
    FROM pgq_waiting AS w
    WHERE w.signature = _pgq_note_merge.signature
    ON CONFLICT ON CONSTRAINT pgq_merged_pkey DO UPDATE SET twin = excluded.twin;
    RETURN EXISTS (SELECT FROM pgq_job_signal AS s WHERE s.id = _pgq_note_merge.id);
END
$_pgq_note_merge$;

COMMENT ON FUNCTION _pgq_note_merge(bigint, uuid) IS
    'Note with which waiting twin a job merges, if signals are in use or any job may be blocked. Returns whether it has '
    'got any signal.';


CREATE FUNCTION _pgq_hand_over_signals(id bigint, twin bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_hand_over_signals$
DECLARE
    v_soon timestamptz := pgq_now() + interval '1 second';
BEGIN
    INSERT INTO pgq_job_signal (id, name, payload, sent_at, unseen)
    SELECT _pgq_hand_over_signals.twin, s.name, s.payload, s.sent_at, true
    FROM pgq_job_signal AS s
    WHERE s.id = _pgq_hand_over_signals.id
    ON CONFLICT DO NOTHING;
    DELETE FROM pgq_job_signal AS s WHERE s.id = _pgq_hand_over_signals.id;

    IF NOT EXISTS (SELECT FROM pgq_signal_wait AS s WHERE s.id = _pgq_hand_over_signals.id) THEN
        RETURN;
    END IF;
    UPDATE pgq_signal_wait AS s
    SET id = _pgq_hand_over_signals.twin
    WHERE s.id = _pgq_hand_over_signals.id
      AND NOT EXISTS (
          SELECT FROM pgq_signal_wait AS t WHERE t.id = _pgq_hand_over_signals.twin AND t.name = s.name);
    DELETE FROM pgq_signal_wait AS s WHERE s.id = _pgq_hand_over_signals.id;
    -- The twin may have got the signal already.
    IF NOT _pgq_enter_wait(twin) THEN
        UPDATE pgq_waiting AS w
        SET ripe_at = v_soon
        WHERE w.id = _pgq_hand_over_signals.twin
          AND w.ripe_at > v_soon
          AND w.ripe_at IN (SELECT s.until FROM pgq_signal_wait AS s WHERE s.id = w.id);
    END IF;
    PERFORM _pgq_wake_waiting(twin, s.name)
    FROM pgq_job_signal AS s
    WHERE s.id = _pgq_hand_over_signals.twin;
END
$_pgq_hand_over_signals$;

COMMENT ON FUNCTION _pgq_hand_over_signals(bigint, bigint) IS
    'Hand over the signals of a job, and what it waits for, to the twin of its merge, whose row this transaction has '
    'locked; the twin keeps its own of the same name. Returns nothing.';
