-- Rescue jobs whose lease has ended or whose worker is gone.

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
            -- The jobs of a crashed worker are ripe at once, but a job that loses worker after worker is delayed more
            -- and more.
            PERFORM _pgq_record_failure(
                v_job,
                at,
                CASE WHEN v_job.lease_until > v_job.claimed_at THEN 'the lease ran out' ELSE 'the worker is gone' END,
                true,
                CASE WHEN v_job.attempt = 1 THEN at
                     ELSE at + pgq_backoff(v_job.attempt - 1, v_job.backoff, v_job.backoff_cap)
                END
            );
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
    'Put back, or end as dead, up to 50 jobs whose lease ended before a time. Returns how many.';


-- Claims call it, so it waits for no lock. Trying the lock of a worker is cheap, and succeeds if the worker is gone. It
-- also succeeds in the session of the worker itself, so the list of all locks is read then, and only then.
--
-- A worker is kept for ten seconds after it was found gone: a claim may commit after the worker has died, and a
-- statement of the worker may go on and keep jobs locked. Right after a start of the server no worker is present, so
-- workers have five seconds to reconnect.
CREATE FUNCTION _pgq_sweep_workers(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_sweep_workers$
DECLARE
    c_class CONSTANT integer := 'pgq_worker_session'::regclass::oid::integer;
    v_worker pgq_worker_session;
BEGIN
    -- A start that lies ahead was before the clock was set back.
    IF clock_timestamp() BETWEEN pg_postmaster_start_time() AND pg_postmaster_start_time() + interval '5 seconds' THEN
        RETURN;
    END IF;

    FOR v_worker IN
        SELECT w.*
        FROM pgq_worker_session AS w
        WHERE CASE WHEN pg_try_advisory_lock_shared(c_class, w.number) THEN
                  pg_advisory_unlock_shared(c_class, w.number)
                  AND NOT EXISTS (SELECT FROM _pgq_presence AS p WHERE p.number = w.number)
              END
        FOR UPDATE SKIP LOCKED
    LOOP
        -- A lease that ends by claimed_at tells _pgq_expire_leases that the worker is gone. claimed_at lies ahead after
        -- the clock was set back. Skip locked jobs: a live transaction still has them.
        UPDATE pgq_running AS r
        SET lease_until = least(r.claimed_at, at - interval '1 microsecond')
        WHERE r.ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM pgq_running AS o
            WHERE o.worker = v_worker.name
              AND (v_worker.allowed_queues IS NULL OR o.queue = ANY (v_worker.allowed_queues))
              AND o.lease_until > o.claimed_at
            FOR UPDATE SKIP LOCKED));

        IF v_worker.gone_at IS NULL OR v_worker.gone_at > at THEN
            UPDATE pgq_worker_session AS w SET gone_at = at WHERE w.number = v_worker.number;
        ELSIF v_worker.gone_at < at - interval '10 seconds'
              AND NOT EXISTS (SELECT FROM pgq_running AS r WHERE r.worker = v_worker.name) THEN
            DELETE FROM pgq_worker_session AS w WHERE w.number = v_worker.number;
        END IF;
    END LOOP;
END
$_pgq_sweep_workers$;

COMMENT ON FUNCTION _pgq_sweep_workers(timestamptz) IS
    'End the leases of registered workers whose sessions are gone, and delete those workers some time later. Returns '
    'nothing.';


-- The entries of jobs that are gone pile up in the index of the leases as in that of the claim, so the search is
-- rationed in the same way, by _pgq_rescan_delay. A search counts for at least 50 ms, so each session makes one a
-- second at most. When the walk is long, all sessions together make one in that time.
CREATE FUNCTION _pgq_maintain(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_maintain$
DECLARE
    v_is_new boolean := coalesce(current_setting(_pgq_head_setting(''), true), '') = '';
    v_head pgq_head := _pgq_load_head('', at);
    v_begun_at timestamptz;
    v_read bigint;
    v_count integer;
BEGIN
    IF v_is_new THEN
        PERFORM _pgq_skip_lost_tokens(at);
    END IF;
    IF v_head.due > at THEN
        RETURN;
    END IF;

    v_begun_at := clock_timestamp();
    v_read := _pgq_entries_read('pgq_running_lease');
    -- Right after a failover no worker has reconnected and all look gone, so the first search of a session leaves them
    -- out.
    IF NOT v_is_new THEN
        PERFORM _pgq_sweep_workers(at);
    END IF;
    v_count := _pgq_expire_leases(at);
    v_head.rescan_delay := _pgq_rescan_delay(greatest(clock_timestamp() - v_begun_at, interval '50 milliseconds'));
    v_head.due := at + v_head.rescan_delay;
    -- If this search has found as many jobs as it may take, the next claim of the session searches again.
    IF v_count < 50 THEN
        IF _pgq_is_long_scan(_pgq_entries_read('pgq_running_lease') - v_read - v_count, 1) THEN
            PERFORM _pgq_share_head(v_head);
        END IF;
        PERFORM _pgq_save_head(v_head);
    END IF;
END
$_pgq_maintain$;

COMMENT ON FUNCTION _pgq_maintain(timestamptz) IS
    'If the search for expired leases is due in this session, call _pgq_sweep_workers, except in the session''s first '
    'search, and _pgq_expire_leases. The first call of a session calls _pgq_skip_lost_tokens, too. Returns nothing.';
