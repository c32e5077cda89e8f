-- Enqueue an array of jobs of which some are to run after others, by their positions in the array.

CREATE FUNCTION _pgq_check_references(jobs jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_references$
DECLARE
    v_bad record;
BEGIN
    SELECT j.n, r.reference INTO v_bad
    FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
    CROSS JOIN LATERAL jsonb_array_elements(
        CASE jsonb_typeof(j.item -> 'after') WHEN 'array' THEN j.item -> 'after' ELSE '[]' END) AS r (reference)
    WHERE CASE jsonb_typeof(r.reference)
              WHEN 'number' THEN r.reference::text !~ '^[0-9]{1,18}$'
              WHEN 'string' THEN r.reference #>> '{}' !~ '^#[0-9]{1,9}$'
                                 OR substr(r.reference #>> '{}', 2)::integer NOT BETWEEN 1 AND j.n - 1
              ELSE true
          END
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job % of the array: after has %, which is neither an id nor the position of an earlier job',
              v_bad.n, left(v_bad.reference::text, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give ids as numbers, and the jobs of this array that come before as strings such as "#1", '
                         'the first one.';
    END IF;
    PERFORM _pgq_check_after(NULL, f.after_failed)
    FROM (SELECT DISTINCT j.item ->> 'after_failed' FROM jsonb_array_elements(jobs) AS j (item)) AS f (after_failed);
END
$_pgq_check_references$;

COMMENT ON FUNCTION _pgq_check_references(jsonb) IS
    'Check what the jobs of an array have under the keys after and after_failed. Returns nothing. Raises 22023 for '
    'what is neither an id nor the position of an earlier job, and for an unknown after_failed.';


-- Those without prerequisites first, as an array of their own. The others are one set if none may be a duplicate or is
-- not blocked. If not, they come in the order of the array: each finds the ids of those before.
CREATE FUNCTION _pgq_enqueue_graph(jobs jsonb, at timestamptz)
    RETURNS TABLE (n bigint, id bigint, created boolean)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enqueue_graph$
#variable_conflict use_column
DECLARE
    v_ids bigint[];
    v_first bigint[];
    v_old bigint[] := '{}';
    v_all bigint[];
    v_job record;
BEGIN
    PERFORM _pgq_check_references(jobs);
    -- No bad array waits for another transaction.
    IF NOT (SELECT bool_and(j.valid) FROM _pgq_parse_jobs(jobs, at, '{}') AS j) THEN
        RETURN;
    END IF;
    v_ids := array_fill(NULL::bigint, ARRAY[jsonb_array_length(jobs)]);
    v_first := ARRAY(
        SELECT j.n
        FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
        WHERE coalesce(j.item -> 'after', 'null') IN ('null', '[]')
        ORDER BY j.n);

    FOR v_job IN
        SELECT v_first[e.n] AS n, e.id, e.created, coalesce(j.item ->> 'on_duplicate', 'keep') AS on_duplicate
        FROM pgq_enqueue_many((
            SELECT coalesce(jsonb_agg(
                       (o.item - '{after,after_failed}'::text[]) || CASE o.item ->> 'on_duplicate'
                           WHEN 'error' THEN '{"on_duplicate": "keep"}' ELSE '{}' END::jsonb
                       ORDER BY o.n), '[]')
            FROM jsonb_array_elements(jobs) WITH ORDINALITY AS o (item, n)
            WHERE coalesce(o.item -> 'after', 'null') IN ('null', '[]')
        )) AS e
        CROSS JOIN LATERAL (SELECT jobs -> (v_first[e.n] - 1)::integer) AS j (item)
    LOOP
        n := v_job.n;
        id := v_job.id;
        created := v_job.created;
        v_ids[n] := id;
        IF NOT created THEN
            v_old := v_old || id;
            PERFORM _pgq_refuse_duplicate(n, id, created, v_job.on_duplicate);
        END IF;
        RETURN NEXT;
    END LOOP;

    v_all := _pgq_enqueue_blocked(jobs, at, v_ids, v_old);
    IF v_all IS NOT NULL THEN
        RETURN QUERY
        SELECT a.n, a.id, true
        FROM ROWS FROM (unnest(v_all), unnest(v_ids)) WITH ORDINALITY AS a (id, first, n)
        WHERE a.first IS NULL;
        RETURN;
    END IF;
    FOR v_job IN
        SELECT p.*, o.item -> 'after' AS after, o.item ->> 'after_failed' AS after_failed
        FROM _pgq_parse_jobs(jobs, at, '{}') AS p
        CROSS JOIN LATERAL (SELECT jobs -> (p.n - 1)::integer) AS o (item)
        WHERE coalesce(o.item -> 'after', 'null') NOT IN ('null', '[]')
        ORDER BY p.n
    LOOP
        n := v_job.n;
        SELECT e.id, e.created INTO id, created
        FROM pgq_enqueue(
            v_job.kind, v_job.args, v_job.queue, v_job.ripe_at, NULL, v_job.priority, v_job.max_retries, v_job.backoff,
            v_job.backoff_cap, v_job.dedup, v_job.dedup_key,
            CASE v_job.on_duplicate WHEN 'error' THEN 'keep' ELSE v_job.on_duplicate END, v_job.context,
            v_job.group_key, v_job.dedup_for,
            after => ARRAY(SELECT r.id FROM _pgq_named_ids(v_job.after, v_ids) AS r),
            after_failed => v_job.after_failed) AS e;
        v_ids[n] := id;
        PERFORM _pgq_refuse_duplicate(n, id, created, v_job.on_duplicate);
        RETURN NEXT;
    END LOOP;
END
$_pgq_enqueue_graph$;

COMMENT ON FUNCTION _pgq_enqueue_graph(jsonb, timestamptz) IS
    'Do what pgq_enqueue_many does, at a time, for an array in which a job has the key after or after_failed. Returns '
    'the rows in any order.';


CREATE FUNCTION _pgq_refuse_duplicate(n bigint, id bigint, created boolean, on_duplicate text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_refuse_duplicate$
BEGIN
    IF on_duplicate = 'error' AND NOT created THEN
        RAISE EXCEPTION 'job % of the array: job % is waiting or blocked already with this signature', n, id
            USING ERRCODE = 'PGQ04',
                  HINT = 'Use on_duplicate => ''keep'' to get the id of that job instead.';
    END IF;
END
$_pgq_refuse_duplicate$;

COMMENT ON FUNCTION _pgq_refuse_duplicate(bigint, bigint, boolean, text) IS
    'Raise PGQ04 if a job of an array was not created and on_duplicate is error. Returns nothing.';
