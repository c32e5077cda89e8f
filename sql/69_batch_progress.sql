-- How far a batch has got.

CREATE FUNCTION pgq_batch_progress(
    id bigint,
    OUT jobs bigint,
    OUT ended bigint,
    OUT failed bigint,
    OUT failed_ids bigint[]
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_batch_progress$
DECLARE
    v_privilege text;
    v_more text[];
    v_allowed text[] := '{}';
BEGIN
    FOREACH v_privilege IN ARRAY '{producer,worker,admin}'::text[] LOOP
        v_more := _pgq_allowed_queues(v_privilege);
        v_allowed := CASE WHEN v_more IS NOT NULL THEN v_allowed || v_more END;
        EXIT WHEN v_allowed IS NULL;
    END LOOP;
    SELECT b.jobs, b.jobs - b.given_up - n.jobs, cardinality(f.ids), f.ids
    INTO jobs, ended, failed, failed_ids
    FROM (
        SELECT sum(o.jobs) AS jobs, sum(o.given_up) AS given_up
        FROM pgq_batch AS o
        WHERE o.id = pgq_batch_progress.id
          AND (v_allowed IS NULL OR o.queue = ANY (v_allowed))
    ) AS b
    CROSS JOIN (SELECT count(*) AS jobs FROM pgq_need AS i WHERE i.job = pgq_batch_progress.id) AS n
    CROSS JOIN (
        SELECT ARRAY(
            SELECT DISTINCT j.id
            FROM pgq_batch AS o
            CROSS JOIN LATERAL unnest(o.failed) AS j (id)
            WHERE o.id = pgq_batch_progress.id
            ORDER BY j.id) AS ids
    ) AS f;
    IF jobs IS NULL THEN
        RAISE EXCEPTION 'there is no batch %', coalesce(id::text, 'null')
            USING ERRCODE = 'PGQ01',
                  HINT = 'Give the id that pgq_enqueue_batch has returned; a batch is forgotten after 7 days, unless '
                         'it is still a job.';
    END IF;
END
$pgq_batch_progress$;

COMMENT ON FUNCTION pgq_batch_progress(bigint) IS
    'Return of a batch (see pgq_enqueue_batch) how many jobs were put into it, how many of these have ended, how many '
    'of those have failed, that is, are dead or cancelled, and which, in the order of ids. One that fails, and is done '
    'when an operator has retried it, has failed. A job that has merged into a twin counts as ended only if the twin '
    'belongs to the batch, too; otherwise the twin takes its place. When the batch itself has been cancelled, what was '
    'left then never counts as ended. The numbers are kept for 7 days, and for as long as the batch is a job. Raises '
    'PGQ01 for any other id, and for a batch in a queue that the calling role may use neither as producer nor as '
    'worker nor as admin. It is a call like any other: the job that comes last makes it to learn what it has to sum '
    'up.';
