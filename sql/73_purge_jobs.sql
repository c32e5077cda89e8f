-- Purge jobs by their numbers.

CREATE FUNCTION pgq_purge_jobs(ids bigint[]) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_purge_jobs$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_purged bigint;
    v_failed bigint[];
    v_not_done bigint[];
BEGIN
    IF ids IS NULL THEN
        RAISE EXCEPTION 'ids is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give an array of the numbers of jobs.';
    END IF;

    -- Locked in the order of their ids, so that two calls do not wait for each other in a circle.
    WITH given AS (
        SELECT e.id
        FROM pgq_ended AS e
        WHERE e.id = ANY (pgq_purge_jobs.ids)
          AND (v_allowed IS NULL OR e.queue = ANY (v_allowed))
        ORDER BY e.id
        FOR UPDATE
    ), purged AS (
        DELETE FROM pgq_ended AS e USING given AS g WHERE e.id = g.id RETURNING e.id, e.newest_error, e.outcome
    )
    SELECT count(*), array_agg(p.id) FILTER (WHERE p.newest_error IS NOT NULL),
           array_agg(p.id) FILTER (WHERE p.outcome <> 'done')
    INTO v_purged, v_failed, v_not_done
    FROM purged AS p;
    PERFORM _pgq_settle_purged(v_failed, v_not_done);
    RETURN v_purged;
END
$pgq_purge_jobs$;

COMMENT ON FUNCTION pgq_purge_jobs(bigint[]) IS
    'Delete jobs that have ended, by their numbers, whenever they ended. Returns how many. A number counts for nothing '
    'if its job has not ended, does not exist, or is in a queue that the calling role may not use; so does NULL among '
    'them. Raises 22004 for NULL instead of an array.';
