-- What happens to the jobs of a worker that is gone.

-- Called from within claims, so it waits for nobody. Where a worker is gone its lock can be had; to ask for that is cheap,
-- and only then the list of all locks is looked at, for this session may be the worker's own.
--
-- A worker is kept for ten seconds after it was found gone, for the sake of a claim that commits after its worker died,
-- and of jobs that are locked by a statement of its which goes on. And right after a start of the server nobody is there
-- yet: workers have five seconds to come back.
CREATE FUNCTION _pgq_sweep(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_sweep$
DECLARE
    c_class CONSTANT integer := 'pgq_worker'::regclass::oid::integer;
    v_worker pgq_worker;
BEGIN
    IF clock_timestamp() < pg_postmaster_start_time() + interval '5 seconds' THEN
        RETURN;
    END IF;

    FOR v_worker IN
        SELECT w.*
        FROM pgq_worker AS w
        WHERE CASE WHEN pg_try_advisory_lock_shared(c_class, w.number) THEN
                  pg_advisory_unlock_shared(c_class, w.number) AND NOT EXISTS (SELECT FROM _pgq_presence AS p WHERE p.number = w.number)
              END
        FOR UPDATE SKIP LOCKED
    LOOP
        -- Such a lease is told from one that ran out by its length. A job that somebody has locked is in good hands.
        UPDATE pgq_running AS r
        SET lease_until = r.claimed_at
        WHERE r.ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM pgq_running AS o
            WHERE o.worker = v_worker.name
              AND (v_worker.reach IS NULL OR o.queue = ANY (v_worker.reach))
              AND o.lease_until > o.claimed_at
            FOR UPDATE SKIP LOCKED));

        IF v_worker.gone_at IS NULL THEN
            UPDATE pgq_worker AS w SET gone_at = at WHERE w.number = v_worker.number;
        ELSIF v_worker.gone_at < at - interval '10 seconds'
              AND NOT EXISTS (SELECT FROM pgq_running AS r WHERE r.worker = v_worker.name) THEN
            DELETE FROM pgq_worker AS w WHERE w.number = v_worker.number;
        END IF;
    END LOOP;
END
$_pgq_sweep$;

COMMENT ON FUNCTION _pgq_sweep(timestamptz) IS
    'End the leases of registered workers whose sessions are gone, and forget those workers some time later.';
