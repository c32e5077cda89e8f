-- The errors of a job: add one, hand all over to the twin of a merge, delete all, with what else stands beside the job.
-- The caller has the job's row locked, or has just removed it.

CREATE FUNCTION _pgq_add_error(
    job pgq_running,
    at timestamptz,
    error text,
    declined integer DEFAULT NULL
) RETURNS integer
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_add_error$
DECLARE
    c_kept CONSTANT integer := 10;
    v_number integer := greatest(job.newest_error, 0) + 1;
BEGIN
    INSERT INTO pgq_error (id, number, attempt, at, worker, error, declined)
    VALUES (job.id, v_number, job.attempt, at, job.worker, left(error, 4000), declined);

    IF v_number > c_kept THEN
        DELETE FROM pgq_error AS e WHERE e.id = job.id AND e.number = v_number - c_kept;
    END IF;
    RETURN v_number;
END
$_pgq_add_error$;

COMMENT ON FUNCTION _pgq_add_error(pgq_running, timestamptz, text, integer) IS
    'Add an error to those of a job, cut to 4000 characters, and delete the eleventh. Returns its number, which the '
    'caller writes to newest_error of the job.';


-- The order is that of time. Errors of the same time stay in their own order, those of the job before those of the
-- twin. All take new numbers, greater than the numbers of before, so that no row meets the number of another one.
CREATE FUNCTION _pgq_merge_errors(id bigint, twin bigint, newest_error integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_merge_errors$
DECLARE
    c_kept CONSTANT integer := 10;
BEGIN
    UPDATE pgq_error AS e
    SET id = twin, number = _pgq_merge_errors.newest_error + 1 - kept.n
    FROM (
        SELECT o.ctid, row_number() OVER (ORDER BY o.at DESC, o.id = twin, o.number DESC)::integer AS n
        FROM pgq_error AS o
        WHERE o.id IN (_pgq_merge_errors.id, twin)
        ORDER BY n
        LIMIT c_kept
    ) AS kept
    WHERE e.ctid = kept.ctid;

    DELETE FROM pgq_error AS e
    WHERE e.id IN (_pgq_merge_errors.id, twin)
      AND e.number <= _pgq_merge_errors.newest_error - c_kept;
END
$_pgq_merge_errors$;

COMMENT ON FUNCTION _pgq_merge_errors(bigint, bigint, integer) IS
    'Hand the errors of a job over to its twin, which keeps the newest ten of both, newest first, up to the number '
    'newest_error. This must be greater by ten than the numbers of both. Returns nothing.';


CREATE FUNCTION _pgq_delete_beside(ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_delete_beside$
BEGIN
    DELETE FROM pgq_error AS e WHERE e.id = ANY (ids);
    DELETE FROM pgq_saved AS s WHERE s.id = ANY (ids);
    DELETE FROM pgq_job_signal AS s WHERE s.id = ANY (ids);
    DELETE FROM pgq_signal_wait AS s WHERE s.id = ANY (ids);
END
$_pgq_delete_beside$;

COMMENT ON FUNCTION _pgq_delete_beside(bigint[]) IS
    'Delete all errors of jobs that are gone, what they have saved, their signals, and what they have waited for. '
    'Returns nothing.';
