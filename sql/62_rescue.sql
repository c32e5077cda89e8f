-- Rescue jobs whose lease has ended. The sweep has ended those of workers that are gone.

-- Claims call it, so the number of jobs and the wait for locks are bounded. Each job takes a subtransaction; 50 of them
-- stay below the 64 that a backend can show to others without a look-up on disk.
CREATE FUNCTION _pgq_expire_leases(at timestamptz) RETURNS integer
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '100ms'
AS $_pgq_expire_leases$
DECLARE
    c_uncounted CONSTANT integer := 5;
    v_ids bigint[];
    v_tokens bigint[];
    v_job pgq_running;
    v_count integer := 0;
BEGIN
    -- Batches are unpacked one by one, until there are enough jobs.
    LOOP
        v_ids := ARRAY(
            SELECT r.id
            FROM pgq_running AS r
            WHERE r.lease_until < at
            ORDER BY r.lease_until
            LIMIT 50
            FOR UPDATE SKIP LOCKED
        );
        EXIT WHEN cardinality(v_ids) = 50;
        v_tokens := ARRAY(
            SELECT b.token
            FROM pgq_running_batch AS b
            WHERE b.lease_until < at
            ORDER BY b.lease_until
            LIMIT 1
            FOR UPDATE SKIP LOCKED
        );
        EXIT WHEN v_tokens = '{}';
        PERFORM _pgq_unpack(v_tokens);
    END LOOP;
    IF v_ids = '{}' THEN
        RETURN 0;
    END IF;
    PERFORM _pgq_mark_lost(v_ids);

    FOR v_job IN SELECT r.* FROM pgq_running AS r WHERE r.id = ANY (v_ids) ORDER BY r.lease_until LOOP
        v_count := v_count + 1;
        BEGIN
            DELETE FROM pgq_running AS r WHERE r.id = v_job.id;
            IF v_job.losses BETWEEN -c_uncounted AND -1 THEN
                -- Ripe from now on, and not from before: the head of its lane may have passed its old place.
                PERFORM _pgq_requeue(v_job, at, v_job.attempt - 1);
            ELSE
                IF v_job.losses < 0 THEN
                    v_job.losses := c_uncounted;
                END IF;
                -- The jobs of a crashed worker are ripe at once, but a job that loses worker after worker is delayed
                -- more and more.
                PERFORM _pgq_record_failure(
                    v_job,
                    at,
                    CASE WHEN v_job.lease_until > v_job.claimed_at THEN 'the lease ran out' ELSE 'the worker is gone'
                    END,
                    true,
                    CASE WHEN v_job.attempt = 1 THEN at
                         ELSE at + pgq_backoff(
                             v_job.attempt - 1, coalesce(v_job.backoff, '1 minute'),
                             coalesce(v_job.backoff_cap, '1 hour'))
                    END
                );
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            -- The open transaction of a producer holds a twin, so it is not known yet whether the two merge. Postpone
            -- the job, so that it does not stand before other expired ones.
            UPDATE pgq_running AS r SET lease_until = at + interval '1 second' WHERE r.id = v_job.id;
        END;
    END LOOP;
    RETURN v_count;
END
$_pgq_expire_leases$;

COMMENT ON FUNCTION _pgq_expire_leases(timestamptz) IS
    'Put back, or end as dead or cancelled, up to 50 jobs whose lease ended before a time. One that was lost together '
    'with others goes back without its attempt counted, five times at most. Returns how many jobs it has taken back.';
