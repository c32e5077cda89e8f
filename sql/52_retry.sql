-- Fail or cancel a running job, and the delay before the next attempt.

-- Exponent and result are clamped, so that nothing overflows: 3155760000 seconds are a hundred years.
CREATE FUNCTION pgq_backoff(
    attempt bigint,
    base interval DEFAULT '1 minute',
    cap interval DEFAULT '1 hour'
) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN make_interval(secs => greatest(0, least(
        3155760000,
        extract(epoch FROM cap)::double precision,
        extract(epoch FROM base)::double precision * 2::double precision ^ least(greatest(attempt, 1) - 1, 60)
    )));

COMMENT ON FUNCTION pgq_backoff(bigint, interval, interval) IS
    'Return the delay after a failed attempt: base * 2^(attempt-1), at least 0, at most cap and at most 100 years. '
    'NULL for attempt means the first one, NULL for base the longest delay, NULL for cap no limit but the 100 years.';


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
    -- The handler has ended the attempt, and the process lives.
    v_job.losses := NULL;

    IF retry IS NOT false THEN
        ripe_at := v_now + coalesce(
            retry_in,
            pgq_backoff(v_job.attempt, coalesce(v_job.backoff, '1 minute'), coalesce(v_job.backoff_cap, '1 hour'))
            * (1 + v_jitter * (2 * random() - 1))
        );
    END IF;
    outcome := _pgq_record_failure(v_job, v_now, error, retry IS NOT false, ripe_at);
    IF outcome <> 'retry' THEN
        ripe_at := NULL;
    END IF;
END
$pgq_fail$;

COMMENT ON FUNCTION pgq_fail(bigint, bigint, text, interval, boolean) IS
    'End an attempt that has failed, and keep the first 4000 characters of error with the job. Returns outcome and '
    'ripe_at. outcome is cancelled if pgq_cancel has requested that, dead if the retries are used up or retry is '
    'false, merged if a twin is waiting, and retry otherwise. A twin that the job merges into keeps its settings and '
    'its priority, but takes over the attempts if the job has had more, the errors, and the time of the next attempt '
    'if that is later. The job is not a suspect any more (see pgq_claim). ripe_at is the time from which the job is '
    'ripe again, now + retry_in; NULL unless outcome is retry. NULL for retry_in means the backoff of the job, varied '
    'by up to 10 % either way unless the setting pgq.jitter is 0; NULL for retry means true, NULL for error none. '
    'Raises PGQ02 if the job is not held under this token, or for a NULL id or token; 22023 for a retry_in out of '
    'range.';


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
    PERFORM _pgq_take_cancel_request(id);
    v_job.newest_error := _pgq_add_error(v_job, v_now, reason);
    PERFORM _pgq_end(v_job, 'cancelled', v_now, NULL);
END
$pgq_cancel_claimed$;

COMMENT ON FUNCTION pgq_cancel_claimed(bigint, bigint, text) IS
    'End a running job that its worker gives up, on purpose or because pgq_cancel has requested it; it is kept in '
    'pgq_ended as cancelled, with the first 4000 characters of reason as its newest error. Returns nothing. NULL for '
    'reason means none. Raises PGQ02 if the job is not held under this token, or for a NULL id or token.';
