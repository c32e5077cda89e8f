-- Put back a job whose worker has no handler for its kind.
--
-- In a rolling deployment, or where two services share a queue, another worker has the handler, or will have it. So the
-- job neither fails nor uses up an attempt. It waits for half a minute, then twice as long each time, up to ten
-- minutes. How often it was declined is kept with the job, in a note among its errors: so the delay grows whichever
-- worker declines it, and also after a restart, and pgq_jobs shows what the job waits for.

CREATE FUNCTION pgq_decline(id bigint, token bigint, OUT outcome text, OUT ripe_at timestamptz)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_decline$
DECLARE
    v_now timestamptz := pgq_now();
    v_jitter double precision := CASE WHEN current_setting('pgq.jitter', true) = '0' THEN 0 ELSE 0.1 END;
    v_job pgq_running;
    v_declined integer;
BEGIN
    v_job := _pgq_take(id, token);

    -- A new note takes the place of the last one, unless the job has failed since.
    UPDATE pgq_error AS e
    SET attempt = v_job.attempt, at = v_now, worker = v_job.worker, declined = e.declined + 1
    WHERE e.id = v_job.id
      AND e.number = v_job.newest_error
      AND e.declined IS NOT NULL
    RETURNING e.declined INTO v_declined;
    IF NOT FOUND THEN
        v_declined := 1;
        v_job.newest_error := _pgq_add_error(
            v_job, v_now, format('the worker has no handler for kind "%s"', v_job.kind), v_declined);
    END IF;

    ripe_at := v_now + pgq_backoff(v_declined, '30 seconds', '10 minutes') * (1 + v_jitter * (2 * random() - 1));
    outcome := _pgq_requeue(v_job, ripe_at, v_job.attempt - 1);
    outcome := CASE outcome WHEN 'waiting' THEN 'declined' ELSE outcome END;
    IF outcome <> 'declined' THEN
        ripe_at := NULL;
    END IF;
END
$pgq_decline$;

COMMENT ON FUNCTION pgq_decline(bigint, bigint) IS
    'Put a running job back because its worker has no handler for its kind; the attempt does not count. The job waits '
    'for 30 seconds, and twice as long each time that it is declined again, up to 10 minutes, varied by up to 10 % '
    'either way unless the setting pgq.jitter is 0. A note among its errors says so, and counts how often in '
    '"declined". Returns outcome and ripe_at. outcome is cancelled if pgq_cancel has requested that, merged if a twin '
    'is waiting, and declined otherwise. A twin that the job merges into waits as long, at least, and takes over '
    'earlier attempts and errors. ripe_at is NULL unless outcome is declined. Raises PGQ02 if the job is not held '
    'under this token, or for a NULL id or token.';
