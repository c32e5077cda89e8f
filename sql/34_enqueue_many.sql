-- Enqueue many jobs with a handful of statements, as if pgq_enqueue were called for each in turn.
--
-- If no job has a twin, one INSERT does it all. Rows are inserted in the order of a hash of what makes them twins:
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
    v_ordered text[] := '{}';
    v_ids bigint[];
    v_left bigint;
    v_dedup boolean;
    v_queues text[];
    v_grouped text[];
    v_queue text;
    v_n bigint;
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
        IF EXISTS (
            SELECT
            FROM jsonb_array_elements(jobs) AS j (item)
            WHERE num_nonnulls(j.item ->> 'after', j.item ->> 'after_failed') > 0
        ) THEN
            RETURN QUERY SELECT g.n, g.id, g.created FROM _pgq_enqueue_graph(jobs, v_now) AS g ORDER BY g.n;
            RETURN;
        END IF;
        IF jsonb_path_exists(jobs, '$[*].dedup_for ? (@ != null)') THEN
            RETURN QUERY SELECT e.n, e.id, e.created FROM _pgq_enqueue_each(jobs, v_now) AS e ORDER BY e.n;
            RETURN;
        END IF;
        v_ordered := _pgq_enter_groups(jobs);
    END IF;
    v_left := jsonb_array_length(jobs);
    v_ids := ARRAY(SELECT nextval('pgq_job_id') FROM generate_series(1, v_left));
    -- The jobs of an array are mostly alike: one INSERT does it, that which takes the first job. Each of the two checks
    -- all jobs. The one that may wait for the transaction of a twin sorts its jobs, so it has checked all of them
    -- before it inserts the first: no bad array waits.
    v_dedup := coalesce((jobs -> 0 ->> 'dedup')::boolean, true);
    FOREACH v_dedup IN ARRAY ARRAY[v_dedup, NOT v_dedup] LOOP
        EXIT WHEN v_left = 0;
        IF v_dedup THEN
            WITH added AS (
                INSERT INTO pgq_waiting (
                    id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup,
                    dedup_key, enqueued_at, context, losses, newest_error, group_key, group_id, signature
                )
                SELECT v_ids[j.n], j.queue, j.kind, j.args, j.priority, j.ripe_at, 0, j.max_retries, j.backoff,
                       j.backoff_cap, j.dedup, j.dedup_key, v_now, j.context, NULL, NULL, j.group_key, j.group_id,
                       _pgq_signature(j.queue, j.kind, j.args, j.dedup_key)
                FROM _pgq_parse_jobs(jobs, v_now, v_ordered) AS j
                WHERE CASE WHEN j.valid THEN j.dedup END
                ORDER BY hashtextextended(coalesce(j.dedup_key, j.args_as_text), 0), j.kind COLLATE "C",
                         j.queue COLLATE "C", j.n
                ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING
                RETURNING queue, ripe_at, group_key
            )
            SELECT v_left - count(*),
                   v_queues || array_agg(DISTINCT a.queue COLLATE "C") FILTER (WHERE _pgq_is_soon(a.ripe_at, v_now)),
                   v_grouped || array_agg(DISTINCT a.queue COLLATE "C") FILTER (WHERE a.group_key IS NOT NULL)
            INTO v_left, v_queues, v_grouped
            FROM added AS a;
        ELSE
            -- Without a signature a job meets no twin. ON CONFLICT would cost a fifth of the INSERT.
            WITH added AS (
                INSERT INTO pgq_waiting (
                    id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup,
                    dedup_key, enqueued_at, context, losses, newest_error, group_key, group_id, signature
                )
                SELECT v_ids[j.n], j.queue, j.kind, j.args, j.priority, j.ripe_at, 0, j.max_retries, j.backoff,
                       j.backoff_cap, j.dedup, j.dedup_key, v_now, j.context, NULL, NULL, j.group_key, j.group_id,
                       NULL
                FROM _pgq_parse_jobs(jobs, v_now, v_ordered) AS j
                WHERE CASE WHEN j.valid THEN NOT j.dedup END
                RETURNING queue, ripe_at, group_key
            )
            SELECT v_left - count(*),
                   v_queues || array_agg(DISTINCT a.queue COLLATE "C") FILTER (WHERE _pgq_is_soon(a.ripe_at, v_now)),
                   v_grouped || array_agg(DISTINCT a.queue COLLATE "C") FILTER (WHERE a.group_key IS NOT NULL)
            INTO v_left, v_queues, v_grouped
            FROM added AS a;
        END IF;
    END LOOP;

    IF v_left > 0 THEN
        -- A duplicate may wake a session, too, and become a job after all.
        SELECT array_agg(ROW(
                   v_ids[j.n], j.queue, j.kind, j.args, j.priority, j.ripe_at, 0, j.max_retries, j.backoff,
                   j.backoff_cap, j.dedup, j.dedup_key, v_now, j.context,
                   CASE WHEN j.dedup THEN _pgq_signature(j.queue, j.kind, j.args, j.dedup_key) END,
                   NULL, NULL, j.group_key, j.group_id
               )::pgq_waiting ORDER BY j.n),
               array_agg(j.on_duplicate ORDER BY j.n),
               array_agg(j.queue) FILTER (WHERE _pgq_is_soon(j.ripe_at, v_now)),
               array_agg(j.queue) FILTER (WHERE j.group_key IS NOT NULL)
        INTO v_jobs, v_policies, v_queues, v_grouped
        FROM _pgq_parse_jobs(jobs, v_now, v_ordered) AS j;
    END IF;
    -- Not too late: no other session sees the jobs yet.
    FOR v_queue IN SELECT DISTINCT q FROM unnest(v_grouped) AS q LOOP
        PERFORM _pgq_mark(v_queue);
    END LOOP;
    FOR v_queue IN SELECT DISTINCT q FROM unnest(v_queues) AS q LOOP
        -- Counted only where a session may sleep.
        PERFORM _pgq_wake(v_queue, (
            SELECT count(*)
            FROM _pgq_parse_jobs(jobs, v_now, v_ordered) AS j
            WHERE j.queue = v_queue AND j.ripe_at <= v_now));
    END LOOP;
    IF v_left = 0 THEN
        RETURN QUERY SELECT j.n, j.id, true FROM unnest(v_ids) WITH ORDINALITY AS j (id, n);
        RETURN;
    END IF;

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
    'is a value. after is an array of ids, and of positions of earlier jobs in this array: "#1" is the first. Returns '
    'a row for each job, in order: n (from 1), id and created, as pgq_enqueue returns them. NULL for jobs raises '
    '22004. Raises what pgq_enqueue raises, and 22023 if jobs is not an array of objects with these keys, each of the '
    'right JSON type; the message has the number of the job. Raises 42501 and PGQ01 without that number, and 22007, '
    '22008, 22003 or 22P02 for a value that PostgreSQL cannot read as a time, interval or integer.';
