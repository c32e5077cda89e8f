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
    c_uncounted CONSTANT integer := 5;
    v_ids bigint[];
    v_job pgq_running;
    v_count integer := 0;
BEGIN
    v_ids := ARRAY(
        SELECT r.id
        FROM pgq_running AS r
        WHERE r.lease_until < at
        ORDER BY r.lease_until
        LIMIT 50
        FOR UPDATE SKIP LOCKED
    );
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
                PERFORM _pgq_requeue(v_job, at, v_job.attempt - 1, v_job.errors);
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
                         ELSE at + pgq_backoff(v_job.attempt - 1, v_job.backoff, v_job.backoff_cap)
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


-- Right after a start of the server, or a promotion, no worker is present, so workers have five seconds to reconnect.
-- A promotion starts no server, but leaves pgq_head empty, as a crash does, and the first claim writes the row of the
-- queue U+001F. A time that lies further ahead was kept before the clock was set back.
CREATE FUNCTION _pgq_workers_reconnect() RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_workers_reconnect$
DECLARE
    c_time CONSTANT interval := '5 seconds';
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN v_now BETWEEN pg_postmaster_start_time() AND pg_postmaster_start_time() + c_time
        OR EXISTS (
            SELECT FROM pgq_head AS h
            WHERE h.queue = E'\x1f' AND h.due BETWEEN v_now AND v_now + c_time
        );
END
$_pgq_workers_reconnect$;

COMMENT ON FUNCTION _pgq_workers_reconnect() IS
    'Return whether the server has started, or was promoted, within the last five seconds: workers that live may not '
    'have reconnected yet.';


-- Claims call it, so it waits for no lock. Trying the lock of a worker is cheap, and succeeds if the worker is gone. It
-- also succeeds in the session of the worker itself, so the list of all locks is read then, and only then.
--
-- All connections may have been cut, and a new session may be the first that is back: where it is the first to find a
-- worker gone, it only records that, and the worker has a second to reconnect.
--
-- A worker is kept for ten seconds after it was found gone: a claim may commit after the worker has died, and a
-- statement of the worker may go on and keep jobs locked. To lock a row is to write, so a worker is locked only where
-- something is to be done: its end recorded, leases ended, or, where it has no jobs, the worker deleted.
CREATE FUNCTION _pgq_sweep_workers(at timestamptz, is_new boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_sweep_workers$
DECLARE
    c_class CONSTANT integer := 'pgq_worker_session'::regclass::oid::integer;
    v_worker pgq_worker_session;
    v_rows tid[];
BEGIN
    IF _pgq_workers_reconnect() THEN
        RETURN;
    END IF;

    FOR v_worker IN
        SELECT w.*
        FROM pgq_worker_session AS w
        WHERE CASE WHEN pg_try_advisory_lock_shared(c_class, w.number) THEN
                  pg_advisory_unlock_shared(c_class, w.number)
                  AND NOT EXISTS (SELECT FROM _pgq_presence AS p WHERE p.number = w.number)
                  AND CASE WHEN w.gone_at <= at THEN
                          coalesce(
                              (SELECT bool_or(r.lease_until > r.claimed_at
                                              AND (w.allowed_queues IS NULL OR r.queue = ANY (w.allowed_queues)))
                               FROM pgq_running AS r
                               WHERE r.worker = w.name),
                              w.gone_at < at - interval '10 seconds')
                      ELSE true
                      END
              END
        FOR UPDATE SKIP LOCKED
    LOOP
        IF v_worker.gone_at IS NULL OR v_worker.gone_at > at THEN
            UPDATE pgq_worker_session AS w SET gone_at = at WHERE w.number = v_worker.number;
            v_worker.gone_at := at;
        END IF;
        CONTINUE WHEN is_new AND v_worker.gone_at > at - interval '1 second';

        -- Skip locked jobs: a live transaction still has them.
        v_rows := ARRAY(
            SELECT o.ctid
            FROM pgq_running AS o
            WHERE o.worker = v_worker.name
              AND (v_worker.allowed_queues IS NULL OR o.queue = ANY (v_worker.allowed_queues))
              AND o.lease_until > o.claimed_at
            FOR UPDATE SKIP LOCKED);
        IF v_rows <> '{}' THEN
            -- The locked ones count, too, and are remembered: when they are unlocked, the others may have gone back.
            IF NOT v_worker.lost_several AND (
                SELECT count(*) > 1
                FROM pgq_running AS o
                WHERE o.worker = v_worker.name
                  AND (v_worker.allowed_queues IS NULL OR o.queue = ANY (v_worker.allowed_queues))
            ) THEN
                v_worker.lost_several := true;
                UPDATE pgq_worker_session AS w SET lost_several = true WHERE w.number = v_worker.number;
            END IF;
            -- A lease that ends by claimed_at tells _pgq_expire_leases that the worker is gone. claimed_at lies ahead
            -- after the clock was set back.
            UPDATE pgq_running AS r
            SET lease_until = least(r.claimed_at, at - interval '1 microsecond'),
                losses = CASE WHEN v_worker.lost_several THEN _pgq_count_loss(r.losses) ELSE r.losses END
            WHERE r.ctid = ANY (v_rows);
        END IF;

        IF v_worker.gone_at < at - interval '10 seconds'
           AND NOT EXISTS (SELECT FROM pgq_running AS r WHERE r.worker = v_worker.name) THEN
            DELETE FROM pgq_worker_session AS w WHERE w.number = v_worker.number;
        END IF;
    END LOOP;
END
$_pgq_sweep_workers$;

COMMENT ON FUNCTION _pgq_sweep_workers(timestamptz, boolean) IS
    'End the leases of registered workers whose sessions are gone, mark the jobs of one that held several, and delete '
    'those workers some time later. A new session does so only if a worker was found gone at least a second before; '
    'otherwise it records that. Returns nothing.';
