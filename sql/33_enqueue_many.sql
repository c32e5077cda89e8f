-- Enqueue many jobs with a handful of statements, as if pgq_enqueue were called for each in turn.
--
-- Rows are inserted, changed and locked in the order of their signatures: two calls with overlapping jobs wait for each
-- other, but never in a circle. A subquery that locks is never turned into a join, so each twin is looked up in the index
-- of the signature, whatever the statistics say about a table that is empty one minute and full the next.

CREATE FUNCTION pgq_enqueue_many(jobs jsonb) RETURNS TABLE (n bigint, id bigint, created boolean)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
AS $pgq_enqueue_many$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_n bigint;
    v_problem text[];
    v_jobs pgq_waiting[];
    v_policies text[];
    v_ids bigint[];
    v_inserted bigint;
    v_first boolean := true;
    v_complete boolean;
BEGIN
    PERFORM _pgq_check_jobs(jobs);

    SELECT j.n, p.problem INTO v_n, v_problem
    FROM _pgq_parse_jobs(jobs) AS j
    CROSS JOIN LATERAL (SELECT _pgq_problem(
        j.kind, j.args, j.queue, j.ripe_at, j.delay, j.priority, j.max_retries, j.backoff, j.backoff_cap,
        j.dedup_key, j.on_duplicate, v_now)) AS p (problem)
    WHERE p.problem IS NOT NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = v_problem[1], MESSAGE = format('job %s of the array: %s', v_n, v_problem[2]), HINT = v_problem[3];
    END IF;

    SELECT array_agg(ROW(
               nextval('pgq_job_id'), j.queue, j.kind, j.args, j.priority, coalesce(j.ripe_at, v_now + j.delay, v_now), 0,
               j.max_retries, j.backoff, j.backoff_cap, j.dedup, j.dedup_key, v_now, '[]',
               CASE WHEN j.dedup THEN _pgq_signature(j.queue, j.kind, j.args, j.dedup_key) END
           )::pgq_waiting ORDER BY j.n),
           array_agg(j.on_duplicate ORDER BY j.n)
    INTO v_jobs, v_policies
    FROM _pgq_parse_jobs(jobs) AS j;

    -- Once round, unless a twin is claimed between the statements: then its duplicates are tried again.
    LOOP
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, errors
        )
        SELECT j.id, j.queue, j.kind, j.args, j.priority, j.ripe_at, j.attempt, j.max_retries, j.backoff, j.backoff_cap,
               j.dedup, j.dedup_key, j.enqueued_at, j.errors
        FROM unnest(v_jobs) AS j
        WHERE v_first OR j.dedup
        ORDER BY j.signature, j.id
        ON CONFLICT (signature) DO NOTHING;

        GET DIAGNOSTICS v_inserted = ROW_COUNT;
        IF v_first AND v_inserted = coalesce(cardinality(v_jobs), 0) THEN
            RETURN QUERY SELECT j.ordinality, j.id, true FROM unnest(v_jobs) WITH ORDINALITY AS j;
            RETURN;
        END IF;
        v_first := false;

        IF v_policies && '{replace,soonest}' THEN
            PERFORM _pgq_change_twins(v_jobs, v_policies);
        END IF;

        -- As in pgq_enqueue: the lock keeps each twin from starting before this transaction has committed.
        SELECT array_agg(coalesce(twin.id, j.id) ORDER BY j.ordinality),
               bool_and(twin.id IS NOT NULL OR NOT j.dedup)
        INTO v_ids, v_complete
        FROM (
            SELECT d.id, d.dedup, d.signature, d.ordinality
            FROM unnest(v_jobs) WITH ORDINALITY AS d
            ORDER BY d.signature
        ) AS j
        LEFT JOIN LATERAL (
            SELECT w.id FROM pgq_waiting AS w WHERE w.signature = j.signature FOR KEY SHARE
        ) AS twin ON true;

        EXIT WHEN v_complete;
    END LOOP;

    SELECT j.ordinality INTO v_n
    FROM ROWS FROM (unnest(v_jobs), unnest(v_policies), unnest(v_ids)) WITH ORDINALITY AS j (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, errors, signature, policy, answer, ordinality)
    WHERE j.policy = 'error' AND j.answer <> j.id
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job % of the array: job % is waiting already with this signature', v_n, v_ids[v_n]
            USING ERRCODE = 'PGQ04',
                  HINT = 'Leave on_duplicate at keep to be answered with the id of that job instead.';
    END IF;

    RETURN QUERY
    SELECT j.ordinality, j.unnest, j.unnest = j.id
    FROM ROWS FROM (unnest(v_jobs), unnest(v_ids)) WITH ORDINALITY AS j;
END
$pgq_enqueue_many$;

COMMENT ON FUNCTION pgq_enqueue_many(jsonb) IS
    'Enqueue an array of objects whose keys are the arguments of pgq_enqueue, of any kinds and queues, as part of your '
    'transaction: all or none. Answers a row for each, in order: n (from 1), id, created. JSON null means the default, '
    'except for args. NULL for jobs is refused (22004), bad values as in pgq_enqueue, with the number of the job; what is '
    'no time, interval or integer at all raises 22007, 22008, 22003 or 22P02.';
