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
    IF NOT _pgq_is_in_range(retry_in, v_now, '100 years') THEN
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
    outcome := _pgq_record_failure(v_job, v_now, error, retry IS NOT false, ripe_at);
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


CREATE FUNCTION pgq_cancel_claimed(id bigint, token bigint, reason text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_cancel_claimed$
DECLARE
    v_now timestamptz := pgq_now();
    v_job pgq_running;
BEGIN
    v_job := _pgq_take(id, token);
    PERFORM _pgq_end(v_job, 'cancelled', v_now, _pgq_errors_with(v_job, v_now, reason), NULL);
END
$pgq_cancel_claimed$;

COMMENT ON FUNCTION pgq_cancel_claimed(bigint, bigint, text) IS
    'End a running job that its worker finds not worth doing: it is kept in pgq_ended as cancelled, with the first 4000 '
    'characters of reason (NULL: none) as its newest error. Raises PGQ02 when the lease is lost, and for a NULL id or '
    'token.';
