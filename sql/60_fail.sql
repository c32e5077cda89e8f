-- What happens to a job that fails.

-- Exponent and result are clamped, so that nothing overflows: a hundred years are 3155760000 seconds.
CREATE FUNCTION pgq_backoff(attempt integer, base interval DEFAULT '1 minute', cap interval DEFAULT '1 hour') RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN make_interval(secs => greatest(0, least(
        3155760000,
        extract(epoch FROM cap)::double precision,
        extract(epoch FROM base)::double precision * 2::double precision ^ least(greatest(attempt, 1) - 1, 60)
    )));

COMMENT ON FUNCTION pgq_backoff(integer, interval, interval) IS
    'The delay after a failed attempt: base * 2^(attempt-1), at least 0, at most cap and at most 100 years. NULL '
    'counts as no limit for cap, as the longest delay for base, and as the first attempt.';


CREATE FUNCTION _pgq_end(job pgq_running, outcome text, at timestamptz, errors jsonb, result jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_end$
BEGIN
    INSERT INTO pgq_ended (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, errors, context, outcome, result, worker, ended_at
    )
    VALUES (
        job.id, job.queue, job.kind, job.args, job.priority, job.ripe_at, job.attempt, job.max_retries, job.backoff,
        job.backoff_cap, job.dedup, job.dedup_key, job.enqueued_at, errors, job.context, outcome, result,
        job.worker, at
    );
END
$_pgq_end$;

COMMENT ON FUNCTION _pgq_end(pgq_running, text, timestamptz, jsonb, jsonb) IS
    'Put a job that was just removed from pgq_running into pgq_ended.';


-- May wait: for the open transaction of a producer that has inserted a twin.
CREATE FUNCTION _pgq_put_back(job pgq_running, ripe_at timestamptz, attempt integer, errors jsonb) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_put_back$
BEGIN
    INSERT INTO pgq_waiting (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, errors, context
    )
    VALUES (
        job.id, job.queue, job.kind, job.args, job.priority, ripe_at, attempt, job.max_retries, job.backoff,
        job.backoff_cap, job.dedup, job.dedup_key, job.enqueued_at, errors, job.context
    )
    ON CONFLICT (signature) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF ripe_at <= pgq_now() THEN
        PERFORM _pgq_wake(job.queue);
    END IF;
    RETURN true;
END
$_pgq_put_back$;

COMMENT ON FUNCTION _pgq_put_back(pgq_running, timestamptz, integer, jsonb) IS
    'Put a job that was just removed from pgq_running into pgq_waiting; false if it merged into its twin there.';


CREATE FUNCTION _pgq_errors(job pgq_running, at timestamptz, error text) RETURNS jsonb
    LANGUAGE sql
    STABLE
    RETURN (
        jsonb_build_array(jsonb_build_object(
            'attempt', job.attempt, 'at', at, 'worker', job.worker, 'error', left(error, 4000)))
        || job.errors
    ) - 10;

COMMENT ON FUNCTION _pgq_errors(pgq_running, timestamptz, text) IS
    'The errors of a job and this one before them, the newest ten.';


CREATE FUNCTION _pgq_retry_or_bury(job pgq_running, at timestamptz, error text, ripe_at timestamptz) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_retry_or_bury$
DECLARE
    v_errors jsonb := _pgq_errors(job, at, error);
BEGIN
    IF job.attempt > job.max_retries OR ripe_at IS NULL THEN
        PERFORM _pgq_end(job, 'dead', at, v_errors, NULL);
        RETURN 'dead';
    END IF;
    RETURN CASE WHEN _pgq_put_back(job, ripe_at, job.attempt, v_errors) THEN 'retry' ELSE 'merged' END;
END
$_pgq_retry_or_bury$;

COMMENT ON FUNCTION _pgq_retry_or_bury(pgq_running, timestamptz, text, timestamptz) IS
    'Note the error of an attempt that is over, and put the job back, or bury it when its retries are used up or ripe_at '
    'is NULL.';


CREATE FUNCTION pgq_fail(
    id bigint,
    token bigint,
    error text DEFAULT NULL,
    retry_in interval DEFAULT NULL,
    retry boolean DEFAULT true,
    OUT outcome text,
    OUT ripe_at timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_fail$
DECLARE
    v_now timestamptz := pgq_now();
    v_job pgq_running;
    v_jitter double precision := CASE WHEN current_setting('pgq.jitter', true) = '0' THEN 0 ELSE 0.1 END;
BEGIN
    IF retry_in NOT BETWEEN interval '0' AND interval '100 years'
       OR v_now + retry_in NOT BETWEEN v_now AND v_now + interval '100 years' THEN
        RAISE EXCEPTION 'retry_in % is out of range', retry_in
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval from 0 to 100 years, or NULL for the backoff of the job.';
    END IF;

    v_job := _pgq_take(id, token);

    IF retry IS NOT false THEN
        ripe_at := v_now + coalesce(
            retry_in,
            pgq_backoff(v_job.attempt, v_job.backoff, v_job.backoff_cap) * (1 + v_jitter * (2 * random() - 1))
        );
    END IF;
    outcome := _pgq_retry_or_bury(v_job, v_now, error, ripe_at);
    IF outcome <> 'retry' THEN
        ripe_at := NULL;
    END IF;
END
$pgq_fail$;

COMMENT ON FUNCTION pgq_fail(bigint, bigint, text, interval, boolean) IS
    'End an attempt that failed. Answers outcome retry and the time of the next attempt, after retry_in or (NULL) after '
    'the backoff of the job, give or take 10 % unless the setting pgq.jitter is 0; or dead, when the retries are used '
    'up, or at once where retry is false (NULL: true); or merged, when a twin is waiting already. The first 4000 '
    'characters of error are kept (NULL: none). Raises PGQ02 when the lease is lost, and for a NULL id or token; 22023 '
    'for a bad retry_in.';


CREATE FUNCTION pgq_discard(id bigint, token bigint, reason text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_discard$
DECLARE
    v_now timestamptz := pgq_now();
    v_job pgq_running;
BEGIN
    v_job := _pgq_take(id, token);
    PERFORM _pgq_end(v_job, 'cancelled', v_now, _pgq_errors(v_job, v_now, reason), NULL);
END
$pgq_discard$;

COMMENT ON FUNCTION pgq_discard(bigint, bigint, text) IS
    'End a running job that its worker finds not worth doing: it is kept in pgq_ended as cancelled, with the first 4000 '
    'characters of reason (NULL: none) as its newest error. Raises PGQ02 when the lease is lost, and for a NULL id or '
    'token.';
