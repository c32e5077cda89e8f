-- What has become of a job.

CREATE FUNCTION pgq_result(
    id bigint,
    OUT state text,
    OUT result jsonb,
    OUT error text,
    OUT ended_at timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_result$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('producer');
    v_as_admin text[];
BEGIN
    IF (id BETWEEN 1 AND pg_sequence_last_value('pgq_job_id')) IS NOT TRUE THEN
        RAISE EXCEPTION 'there has been no job %', coalesce(id::text, 'null')
            USING ERRCODE = 'PGQ01',
                  HINT = 'Pass the id that an enqueue has returned.';
    END IF;
    IF v_allowed IS NOT NULL THEN
        v_as_admin := _pgq_allowed_queues('admin');
        v_allowed := CASE WHEN v_as_admin IS NOT NULL THEN v_allowed || v_as_admin END;
    END IF;

    -- One statement, so that a job that moves meanwhile is seen on one side or the other. The running jobs come last,
    -- because they are searched batch by batch.
    SELECT j.state, j.result, e.error, j.ended_at
    INTO state, result, error, ended_at
    FROM (
        SELECT 'waiting' AS state, w.queue, w.newest_error, NULL::jsonb AS result, NULL::timestamptz AS ended_at
        FROM pgq_waiting AS w
        WHERE w.id = pgq_result.id
        UNION ALL
        SELECT 'blocked', b.queue, b.newest_error, NULL, NULL
        FROM pgq_blocked AS b
        WHERE b.id = pgq_result.id
        UNION ALL
        SELECT d.outcome, d.queue, d.newest_error, d.result, d.ended_at
        FROM pgq_ended AS d
        WHERE d.id = pgq_result.id
        UNION ALL
        SELECT 'running', r.queue, r.newest_error, NULL, NULL
        FROM _pgq_running AS r
        WHERE r.id = pgq_result.id
        LIMIT 1
    ) AS j
    LEFT JOIN pgq_error AS e ON e.id = pgq_result.id AND e.number = j.newest_error
    WHERE v_allowed IS NULL OR j.queue = ANY (v_allowed);
    IF NOT FOUND THEN
        state := 'gone';
    END IF;
END
$pgq_result$;

COMMENT ON FUNCTION pgq_result(bigint) IS
    'Return what has become of a job: its state, which is waiting, blocked, running, done, dead, cancelled or gone; '
    'the result that was given to pgq_complete, NULL unless done; the newest of its errors or notes, NULL if there is '
    'none; and when it ended, NULL unless done, dead or cancelled. A job that is gone has left nothing: it was '
    'completed without a result, has merged with a twin, or was purged; its enqueue was rolled back or is not '
    'committed yet; or it is in a queue that the calling role may use neither as producer nor as admin. Waits for no '
    'lock. Raises PGQ01 for an id that no enqueue has returned yet, and for NULL.';
