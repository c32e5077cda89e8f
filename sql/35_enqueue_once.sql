-- Enqueue with a window: at most one job for each signature until the window is over.

-- The first look takes no lock, so duplicates do not wait for each other. Where it finds no window, another session may
-- be about to open one: the INSERT waits for it.
CREATE FUNCTION _pgq_enqueue_once(
    kind text,
    args jsonb,
    queue text,
    ripe_at timestamptz,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    dedup_for interval,
    at timestamptz,
    OUT id bigint,
    OUT created boolean
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_enqueue_once$
DECLARE
    v_signature uuid := _pgq_signature(queue, kind, args, dedup_key);
    v_waiting bigint;
    v_until timestamptz;
BEGIN
    IF queue <> ALL (_pgq_allowed_queues('producer')) THEN
        PERFORM _pgq_raise_denied(queue, 'producer');
    END IF;

    SELECT s.id, s.until INTO id, v_until FROM pgq_seen AS s WHERE s.signature = v_signature AND s.until > at;
    IF NOT FOUND THEN
        INSERT INTO pgq_seen AS s (signature, until)
        VALUES (v_signature, at + dedup_for)
        ON CONFLICT ON CONSTRAINT pgq_seen_pkey DO UPDATE SET until = excluded.until
        WHERE s.until <= at;
        IF FOUND THEN
            SELECT e.id, e.created INTO id, created
            FROM pgq_enqueue(
                kind, args, queue, ripe_at, NULL, priority, max_retries, backoff, backoff_cap, true, dedup_key,
                on_duplicate, context, group_key) AS e;
            UPDATE pgq_seen AS s SET id = _pgq_enqueue_once.id WHERE s.signature = v_signature;
            RETURN;
        END IF;
        SELECT s.id, s.until INTO id, v_until FROM pgq_seen AS s WHERE s.signature = v_signature;
    END IF;

    -- A job that waits is the duplicate, as without a window: it may be another one than the first.
    v_waiting := _pgq_resolve_duplicate(v_signature, args, coalesce(ripe_at, at), priority, on_duplicate);
    id := coalesce(v_waiting, id);
    IF on_duplicate = 'error' THEN
        RAISE EXCEPTION 'job % has been enqueued with this signature, in a window until %', id, v_until
            USING ERRCODE = 'PGQ04',
                  HINT = 'Use on_duplicate => ''keep'' to get the id of that job instead.';
    END IF;
    created := false;
    IF v_waiting IS NOT NULL AND on_duplicate <> 'keep' AND _pgq_is_soon(coalesce(ripe_at, at), at) THEN
        PERFORM _pgq_wake(queue, (coalesce(ripe_at, at) <= at)::integer);
    END IF;
END
$_pgq_enqueue_once$;

COMMENT ON FUNCTION _pgq_enqueue_once(
    text, jsonb, text, timestamptz, bigint, bigint, interval, interval, text, text, jsonb, text, interval, timestamptz
) IS
    'Do what pgq_enqueue does with the argument dedup_for, at a time. Returns the id of the job, or that of the first '
    'one in the window, and whether the job was created.';


-- Not the same ids in another order: the UPDATE would meet those that it has not changed yet.
CREATE FUNCTION _pgq_draw_ids(ids bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_draw_ids$
DECLARE
    v_new bigint[] := ARRAY(SELECT nextval('pgq_job_id') FROM generate_series(1, cardinality(ids)));
BEGIN
    WITH moved AS (
        UPDATE pgq_waiting AS w
        SET id = d.new
        FROM unnest(ids, v_new) AS d (old, new)
        WHERE w.id = d.old
        RETURNING w.id, w.signature, d.old
    )
    UPDATE pgq_seen AS s
    SET id = m.id
    FROM moved AS m
    WHERE s.signature = m.signature AND s.id = m.old;
    RETURN v_new;
END
$_pgq_draw_ids$;

COMMENT ON FUNCTION _pgq_draw_ids(bigint[]) IS
    'Give jobs that this transaction has enqueued new ids, which grow in the order of the array, also in the windows '
    'that they have opened. Returns the new ids.';


-- In the order in which pgq_enqueue_many inserts, so that two calls do not deadlock. In an ordered queue the ids say in
-- which order jobs run, so there they are drawn anew, in the order of the array.
CREATE FUNCTION _pgq_enqueue_each(jobs jsonb, at timestamptz) RETURNS TABLE (n bigint, id bigint, created boolean)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enqueue_each$
#variable_conflict use_column
DECLARE
    v_ordered text[] := ARRAY(SELECT s.queue FROM pgq_queue_setting AS s WHERE s.ordered);
    v_job record;
    v_old bigint[] := '{}';
    v_ns bigint[] := '{}';
    v_ids bigint[] := '{}';
    v_created boolean[] := '{}';
BEGIN
    -- The sort reads all jobs first, so no bad array enqueues any.
    FOR v_job IN
        SELECT p.*
        FROM _pgq_parse_jobs(jobs, at, v_ordered) AS p
        WHERE p.valid
        ORDER BY hashtextextended(coalesce(p.dedup_key, p.args_as_text), 0), p.kind COLLATE "C",
                 p.queue COLLATE "C", p.n
    LOOP
        n := v_job.n;
        SELECT e.id, e.created INTO id, created
        FROM pgq_enqueue(
            v_job.kind, v_job.args, v_job.queue, v_job.ripe_at, NULL, v_job.priority, v_job.max_retries,
            v_job.backoff, v_job.backoff_cap, v_job.dedup, v_job.dedup_key,
            CASE v_job.on_duplicate WHEN 'error' THEN 'keep' ELSE v_job.on_duplicate END, v_job.context,
            v_job.group_key, v_job.dedup_for) AS e;
        IF NOT created AND v_job.on_duplicate = 'error' THEN
            RAISE EXCEPTION 'job % of the array: job % has been enqueued with this signature', n, id
                USING ERRCODE = 'PGQ04',
                      HINT = 'Use on_duplicate => ''keep'' to get the id of that job instead.';
        END IF;
        v_ns := v_ns || n;
        v_ids := v_ids || id;
        v_created := v_created || created;
        IF created AND v_job.group_key IS NOT NULL AND v_job.queue = ANY (v_ordered) THEN
            v_old := v_old || id;
        END IF;
    END LOOP;

    v_old := ARRAY(
        SELECT r.id
        FROM unnest(v_ns, v_ids, v_created) AS r (n, id, created)
        WHERE r.created AND r.id = ANY (v_old)
        ORDER BY r.n);
    RETURN QUERY
    SELECT r.n, coalesce(d.new, r.id), r.created
    FROM unnest(v_ns, v_ids, v_created) AS r (n, id, created)
    LEFT JOIN unnest(v_old, CASE WHEN v_old <> '{}' THEN _pgq_draw_ids(v_old) END) AS d (old, new) ON d.old = r.id;
END
$_pgq_enqueue_each$;

COMMENT ON FUNCTION _pgq_enqueue_each(jsonb, timestamptz) IS
    'Do what pgq_enqueue_many does, for an array in which a job has the key dedup_for: call pgq_enqueue for each. '
    'Returns the rows in any order.';
