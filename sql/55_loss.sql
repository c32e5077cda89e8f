-- Which jobs are lost together: any of them may have ended the process of its worker, so their attempts do not count.
--
-- A job whose worker is gone, or whose lease has ended, is lost. Where its worker held no other job, the job has done
-- it, and the attempt counts. Otherwise all of them go back uncounted, as suspects: pgq_claim returns each of these
-- alone, so the next loss is that of one job. The whole set is marked when the loss is found: the rescue takes 50 jobs
-- at a time, and the last one would otherwise look as if lost alone.

CREATE FUNCTION _pgq_count_loss(losses smallint) RETURNS smallint
    LANGUAGE sql
    IMMUTABLE
    RETURN (CASE WHEN losses < 0 THEN losses ELSE -1 - coalesce(losses, 0) END)::smallint;

COMMENT ON FUNCTION _pgq_count_loss(smallint) IS
    'Return the value of pgq_running.losses after one more loss together with others: a negative number. The number of '
    'a job that was found lost before stays as it is.';


-- The only job of a worker that serves other databases, too, was perhaps lost together with theirs; a suspect was not,
-- because it runs while the process holds no other job.
--
-- Without a name only the token tells what one client held. Where several clients share a name, jobs may look as if
-- lost together that were not; c_uncounted in _pgq_expire_leases limits how often that takes an attempt back.
--
-- A row that a live transaction has locked counts as one of the set, and stays as it is; so do the jobs of a batch. A
-- job whose lease the sweep has ended is left out: the sweep has decided whether it was lost together with others.
CREATE FUNCTION _pgq_mark_lost(ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_mark_lost$
DECLARE
    v_tokens bigint[];
    v_workers text[];
BEGIN
    SELECT array_agg(DISTINCT r.token), array_agg(DISTINCT r.worker) FILTER (WHERE r.worker IS NOT NULL)
    INTO v_tokens, v_workers
    FROM pgq_running AS r
    WHERE r.id = ANY (ids)
      AND r.lease_until > r.claimed_at
      AND coalesce(r.losses, 0) >= 0;
    IF v_tokens IS NULL THEN
        RETURN;
    END IF;

    v_tokens := ARRAY(
        SELECT r.token FROM _pgq_running AS r WHERE r.token = ANY (v_tokens) GROUP BY r.token HAVING count(*) > 1);
    v_workers := ARRAY(
        SELECT r.worker FROM _pgq_running AS r WHERE r.worker = ANY (v_workers)
        GROUP BY r.worker
        HAVING count(*) > 1 OR (bool_and(r.losses IS NULL)
                                AND EXISTS (SELECT FROM pgq_worker_session AS w WHERE w.name = r.worker AND w.shares)));
    PERFORM _pgq_unpack(ARRAY(
        SELECT b.token
        FROM pgq_running_batch AS b
        WHERE (b.token = ANY (v_tokens) OR b.worker = ANY (v_workers))
          AND b.lease_until > b.claimed_at
        FOR UPDATE SKIP LOCKED));

    UPDATE pgq_running AS r
    SET losses = _pgq_count_loss(r.losses)
    WHERE r.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM pgq_running AS o
        WHERE (o.token = ANY (v_tokens) OR o.worker = ANY (v_workers))
          AND o.lease_until > o.claimed_at
          AND coalesce(o.losses, 0) >= 0
        FOR UPDATE SKIP LOCKED));
END
$_pgq_mark_lost$;

COMMENT ON FUNCTION _pgq_mark_lost(bigint[]) IS
    'Mark the running jobs that are lost together, given some whose leases have ended: all with the same token, or '
    'with the same name of a worker, if there are several or the worker serves other databases, too. Returns nothing.';
