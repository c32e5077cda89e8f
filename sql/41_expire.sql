-- What happens to a job whose worker let the lease run out.

-- Called from within claims, so bounded in number and in waiting. 50 keeps the subtransactions, one a job, below the
-- 64 that a backend can show to others without a look-up on disk.
CREATE FUNCTION _pgq_expire(at timestamptz) RETURNS integer
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '100ms'
AS $_pgq_expire$
DECLARE
    v_job pgq_running;
    v_count integer := 0;
BEGIN
    FOR v_job IN
        SELECT r.*
        FROM pgq_running AS r
        WHERE r.lease_until < at
        ORDER BY r.lease_until
        LIMIT 50
        FOR UPDATE SKIP LOCKED
    LOOP
        v_count := v_count + 1;
        BEGIN
            DELETE FROM pgq_running AS r WHERE r.id = v_job.id;
            -- A crashed worker's jobs do not wait; one that loses worker after worker slows down.
            PERFORM _pgq_retry_or_bury(
                v_job,
                at,
                CASE WHEN v_job.lease_until > v_job.claimed_at THEN 'the lease ran out' ELSE 'the worker is gone' END,
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
    RETURN v_count;
END
$_pgq_expire$;

COMMENT ON FUNCTION _pgq_expire(timestamptz) IS
    'Return or bury up to 50 jobs whose lease ran out before the given time; answers how many there were.';


-- The entries of jobs that are gone pile up in the index of the leases as in that of the claim, so the search is
-- rationed in the same way: once a second in each session, as if it took a twentieth of that, but when the walk is long
-- once in all of them together.
CREATE FUNCTION _pgq_expire_sometimes(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_expire_sometimes$
DECLARE
    v_is_new boolean := coalesce(current_setting(_pgq_head_setting(''), true), '') = '';
    v_head pgq_head := _pgq_recall_head('', at);
    v_begun_at timestamptz;
    v_steps bigint;
    v_count integer;
BEGIN
    IF v_head.due > at THEN
        RETURN;
    END IF;

    v_begun_at := clock_timestamp();
    v_steps := _pgq_steps('pgq_running_lease');
    -- After a failover all workers look gone to the first session that comes, until they come, too.
    IF NOT v_is_new THEN
        PERFORM _pgq_sweep(at);
    END IF;
    v_count := _pgq_expire(at);
    v_head.pause := _pgq_pause(greatest(clock_timestamp() - v_begun_at, interval '50 milliseconds'));
    v_head.due := at + v_head.pause;
    -- As long as each search finds its fill, it is worth what it costs.
    IF v_count < 50 THEN
        IF _pgq_is_long(_pgq_steps('pgq_running_lease') - v_steps - v_count, 1) THEN
            PERFORM _pgq_share_head(v_head);
        END IF;
        PERFORM _pgq_keep_head(v_head);
    END IF;
END
$_pgq_expire_sometimes$;

COMMENT ON FUNCTION _pgq_expire_sometimes(timestamptz) IS
    'Call _pgq_expire if that is due in this session, and unless it is for the first time, _pgq_sweep before it.';
