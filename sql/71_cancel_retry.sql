-- The operator's calls for one job: cancel and retry.

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
    -- Repeat when the job has moved from one table to another between two statements.
    LOOP
        DELETE FROM pgq_waiting AS w
        WHERE w.id = pgq_cancel.id
          AND (v_allowed IS NULL OR w.queue = ANY (v_allowed))
        RETURNING w.* INTO v_waiting;
        IF FOUND THEN
            INSERT INTO pgq_ended (
                id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
                enqueued_at, errors, context, outcome, ended_at, losses
            )
            VALUES (
                v_waiting.id, v_waiting.queue, v_waiting.kind, v_waiting.args, v_waiting.priority, v_waiting.ripe_at,
                v_waiting.attempt, v_waiting.max_retries, v_waiting.backoff, v_waiting.backoff_cap, v_waiting.dedup,
                v_waiting.dedup_key, v_waiting.enqueued_at, v_waiting.errors, v_waiting.context, 'cancelled',
                pgq_now(), v_waiting.losses
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
                      HINT = 'Cancel only a job that is waiting or running.';
        END IF;
    END LOOP;
END
$pgq_cancel$;

COMMENT ON FUNCTION pgq_cancel(bigint) IS
    'End a waiting or running job; it is kept in pgq_ended as cancelled. Returns nothing. The worker of a running job '
    'is not interrupted, but has lost its lease: what it does in a transaction with pgq_complete rolls back. While a '
    'transaction holds the job (pgq_hold), the call waits for its end, and may come too late. Raises PGQ01 if there '
    'is no such job, if it is in a queue that the calling role may not use, or for NULL; PGQ03 for a job that has '
    'ended.';


CREATE FUNCTION pgq_retry(id bigint) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_retry$
DECLARE
    v_now timestamptz := pgq_now();
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
                  HINT = 'Retry only a dead or cancelled job; to make a waiting one ripe at once, enqueue it again '
                         'with on_duplicate => ''soonest''.';
    END IF;

    -- One pass, unless a worker claims the twin between the two statements, as in _pgq_requeue.
    LOOP
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, errors, context, losses
        )
        VALUES (
            v_job.id, v_job.queue, v_job.kind, v_job.args, v_job.priority, v_now, 0, v_job.max_retries, v_job.backoff,
            v_job.backoff_cap, v_job.dedup, v_job.dedup_key, v_job.enqueued_at, v_job.errors, v_job.context,
            v_job.losses
        )
        ON CONFLICT (signature) DO NOTHING;
        IF FOUND THEN
            PERFORM _pgq_wake(v_job.queue);
            RETURN 'retry';
        END IF;

        IF _pgq_merge(
            _pgq_signature(v_job.queue, v_job.kind, v_job.args, v_job.dedup_key), v_now, 0, v_job.errors,
            v_job.losses
        ) THEN
            RETURN 'merged';
        END IF;
    END LOOP;
END
$pgq_retry$;

COMMENT ON FUNCTION pgq_retry(bigint) IS
    'Put a dead or cancelled job back to waiting: ripe now, its attempts counted from the start, its errors kept. '
    'Returns retry, or merged if a twin is waiting: the twin takes over the errors, and keeps its time and its '
    'attempts. Raises PGQ01 if there is no such job, if it is in a queue that '
    'the calling role may not use, or for NULL; PGQ03 for a job in another state.';
