-- Let a job wait for a signal.

CREATE FUNCTION pgq_wait_signal(
    id bigint,
    token bigint,
    name text,
    timeout interval DEFAULT NULL,
    OUT outcome text,
    OUT payload jsonb,
    OUT until timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_wait_signal$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_is_sure boolean;
    v_job pgq_running;
BEGIN
    PERFORM _pgq_check_signal(name);
    IF NOT _pgq_is_in_range(timeout, v_now, '100 years') THEN
        RAISE EXCEPTION 'timeout % is out of range', timeout
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval from 0 to 100 years, or NULL to wait for as long as it takes.';
    END IF;
    PERFORM pgq_hold(id, token);
    v_is_sure := _pgq_enter_wait(id);

    SELECT s.payload INTO pgq_wait_signal.payload
    FROM pgq_job_signal AS s
    WHERE s.id = pgq_wait_signal.id AND s.name = pgq_wait_signal.name;
    IF FOUND THEN
        DELETE FROM pgq_signal_wait AS w WHERE w.id = pgq_wait_signal.id AND w.name = pgq_wait_signal.name;
        outcome := 'received';
        RETURN;
    END IF;
    SELECT w.until INTO pgq_wait_signal.until
    FROM pgq_signal_wait AS w
    WHERE w.id = pgq_wait_signal.id AND w.name = pgq_wait_signal.name;
    IF until <= v_now OR timeout = interval '0' THEN
        outcome := 'timeout';
        RETURN;
    END IF;
    IF until IS NULL THEN
        until := v_now + coalesce(timeout, '100 years');
        INSERT INTO pgq_signal_wait (id, name, until)
        VALUES (pgq_wait_signal.id, pgq_wait_signal.name, pgq_wait_signal.until);
    END IF;

    v_job := _pgq_take(id, token);
    IF coalesce(v_job.newest_error, 0) = 0 THEN
        v_job.newest_error := -1;
    END IF;
    outcome := _pgq_requeue(
        v_job, CASE WHEN v_is_sure THEN until ELSE least(until, v_now + interval '1 second') END, v_job.attempt - 1);
END
$pgq_wait_signal$;

COMMENT ON FUNCTION pgq_wait_signal(bigint, bigint, text, interval) IS
    'Let a running job wait for a signal. Returns received, and its payload, if the job has got it. Otherwise the job '
    'is put back until it gets it, or until the timeout is over, whichever is first; the attempt does not count. Then '
    'outcome is waiting, or merged if a twin was waiting, or cancelled if pgq_cancel has requested that; until is when '
    'the timeout is over. The worker lets go of the job. In its next attempt it calls this function again, which then '
    'returns received, or timeout if that is over. The timeout begins with the first call for the job and this name; '
    'later ones change nothing. NULL for timeout waits as long as it takes; with 0 the call only reads the signal, and '
    'returns timeout if there is none. Raises PGQ02 if the job is not held under this token, or for a NULL id or '
    'token; 22004 for a NULL name, 22023 for a bad one or a timeout out of range.';
