-- Cancel a job, as an operator: end it, or ask its worker to.

CREATE FUNCTION _pgq_job_state(id bigint) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_job_state$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_state text;
BEGIN
    SELECT j.state INTO v_state
    FROM pgq_jobs AS j
    WHERE j.id = _pgq_job_state.id
      AND (v_allowed IS NULL OR j.queue = ANY (v_allowed));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no job %', coalesce(id::text, 'null')
            USING ERRCODE = 'PGQ01',
                  HINT = 'Look up the id in pgq_jobs; a job that was completed without a result is deleted.';
    END IF;
    RETURN v_state;
END
$_pgq_job_state$;

COMMENT ON FUNCTION _pgq_job_state(bigint) IS
    'Return the state of a job, as in the view pgq_jobs. Raises PGQ01 if there is no such job, if it is in a queue '
    'that the calling role may not use, or for NULL.';


CREATE FUNCTION _pgq_cancel_one_blocked(id bigint, at timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_cancel_one_blocked$
BEGIN
    BEGIN
        PERFORM FROM pgq_blocked AS b WHERE b.id = _pgq_cancel_one_blocked.id FOR UPDATE;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
    EXCEPTION
        WHEN lock_not_available THEN
            RAISE EXCEPTION 'another transaction has locked job %', _pgq_cancel_one_blocked.id
                USING ERRCODE = 'lock_not_available',
                      HINT = 'Try again when that transaction has ended: it ends a job that this one waits for, or has '
                             'enqueued a duplicate.';
    END;
    PERFORM _pgq_cancel_blocked(ARRAY[id], NULL, at);
    PERFORM _pgq_settle_ends(ARRAY[id], 'failed');
    RETURN true;
END
$_pgq_cancel_one_blocked$;

COMMENT ON FUNCTION _pgq_cancel_one_blocked(bigint, timestamptz) IS
    'End a blocked job as cancelled. Returns false if it is not blocked any more. Raises 55P03 if another transaction '
    'has it locked for longer than the lock_timeout.';


CREATE FUNCTION pgq_cancel(id bigint) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET lock_timeout = '500ms'
AS $pgq_cancel$
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_waiting pgq_waiting;
    v_running pgq_running;
    v_state text;
BEGIN
    -- Repeat when the job has moved from one table to another between two statements.
    LOOP
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = (
            SELECT o.ctid
            FROM pgq_waiting AS o
            WHERE o.id = pgq_cancel.id
              AND (v_allowed IS NULL OR o.queue = ANY (v_allowed))
            FOR UPDATE SKIP LOCKED)
        RETURNING w.* INTO v_waiting;
        IF FOUND THEN
            PERFORM _pgq_cancel_waiting(v_waiting, v_now);
            RETURN 'cancelled';
        END IF;

        -- The lease is over, and only the next rescue would end the job. The jobs that were lost with it are marked
        -- while it is still there: without it they may look as if lost alone.
        IF EXISTS (
            SELECT
            FROM _pgq_running AS r
            WHERE r.id = pgq_cancel.id
              AND r.lease_until < v_now
              AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
        ) THEN
            PERFORM _pgq_unpack(ARRAY(
                SELECT b.token
                FROM pgq_running_batch AS b
                WHERE pgq_cancel.id = ANY (b.ids)
                  AND pgq_cancel.id <> ALL (b.gone)
                  AND b.lease_until < v_now
                FOR UPDATE SKIP LOCKED));
            PERFORM _pgq_mark_lost(ARRAY[id]);
        END IF;
        DELETE FROM pgq_running AS r
        WHERE r.ctid = (
            SELECT o.ctid
            FROM pgq_running AS o
            WHERE o.id = pgq_cancel.id
              AND o.lease_until < v_now
              AND (v_allowed IS NULL OR o.queue = ANY (v_allowed))
            FOR UPDATE SKIP LOCKED)
        RETURNING r.* INTO v_running;
        IF FOUND THEN
            PERFORM _pgq_take_cancel_request(id);
            v_running.newest_error := _pgq_add_error(
                v_running, v_now,
                CASE WHEN v_running.lease_until > v_running.claimed_at THEN 'the lease ran out'
                     ELSE 'the worker is gone'
                END);
            PERFORM _pgq_end(v_running, 'cancelled', v_now, NULL);
            RETURN 'cancelled';
        END IF;

        -- Read without a lock: a transaction may hold the job, and the worker must not wait for the caller's.
        IF EXISTS (
            SELECT
            FROM _pgq_running AS r
            WHERE r.id = pgq_cancel.id
              AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
        ) THEN
            PERFORM _pgq_request_cancel(id, v_now);
            -- It may have ended, or gone back to waiting, before the request was there.
            IF EXISTS (SELECT FROM _pgq_running AS r WHERE r.id = pgq_cancel.id) THEN
                RETURN 'requested';
            END IF;
        ELSE
            v_state := _pgq_job_state(id);
            IF v_state = 'waiting' THEN
                PERFORM _pgq_await_waiting(id);
            ELSIF v_state = 'blocked' THEN
                IF _pgq_cancel_one_blocked(id, v_now) THEN
                    RETURN 'cancelled';
                END IF;
            ELSIF v_state <> 'running' THEN
                RAISE EXCEPTION 'job % is % and cannot be cancelled', id, v_state
                    USING ERRCODE = 'PGQ03',
                          HINT = 'Cancel only a job that is waiting, blocked or running.';
            END IF;
        END IF;
    END LOOP;
END
$pgq_cancel$;

COMMENT ON FUNCTION pgq_cancel(bigint) IS
    'Cancel a waiting, blocked or running job. Returns cancelled if the job has ended: it waited, for a worker or for '
    'other jobs, or its lease was over. '
    'Returns requested if it is running: the worker learns of it from pgq_cancel_requested, and the job ends as '
    'cancelled when the worker gives it up, fails, declines, snoozes or releases it, or when its lease ends. If the '
    'worker completes it first, the request lapses. A cancelled job is kept in pgq_ended. Waits for no running job; '
    'for another transaction that has the waiting job locked, or cancels the same job, half a second. Raises PGQ01 if '
    'there is no such job, if it is in a queue that the calling role may not use, or for NULL; PGQ03 for a job that '
    'has ended; 55P03 if that transaction has not ended then.';
