-- Find the workers that are gone, and end their leases.

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
                               FROM _pgq_running AS r
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
        PERFORM _pgq_unpack(ARRAY(
            SELECT b.token
            FROM pgq_running_batch AS b
            WHERE b.worker = v_worker.name
              AND (v_worker.allowed_queues IS NULL OR b.queues && v_worker.allowed_queues)
            FOR UPDATE SKIP LOCKED));
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
                FROM _pgq_running AS o
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
                -- A job of another database may have ended the process, unless it ran a suspect, which runs alone.
                losses = CASE WHEN v_worker.lost_several OR (v_worker.shares AND r.losses IS NULL)
                              THEN _pgq_count_loss(r.losses) ELSE r.losses END
            WHERE r.ctid = ANY (v_rows);
        END IF;

        IF v_worker.gone_at < at - interval '10 seconds'
           AND NOT EXISTS (SELECT FROM _pgq_running AS r WHERE r.worker = v_worker.name) THEN
            DELETE FROM pgq_worker_session AS w WHERE w.number = v_worker.number;
        END IF;
    END LOOP;
END
$_pgq_sweep_workers$;

COMMENT ON FUNCTION _pgq_sweep_workers(timestamptz, boolean) IS
    'End the leases of registered workers whose sessions are gone, mark the jobs of one that held several, and delete '
    'those workers some time later. A new session does so only if a worker was found gone at least a second before; '
    'otherwise it records that. Returns nothing.';
