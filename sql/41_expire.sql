-- What happens to a job whose worker let the lease run out.

-- Called from within claims, so bounded in number and in waiting. 50 keeps the subtransactions, one a job, below the
-- 64 that a backend can show to others without a look-up on disk.
CREATE FUNCTION _pgq_expire(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET lock_timeout = '100ms'
AS $_pgq_expire$
DECLARE
    v_job pgq_running;
BEGIN
    FOR v_job IN
        SELECT r.*
        FROM pgq_running AS r
        WHERE r.lease_until < at
        ORDER BY r.lease_until
        LIMIT 50
        FOR UPDATE SKIP LOCKED
    LOOP
        BEGIN
            DELETE FROM pgq_running AS r WHERE r.id = v_job.id;
            -- A crashed worker's jobs do not wait; one that loses worker after worker slows down.
            PERFORM _pgq_retry_or_bury(
                v_job,
                at,
                'the lease ran out',
                CASE WHEN v_job.attempt = 1 THEN at
                     ELSE at + pgq_backoff(v_job.attempt - 1, v_job.backoff, v_job.backoff_cap)
                END
            );
        EXCEPTION WHEN lock_not_available THEN
            -- A producer's open transaction holds a twin: whether the two merge is not known yet. Out of the way of
            -- the other expired jobs until it is.
            UPDATE pgq_running AS r SET lease_until = at + interval '1 second' WHERE r.id = v_job.id;
        END;
    END LOOP;
END
$_pgq_expire$;

COMMENT ON FUNCTION _pgq_expire(timestamptz) IS
    'Return or bury up to 50 jobs whose lease ran out before the given time.';
