-- How blocked jobs leave pgq_blocked: to pgq_waiting, or cancelled.

-- The caller has locked these jobs, and removed what they waited for. Their places in the lanes of their queues are
-- those of jobs that become ripe now, because heads may have passed earlier ones.
CREATE FUNCTION _pgq_unblock(ids bigint[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_unblock$
DECLARE
    v_jobs pgq_waiting[];
    v_job pgq_waiting;
    v_added bigint[];
    v_queue record;
BEGIN
    WITH freed AS (
        DELETE FROM pgq_blocked AS b WHERE b.id = ANY (ids) RETURNING b.*
    )
    SELECT array_agg(
               ROW(
                   f.id, f.queue, f.kind, f.args, f.priority, greatest(f.ripe_at, at), f.attempt, f.max_retries,
                   f.backoff, f.backoff_cap, f.dedup, f.dedup_key, f.enqueued_at, f.context,
                   CASE WHEN f.dedup THEN _pgq_signature(f.queue, f.kind, f.args, f.dedup_key) END, f.losses,
                   f.newest_error, f.group_key, _pgq_place(f.queue, f.group_key, f.ripe_at <= at)
               )::pgq_waiting
               -- In the order of pgq_enqueue_many, so that two calls do not deadlock.
               ORDER BY hashtextextended(coalesce(f.dedup_key, f.args::text), 0), f.kind COLLATE "C",
                        f.queue COLLATE "C", f.id)
    INTO v_jobs
    FROM freed AS f;
    IF v_jobs IS NULL THEN
        RETURN;
    END IF;

    -- One pass, unless a worker claims a twin between the two statements.
    LOOP
        WITH added AS (
            INSERT INTO pgq_waiting (
                id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
                enqueued_at, context, losses, newest_error, group_key, group_id, signature
            )
            SELECT j.id, j.queue, j.kind, j.args, j.priority, j.ripe_at, j.attempt, j.max_retries, j.backoff,
                   j.backoff_cap, j.dedup, j.dedup_key, j.enqueued_at, j.context, j.losses, j.newest_error,
                   j.group_key, j.group_id, j.signature
            FROM unnest(v_jobs) AS j
            ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING
            RETURNING id
        )
        SELECT coalesce(array_agg(a.id), '{}') INTO v_added FROM added AS a;

        FOR v_queue IN
            SELECT j.queue AS name, count(*) FILTER (WHERE j.ripe_at <= at) AS ripe
            FROM unnest(v_jobs) AS j
            WHERE j.id = ANY (v_added)
              AND _pgq_is_soon(j.ripe_at, at)
            GROUP BY j.queue
        LOOP
            PERFORM _pgq_wake(v_queue.name, v_queue.ripe);
        END LOOP;
        EXIT WHEN cardinality(v_added) = cardinality(v_jobs);

        v_jobs := ARRAY(SELECT j FROM unnest(v_jobs) AS j WHERE j.id <> ALL (v_added));
        FOREACH v_job IN ARRAY v_jobs LOOP
            IF _pgq_merge(
                v_job.id, v_job.signature, v_job.ripe_at, v_job.attempt, v_job.losses, v_job.newest_error
            ) THEN
                v_added := v_added || v_job.id;
                INSERT INTO pgq_count (queue, kind, event, jobs) VALUES (v_job.queue, v_job.kind, 'merged', 1);
            END IF;
        END LOOP;
        v_jobs := ARRAY(SELECT j FROM unnest(v_jobs) AS j WHERE j.id <> ALL (v_added));
        EXIT WHEN v_jobs = '{}';
    END LOOP;
END
$_pgq_unblock$;

COMMENT ON FUNCTION _pgq_unblock(bigint[], timestamptz) IS
    'Move blocked jobs to pgq_waiting, where a job merges with a twin that waits, and wake workers. Returns nothing.';


CREATE FUNCTION _pgq_cancel_blocked(ids bigint[], causes bigint[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_cancel_blocked$
BEGIN
    WITH gone AS (
        DELETE FROM pgq_blocked AS b WHERE b.id = ANY (ids) RETURNING b.*
    ), error AS (
        INSERT INTO pgq_error (id, number, attempt, at, error)
        SELECT g.id, 1, g.attempt, at,
               format('job %s, after which this one was to run, is dead or cancelled',
                      (SELECT min(n.needs) FILTER (WHERE n.needs IN (SELECT c FROM unnest(causes) AS c))
                       FROM pgq_need AS n
                       WHERE n.job = g.id))
        FROM gone AS g
        WHERE causes IS NOT NULL
    ), counted AS (
        INSERT INTO pgq_count (queue, kind, event, jobs)
        SELECT g.queue, g.kind, 'cancelled', count(*) FROM gone AS g GROUP BY g.queue, g.kind
    )
    INSERT INTO pgq_ended (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, outcome, ended_at, losses, newest_error, group_key, group_id
    )
    SELECT j.id, j.queue, j.kind, j.args, j.priority, j.ripe_at, j.attempt, coalesce(j.max_retries, s.max_retries, 10),
           coalesce(j.backoff, s.backoff, '1 minute'), coalesce(j.backoff_cap, s.backoff_cap, '1 hour'), j.dedup,
           j.dedup_key, j.enqueued_at, j.context, 'cancelled', at, j.losses, CASE WHEN causes IS NOT NULL THEN 1 END,
           j.group_key, _pgq_group_id(j.group_key)
    FROM gone AS j
    LEFT JOIN pgq_queue_setting AS s ON s.queue = j.queue COLLATE "C";

    WITH left_over AS (
        DELETE FROM pgq_need AS n WHERE n.job = ANY (ids) RETURNING n.job
    )
    INSERT INTO pgq_batch (id, queue, jobs, failed, given_up, at)
    SELECT l.job, b.queue, 0, '{}', count(*), _pgq_cancel_blocked.at
    FROM left_over AS l
    CROSS JOIN LATERAL (SELECT o.queue FROM pgq_batch AS o WHERE o.id = l.job LIMIT 1) AS b
    GROUP BY l.job, b.queue;
END
$_pgq_cancel_blocked$;

COMMENT ON FUNCTION _pgq_cancel_blocked(bigint[], bigint[], timestamptz) IS
    'End blocked jobs, which the caller has locked, as cancelled: because of one of these causes, which becomes their '
    'error, or, if these are NULL, because an operator cancels them. Returns nothing.';
