-- The operator's verbs.

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
                  HINT = 'It may be done: a job that is completed without a result leaves nothing behind.';
    END IF;
    RETURN v_state;
END
$_pgq_job_state$;

COMMENT ON FUNCTION _pgq_job_state(bigint) IS
    'The state of a job as in the view pgq_jobs; raises PGQ01 when there is no such job, or only in a queue that the '
    'caller may not use.';


CREATE FUNCTION pgq_cancel(id bigint) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_cancel$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_waiting pgq_waiting;
    v_running pgq_running;
    v_state text;
BEGIN
    -- Round again when the job has moved from one table to another between two statements.
    LOOP
        DELETE FROM pgq_waiting AS w
        WHERE w.id = pgq_cancel.id
          AND (v_allowed IS NULL OR w.queue = ANY (v_allowed))
        RETURNING w.* INTO v_waiting;
        IF FOUND THEN
            INSERT INTO pgq_ended (
                id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
                enqueued_at, errors, context, outcome, ended_at
            )
            VALUES (
                v_waiting.id, v_waiting.queue, v_waiting.kind, v_waiting.args, v_waiting.priority, v_waiting.ripe_at,
                v_waiting.attempt, v_waiting.max_retries, v_waiting.backoff, v_waiting.backoff_cap, v_waiting.dedup,
                v_waiting.dedup_key, v_waiting.enqueued_at, v_waiting.errors, v_waiting.context, 'cancelled',
                pgq_now()
            );
            RETURN;
        END IF;

        DELETE FROM pgq_running AS r
        WHERE r.id = pgq_cancel.id
          AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
        RETURNING r.* INTO v_running;
        IF FOUND THEN
            PERFORM _pgq_end(v_running, 'cancelled', pgq_now(), v_running.errors, NULL);
            RETURN;
        END IF;

        v_state := _pgq_job_state(id);
        IF v_state NOT IN ('waiting', 'running') THEN
            RAISE EXCEPTION 'job % is % and cannot be cancelled', id, v_state
                USING ERRCODE = 'PGQ03',
                      HINT = 'Only a job that is waiting or running can be cancelled.';
        END IF;
    END LOOP;
END
$pgq_cancel$;

COMMENT ON FUNCTION pgq_cancel(bigint) IS
    'End a waiting or running job; it is kept in pgq_ended as cancelled. The worker of a running one is not '
    'interrupted, but has lost its lease: what it does in a transaction with pgq_complete rolls back. While a '
    'transaction holds the job (pgq_hold) the call waits for its end, and may come too late. Raises PGQ01 for an '
    'unknown id, NULL, or one in a queue that your role may not use, PGQ03 for a job that has ended already.';


CREATE FUNCTION pgq_retry(id bigint) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_retry$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_job pgq_ended;
BEGIN
    DELETE FROM pgq_ended AS e
    WHERE e.id = pgq_retry.id
      AND (v_allowed IS NULL OR e.queue = ANY (v_allowed))
      AND e.outcome IN ('dead', 'cancelled')
    RETURNING e.* INTO v_job;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % is % and cannot be retried', id, _pgq_job_state(id)
            USING ERRCODE = 'PGQ03',
                  HINT = 'Only a dead or cancelled job can be retried; to have a waiting one run at once, enqueue it '
                         'again with on_duplicate => ''soonest''.';
    END IF;

    INSERT INTO pgq_waiting (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, errors, context
    )
    VALUES (
        v_job.id, v_job.queue, v_job.kind, v_job.args, v_job.priority, pgq_now(), 0, v_job.max_retries, v_job.backoff,
        v_job.backoff_cap, v_job.dedup, v_job.dedup_key, v_job.enqueued_at, v_job.errors, v_job.context
    )
    ON CONFLICT (signature) DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'merged';
    END IF;
    PERFORM _pgq_wake(v_job.queue);
    RETURN 'retry';
END
$pgq_retry$;

COMMENT ON FUNCTION pgq_retry(bigint) IS
    'Bring a dead or cancelled job back: ripe now, with all its retries before it, its errors kept. Answers retry, or '
    'merged when a twin is waiting already. Raises PGQ01 for an unknown id, NULL, or one in a queue that your '
    'role may not use, PGQ03 for a job in another state.';
