-- What has happened, without counting the jobs that wait.

CREATE FUNCTION pgq_overview_counters() RETURNS TABLE (
    queue text,
    kind text,
    claimed bigint,
    done bigint,
    failed bigint,
    dead bigint,
    cancelled bigint,
    merged bigint,
    retried bigint,
    waited_seconds double precision,
    timed bigint,
    ran_seconds double precision
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET jit = off
AS $pgq_overview_counters$
DECLARE
    v_seen text[] := _pgq_seen_queues();
BEGIN
    RETURN QUERY
    SELECT c.queue, c.kind, c.claimed, c.done, c.failed, c.dead, c.cancelled, c.merged, c.retried, c.waited_seconds,
           c.timed, c.ran_seconds
    FROM _pgq_counters AS c
    WHERE v_seen IS NULL OR c.queue = ANY (v_seen)
    ORDER BY c.queue COLLATE "C", c.kind COLLATE "C";
END
$pgq_overview_counters$;

COMMENT ON FUNCTION pgq_overview_counters() IS
    'Return the counters of the view pgq_counters without enqueued, for which all waiting jobs would have to be '
    'counted. The numbers are exact. While a snapshot is held, a call also reads the rows of the jobs that have run '
    'since. A kind of which no job was ever claimed or cancelled has no row. Returns the '
    'queues that the calling role may use as admin or reader.';


CREATE FUNCTION pgq_overview_ids() RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_overview_ids$
BEGIN
    IF _pgq_seen_queues() IS NOT NULL THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM pgq_job_id AS s);
END
$pgq_overview_ids$;

COMMENT ON FUNCTION pgq_overview_ids() IS
    'Return the number that was last given to a job. It grows by one for each job that is enqueued, and also for a '
    'duplicate and for an enqueue that is rolled back: so its growth is the most that was enqueued meanwhile, in all '
    'queues. NULL for a role that may not use all queues as admin or reader.';
