-- Enqueue the jobs of an array that run after others as one set.

-- STABLE and without a search path of its own, so that PostgreSQL inlines it.
CREATE FUNCTION _pgq_named_ids(after jsonb, ids bigint[]) RETURNS TABLE (id bigint)
    LANGUAGE sql
    STABLE
BEGIN ATOMIC
    SELECT CASE jsonb_typeof(r.reference)
               WHEN 'number' THEN r.reference::bigint
               ELSE ids[substr(r.reference #>> '{}', 2)::integer]
           END
    FROM jsonb_array_elements(after) AS r (reference);
END;

COMMENT ON FUNCTION _pgq_named_ids(jsonb, bigint[]) IS
    'Return the ids that a job of an array names under the key after; ids are those of the jobs of the array, by their '
    'positions.';


-- A set only if nothing depends on the order: no job may be a duplicate of another one, which would change what the jobs
-- after it wait for, and each must be blocked. A job after one that this call has created can have a twin only in the
-- array.
CREATE FUNCTION _pgq_enqueue_blocked(jobs jsonb, at timestamptz, ids bigint[], old bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_enqueue_blocked$
DECLARE
    v_last CONSTANT bigint := coalesce(pg_sequence_last_value('pgq_job_id'), 0);
    v_all CONSTANT bigint[] := ARRAY(SELECT coalesce(i, nextval('pgq_job_id')) FROM unnest(ids) AS i);
    v_old bigint[];
    v_found record;
    v_left bigint;
    v_grouped text[];
    v_queue text;
BEGIN
    IF jsonb_path_exists(jobs, '$[*] ? (@.dedup_for != null && @.after.type() == "array" && @.after.size() > 0)') THEN
        RETURN NULL;
    END IF;
    v_old := ARRAY(
        SELECT DISTINCT o.id
        FROM (
            SELECT r.reference::bigint AS id
            FROM jsonb_path_query(jobs, '$[*].after[*] ? (@.type() == "number")') AS r (reference)
            UNION ALL
            SELECT u FROM unnest(old) AS u
        ) AS o);
    IF EXISTS (SELECT FROM unnest(v_old) AS o (id) WHERE o.id NOT BETWEEN 1 AND v_last) THEN
        RETURN NULL;
    END IF;
    PERFORM _pgq_enter_needs();
    v_found := _pgq_prerequisites(v_old, _pgq_named_queues());
    IF cardinality(v_found.living) < cardinality(v_old) THEN
        RETURN NULL;
    END IF;
    v_left := array_length(ids, 1) - num_nonnulls(VARIADIC ids);

    BEGIN
        WITH graph AS MATERIALIZED (
            SELECT v_all[p.n] AS id, p.n, p.queue, p.kind, p.args, p.priority, p.ripe_at, p.max_retries, p.backoff,
                   p.backoff_cap, p.dedup, p.dedup_key, p.context, p.group_key, a.after, f.after_failed,
                   CASE
                       WHEN p.dedup THEN _pgq_blocked_signature(
                           _pgq_signature(p.queue, p.kind, p.args, p.dedup_key), a.after, f.after_failed)
                   END AS signature
            FROM _pgq_parse_jobs(jobs, at, '{}') AS p
            CROSS JOIN LATERAL (SELECT jobs -> (p.n - 1)::integer OFFSET 0) AS o (item)
            CROSS JOIN LATERAL (
                SELECT ARRAY(SELECT DISTINCT r.id FROM _pgq_named_ids(o.item -> 'after', v_all) AS r ORDER BY r.id)
                OFFSET 0
            ) AS a (after)
            CROSS JOIN LATERAL (SELECT coalesce(o.item ->> 'after_failed', 'cancel')) AS f (after_failed)
            WHERE coalesce(o.item -> 'after', 'null') NOT IN ('null', '[]')
        ), twins AS (
            SELECT count(g.signature) - count(DISTINCT g.signature)
                   + count((SELECT true FROM pgq_blocked AS b WHERE b.signature = g.signature)) AS jobs
            FROM graph AS g
        ), added AS (
            INSERT INTO pgq_blocked (
                id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
                enqueued_at, context, losses, newest_error, group_key, group_id, signature, after_failed
            )
            SELECT g.id, g.queue, g.kind, g.args, g.priority, g.ripe_at, 0, g.max_retries, g.backoff, g.backoff_cap,
                   g.dedup, g.dedup_key, at, g.context, NULL, NULL, g.group_key, NULL, g.signature, g.after_failed
            FROM graph AS g
            WHERE (SELECT t.jobs FROM twins AS t) = 0
            ORDER BY g.signature, g.n  -- so that two calls do not deadlock
            ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING
            RETURNING queue, group_key
        ), needed AS (
            INSERT INTO pgq_need (job, needs)
            SELECT g.id, u.id
            FROM graph AS g
            CROSS JOIN LATERAL unnest(g.after) AS u (id)
            WHERE (SELECT t.jobs FROM twins AS t) = 0
        )
        SELECT v_left - count(*), array_agg(DISTINCT a.queue COLLATE "C") FILTER (WHERE a.group_key IS NOT NULL)
        INTO v_left, v_grouped
        FROM added AS a;
        IF v_left > 0 THEN
            RAISE SQLSTATE 'PGQ00';
        END IF;
    EXCEPTION WHEN SQLSTATE 'PGQ00' THEN
        RETURN NULL;
    END;
    -- A mark costs look-ups only.
    FOR v_queue IN SELECT q FROM unnest(v_grouped) AS q LOOP
        PERFORM _pgq_mark(v_queue);
    END LOOP;
    RETURN v_all;
END
$_pgq_enqueue_blocked$;

COMMENT ON FUNCTION _pgq_enqueue_blocked(jsonb, timestamptz, bigint[], bigint[]) IS
    'Enqueue the jobs of an array, which is valid, that run after others. ids has the ids of those that do not, by '
    'their positions, and old those among them that this call has not created. Returns the ids of all, or NULL, and '
    'has enqueued none, if the jobs must be enqueued one by one: one may be a duplicate, or does not need to wait, or '
    'is refused.';
