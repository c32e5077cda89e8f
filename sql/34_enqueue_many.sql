-- Enqueue many jobs with a handful of statements, as if pgq_enqueue were called for each in turn.
--
-- If no job has a twin, one statement does it all. Rows are inserted in the order of a hash of what makes them twins:
-- a call may wait for another one with some of the same jobs, but two calls do not deadlock.

CREATE FUNCTION pgq_enqueue_many(jobs jsonb) RETURNS TABLE (n bigint, id bigint, created boolean)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_enqueue_many$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('producer');
    v_is_plain boolean;
    v_n bigint;
    v_problems text[];
    v_queue text;
    v_queues text[];
    v_grouped text[];
    v_ordered text[] := '{}';
    v_ids bigint[];
    v_inserted bigint;
    v_jobs pgq_waiting[];
    v_policies text[];
    v_waiting bigint[];
BEGIN
    v_is_plain := _pgq_check_jobs(jobs);
    IF v_allowed IS NOT NULL THEN
        SELECT coalesce(j.item ->> 'queue', 'default') INTO v_queue
        FROM jsonb_array_elements(jobs) AS j (item)
        WHERE coalesce(j.item ->> 'queue', 'default') <> ALL (v_allowed)
        LIMIT 1;
        IF FOUND THEN
            PERFORM _pgq_raise_denied(v_queue, 'producer');
        END IF;
    END IF;

    IF NOT v_is_plain THEN
        v_ordered := _pgq_enter_groups(jobs);
    END IF;
    WITH job AS MATERIALIZED (
        SELECT nextval('pgq_job_id') AS id, j.*,
               CASE
                   WHEN _pgq_is_common(j.kind, j.args_as_text, j.queue, j.ripe_at, j.delay, j.priority, j.max_retries,
                                       j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.on_duplicate, j.context,
                                       j.group_key) IS NOT TRUE
                   THEN _pgq_validate(j.kind, j.args, j.queue, j.ripe_at, j.delay, j.priority, j.max_retries, j.backoff,
                                      j.backoff_cap, j.dedup_key, j.on_duplicate, j.context, j.group_key, v_now)
               END AS problem
        -- Without OFFSET 0, PostgreSQL merges the subquery into this query, and converts args at each use.
        FROM (SELECT p.*, p.args::text AS args_as_text FROM _pgq_parse_jobs(jobs) AS p OFFSET 0) AS j
    ), valid AS NOT MATERIALIZED (
        SELECT j.* FROM job AS j WHERE NOT EXISTS (SELECT FROM job AS other WHERE other.problem IS NOT NULL)
    ), unique_jobs AS (
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, losses, newest_error, group_key, group_id
        )
        SELECT j.id, j.queue, j.kind, j.args, j.priority, coalesce(j.ripe_at, v_now + j.delay, v_now), 0, j.max_retries,
               j.backoff, j.backoff_cap, j.dedup, j.dedup_key, v_now, j.context, NULL, NULL, j.group_key,
               CASE
                   WHEN j.group_key IS NULL THEN NULL
                   WHEN coalesce(j.ripe_at, v_now + j.delay, v_now) <= v_now OR j.queue = ANY (v_ordered)
                       THEN _pgq_group_id(j.group_key)
                   ELSE _pgq_room()
               END
        FROM valid AS j
        WHERE j.dedup
        ORDER BY hashtextextended(coalesce(j.dedup_key, j.args_as_text), 0), j.kind COLLATE "C",
                 j.queue COLLATE "C", j.id
        ON CONFLICT (signature) DO NOTHING
        RETURNING 1
    ), other_jobs AS (
        -- Without a signature a job meets no twin. ON CONFLICT would cost a fifth of the INSERT.
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, losses, newest_error, group_key, group_id
        )
        SELECT j.id, j.queue, j.kind, j.args, j.priority, coalesce(j.ripe_at, v_now + j.delay, v_now), 0, j.max_retries,
               j.backoff, j.backoff_cap, j.dedup, j.dedup_key, v_now, j.context, NULL, NULL, j.group_key,
               CASE
                   WHEN j.group_key IS NULL THEN NULL
                   WHEN coalesce(j.ripe_at, v_now + j.delay, v_now) <= v_now OR j.queue = ANY (v_ordered)
                       THEN _pgq_group_id(j.group_key)
                   ELSE _pgq_room()
               END
        FROM valid AS j
        WHERE NOT j.dedup
        RETURNING 1
    )
    SELECT min(j.n) FILTER (WHERE j.problem IS NOT NULL),
           array_agg(j.problem ORDER BY j.n) FILTER (WHERE j.problem IS NOT NULL),
           array_agg(j.id ORDER BY j.n),
           (SELECT count(*) FROM unique_jobs) + (SELECT count(*) FROM other_jobs),
           array_agg(DISTINCT j.queue COLLATE "C")
               FILTER (WHERE _pgq_is_soon(coalesce(j.ripe_at, v_now + j.delay, v_now), v_now)),
           array_agg(DISTINCT j.queue COLLATE "C") FILTER (WHERE j.group_key IS NOT NULL)
    INTO v_n, v_problems, v_ids, v_inserted, v_queues, v_grouped
    FROM job AS j;

    IF v_n IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = v_problems[1][1],
            MESSAGE = format('job %s of the array: %s', v_n, v_problems[1][2]),
            HINT = v_problems[1][3];
    END IF;
    -- Not too late: no other session sees the jobs yet.
    FOREACH v_queue IN ARRAY coalesce(v_grouped, '{}') LOOP
        PERFORM _pgq_mark(v_queue);
    END LOOP;
    FOREACH v_queue IN ARRAY coalesce(v_queues, '{}') LOOP
        -- Counted only where a session may sleep.
        PERFORM _pgq_wake(v_queue, (
            SELECT count(*)
            FROM _pgq_parse_jobs(jobs) AS j
            WHERE j.queue = v_queue
              AND coalesce(j.ripe_at, v_now + j.delay, v_now) <= v_now));
    END LOOP;
    IF v_inserted = coalesce(cardinality(v_ids), 0) THEN
        RETURN QUERY SELECT j.n, j.id, true FROM unnest(v_ids) WITH ORDINALITY AS j (id, n);
        RETURN;
    END IF;

    SELECT array_agg(ROW(
               v_ids[j.n], j.queue, j.kind, j.args, j.priority, coalesce(j.ripe_at, v_now + j.delay, v_now), 0,
               j.max_retries, j.backoff, j.backoff_cap, j.dedup, j.dedup_key, v_now, j.context,
               CASE WHEN j.dedup THEN _pgq_signature(j.queue, j.kind, j.args, j.dedup_key) END,
               NULL, NULL, j.group_key,
               CASE
                   WHEN j.group_key IS NULL THEN NULL
                   WHEN coalesce(j.ripe_at, v_now + j.delay, v_now) <= v_now OR j.queue = ANY (v_ordered)
                       THEN _pgq_group_id(j.group_key)
                   ELSE _pgq_room()
               END
           )::pgq_waiting ORDER BY j.n),
           array_agg(j.on_duplicate ORDER BY j.n)
    INTO v_jobs, v_policies
    FROM _pgq_parse_jobs(jobs) AS j;
    v_waiting := _pgq_resolve_duplicates(v_jobs, v_policies);

    SELECT j.n INTO v_n
    FROM ROWS FROM (unnest(v_ids), unnest(v_policies), unnest(v_waiting)) WITH ORDINALITY AS j (id, policy, waiting, n)
    WHERE j.policy = 'error' AND j.waiting <> j.id
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job % of the array: job % is waiting already with this signature', v_n, v_waiting[v_n]
            USING ERRCODE = 'PGQ04',
                  HINT = 'Use on_duplicate => ''keep'' to get the id of that job instead.';
    END IF;

    RETURN QUERY
    SELECT j.n, j.waiting, j.waiting = j.id
    FROM ROWS FROM (unnest(v_ids), unnest(v_waiting)) WITH ORDINALITY AS j (id, waiting, n);
END
$pgq_enqueue_many$;

COMMENT ON FUNCTION pgq_enqueue_many(jsonb) IS
    'Enqueue an array of jobs in the transaction of the caller, all or none. Each element is an object whose keys are '
    'arguments of pgq_enqueue; kinds and queues may differ. A key that is JSON null counts as absent, but for args it '
    'is a value. Returns a row for each job, in order: n (from 1), id and created, as pgq_enqueue returns them. NULL '
    'for jobs raises 22004. Raises what pgq_enqueue raises, and 22023 if jobs is not an array of objects with these '
    'keys, each of the right JSON type; the message has the number of the job. Raises 42501 without that number, and '
    '22007, 22008, 22003 or 22P02 for a value that PostgreSQL cannot read as a time, interval or integer.';
