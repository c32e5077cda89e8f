-- The ways of a job back into pgq_waiting, where it may merge into a twin, and what a failure leads to.

CREATE FUNCTION _pgq_merge_errors(errors jsonb, others jsonb) RETURNS jsonb
    LANGUAGE sql
    STABLE
    RETURN (
        SELECT coalesce(jsonb_agg(newest.error ORDER BY newest.at DESC, newest.n), '[]')
        FROM (
            SELECT e.error, (e.error ->> 'at')::timestamptz AS at, e.n
            FROM jsonb_array_elements(errors || others) WITH ORDINALITY AS e (error, n)
            ORDER BY at DESC, e.n
            LIMIT 10
        ) AS newest
    );

COMMENT ON FUNCTION _pgq_merge_errors(jsonb, jsonb) IS
    'Return the newest ten errors of two jobs, newest first.';


-- The twin is a later event, so its settings and its priority decide. What the other job has learned stays: without
-- its attempts, a job that fails each time while a twin is enqueued would never be dead.
--
-- A job that has nothing to tell leaves the twin unlocked. The update changes no key column, so it does not wait for
-- producers that have only locked the twin (FOR KEY SHARE), and their locks outlive it.
CREATE FUNCTION _pgq_merge(
    signature uuid,
    ripe_at timestamptz,
    attempt integer,
    errors jsonb,
    losses smallint
) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_merge$
DECLARE
    v_delayed boolean := ripe_at > pgq_now();
BEGIN
    IF attempt = 0 AND errors = '[]' AND losses IS NULL AND NOT v_delayed THEN
        RETURN true;
    END IF;

    UPDATE pgq_waiting AS w
    SET attempt = greatest(w.attempt, _pgq_merge.attempt),
        errors = _pgq_merge_errors(_pgq_merge.errors, w.errors),
        ripe_at = CASE WHEN v_delayed THEN greatest(w.ripe_at, _pgq_merge.ripe_at) ELSE w.ripe_at END,
        losses = greatest(w.losses, _pgq_merge.losses)
    WHERE w.signature = _pgq_merge.signature;
    RETURN FOUND;
END
$_pgq_merge$;

COMMENT ON FUNCTION _pgq_merge(uuid, timestamptz, integer, jsonb, smallint) IS
    'Merge a job into its waiting twin: the twin keeps the larger number of attempts and of losses, the newest ten '
    'errors of both, and the later ripe_at, unless that of the job has passed. Returns true, or false if no twin is '
    'waiting any more.';


-- Every way back to waiting goes through here, so no request to cancel the job is missed. May wait for the open
-- transaction of a producer that has inserted or updated a twin.
CREATE FUNCTION _pgq_requeue(
    job pgq_running,
    ripe_at timestamptz,
    attempt integer,
    errors jsonb,
    merge boolean DEFAULT true
) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_requeue$
BEGIN
    IF _pgq_take_cancel_request(job.id) THEN
        job.attempt := attempt;
        PERFORM _pgq_end(job, 'cancelled', pgq_now(), errors, NULL);
        RETURN 'cancelled';
    END IF;

    -- One pass, unless a worker claims the twin between the two statements: then the job waits after all.
    LOOP
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, errors, context, losses
        )
        VALUES (
            job.id, job.queue, job.kind, job.args, job.priority, ripe_at, attempt, job.max_retries, job.backoff,
            job.backoff_cap, job.dedup, job.dedup_key, job.enqueued_at, errors, job.context, abs(job.losses)
        )
        ON CONFLICT (signature) DO NOTHING;
        IF FOUND THEN
            IF _pgq_is_soon(ripe_at, pgq_now()) THEN
                PERFORM _pgq_wake(job.queue, (ripe_at <= pgq_now())::integer);
            END IF;
            RETURN 'waiting';
        END IF;

        IF NOT merge THEN
            RETURN NULL;
        END IF;
        IF _pgq_merge(
            _pgq_signature(job.queue, job.kind, job.args, job.dedup_key), ripe_at, attempt, errors, abs(job.losses)
        ) THEN
            RETURN 'merged';
        END IF;
    END LOOP;
END
$_pgq_requeue$;

COMMENT ON FUNCTION _pgq_requeue(pgq_running, timestamptz, integer, jsonb, boolean) IS
    'Put a job that was just removed from pgq_running back into pgq_waiting, and wake a worker if it is ripe. Returns '
    'waiting; merged if it has merged with a twin that was waiting; or cancelled if pgq_cancel has requested that: it '
    'has ended. With merge false, returns NULL instead of merging: the job is in no table, and the caller must call '
    'again.';


CREATE FUNCTION _pgq_prepend_error(job pgq_running, at timestamptz, error text) RETURNS jsonb
    LANGUAGE sql
    STABLE
    RETURN (
        jsonb_build_array(jsonb_build_object(
            'attempt', job.attempt, 'at', at, 'worker', job.worker, 'error', left(error, 4000)))
        || job.errors
    ) - 10;

COMMENT ON FUNCTION _pgq_prepend_error(pgq_running, timestamptz, text) IS
    'Return the newest ten errors of a job, beginning with a new one.';


CREATE FUNCTION _pgq_record_failure(
    job pgq_running,
    at timestamptz,
    error text,
    retry boolean,
    ripe_at timestamptz
) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_record_failure$
DECLARE
    v_errors jsonb := _pgq_prepend_error(job, at, error);
    v_outcome text;
BEGIN
    IF job.attempt > job.max_retries OR NOT retry THEN
        v_outcome := CASE WHEN _pgq_take_cancel_request(job.id) THEN 'cancelled' ELSE 'dead' END;
        PERFORM _pgq_end(job, v_outcome, at, v_errors, NULL);
    ELSE
        v_outcome := _pgq_requeue(job, ripe_at, job.attempt, v_errors);
    END IF;
    RETURN CASE v_outcome WHEN 'waiting' THEN 'retry' ELSE v_outcome END;
END
$_pgq_record_failure$;

COMMENT ON FUNCTION _pgq_record_failure(pgq_running, timestamptz, text, boolean, timestamptz) IS
    'Record the error of a failed attempt. Then put the job back, ripe at ripe_at, or end it as dead if its retries '
    'are used up or retry is false, and as cancelled if pgq_cancel has requested that. Returns retry, merged, dead or '
    'cancelled.';
