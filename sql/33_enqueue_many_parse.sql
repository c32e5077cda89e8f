-- Read the array that pgq_enqueue_many takes as rows.

CREATE FUNCTION _pgq_raise_invalid(
    n bigint,
    kind text,
    args jsonb,
    queue text,
    ripe_at timestamptz,
    delay interval,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup boolean,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    dedup_for interval,
    at timestamptz
) RETURNS boolean
    LANGUAGE plpgsql
    STABLE
    SET search_path FROM CURRENT
AS $_pgq_raise_invalid$
DECLARE
    v_problem CONSTANT text[] := _pgq_validate(
        kind, args, queue, ripe_at, delay, priority, max_retries, backoff, backoff_cap, dedup, dedup_key,
        on_duplicate, context, group_key, dedup_for, at);
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = v_problem[1],
        MESSAGE = format('job %s of the array: %s', n, v_problem[2]),
        HINT = v_problem[3];
END
$_pgq_raise_invalid$;

COMMENT ON FUNCTION _pgq_raise_invalid(
    bigint, text, jsonb, text, timestamptz, interval, bigint, bigint, interval, interval, boolean, text, text, jsonb,
    text, interval, timestamptz
) IS
    'Raise the error for a job of an array that may not be enqueued, with its number. Never returns.';


-- STABLE and without a search path of its own, so that PostgreSQL inlines it, and computes only those columns that are
-- used. The JSON null is a value for args; for any other key it means the default, as if the key were absent. In a
-- record both are NULL, so args that are NULL are looked up again.
CREATE FUNCTION _pgq_parse_jobs(jobs jsonb, at timestamptz, ordered text[]) RETURNS TABLE (
    n bigint,
    kind text,
    args jsonb,
    args_as_text text,
    queue text,
    ripe_at timestamptz,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup boolean,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    group_id bigint,
    dedup_for interval,
    valid boolean
)
    LANGUAGE sql
    STABLE
BEGIN ATOMIC
    SELECT j.n, j.kind, j.args, j.args_as_text, j.queue, coalesce(j.ripe_at, at + j.delay, at), j.priority,
           j.max_retries, j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.on_duplicate, j.context, j.group_key,
           CASE
               WHEN j.group_key IS NULL THEN NULL
               WHEN coalesce(j.ripe_at, at + j.delay, at) <= at OR j.queue = ANY (ordered)
                   THEN _pgq_group_id(j.group_key)
               ELSE _pgq_room()
           END,
           j.dedup_for,
           CASE
               WHEN _pgq_is_common(j.kind, j.args_as_text, j.queue, j.ripe_at, j.delay, j.priority, j.max_retries,
                                   j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.on_duplicate, j.context,
                                   j.group_key, j.dedup_for, NULL, NULL)
                    OR _pgq_is_valid(j.kind, j.args_as_text, j.queue, j.ripe_at, j.delay, j.priority, j.max_retries,
                                     j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.on_duplicate, j.context,
                                     j.group_key, j.dedup_for, at)
                   THEN true
               ELSE _pgq_raise_invalid(j.n, j.kind, j.args, j.queue, j.ripe_at, j.delay, j.priority, j.max_retries,
                                       j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.on_duplicate, j.context,
                                       j.group_key, j.dedup_for, at)
           END
    FROM (
        SELECT p.*, p.args::text AS args_as_text
        FROM (
            SELECT r.n, r.kind, coalesce(r.args, jobs -> (r.n - 1)::integer -> 'args', '{}') AS args,
                   coalesce(r.queue, 'default') AS queue, r.ripe_at, r.delay, coalesce(r.priority, 5) AS priority,
                   r.max_retries, r.backoff, r.backoff_cap, coalesce(r.dedup, true) AS dedup, r.dedup_key,
                   coalesce(r.on_duplicate, 'keep') AS on_duplicate, r.context, r.group_key, r.dedup_for
            FROM ROWS FROM (
                jsonb_to_recordset(jobs) AS (
                    kind text, args jsonb, queue text, ripe_at timestamptz, delay interval, priority bigint,
                    max_retries bigint, backoff interval, backoff_cap interval, dedup boolean, dedup_key text,
                    on_duplicate text, context jsonb, group_key text, dedup_for interval)
            ) WITH ORDINALITY AS r (
                kind, args, queue, ripe_at, delay, priority, max_retries, backoff, backoff_cap, dedup, dedup_key,
                on_duplicate, context, group_key, dedup_for, n)
        ) AS p
        OFFSET 0  -- without it, PostgreSQL merges the subquery into the query around it, and converts args at each use
    ) AS j;
END;

COMMENT ON FUNCTION _pgq_parse_jobs(jsonb, timestamptz, text[]) IS
    'Return the jobs of an array as rows, with the defaults of pgq_enqueue filled in; n counts from 1. ordered has the '
    'ordered queues, which decide group_id. valid is always true: for a job that may not be enqueued at a time, '
    'reading it raises the error.';
