-- All running jobs, whether they are rows or packed, and how those that are packed become rows.

CREATE VIEW _pgq_packed AS
SELECT j.id, j.queue, j.kind, j.args::jsonb AS args, j.priority::smallint AS priority, j.ripe_at, j.attempt,
       j.max_retries, j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.enqueued_at,
       j.context::jsonb AS context, b.token, b.lease_until, b.worker, b.claimed_at, NULL::smallint AS losses,
       NULL::integer AS newest_error, NULL::text AS group_key, NULL::bigint AS group_id
FROM pgq_running_batch AS b
CROSS JOIN LATERAL unnest(
    b.ids, b.queues, b.kinds, b.args, b.priorities, b.ripe_ats, b.attempts, b.max_retries, b.backoffs, b.backoff_caps,
    b.dedups, b.dedup_keys, b.enqueued_ats, b.contexts
) AS j (id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context)
WHERE j.id <> ALL (b.gone);

COMMENT ON VIEW _pgq_packed IS 'The jobs of pgq_running_batch that are not gone, with the columns of pgq_running.';


CREATE VIEW _pgq_running AS
SELECT id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
       enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
FROM pgq_running
UNION ALL
SELECT id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
       enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
FROM _pgq_packed;

COMMENT ON VIEW _pgq_running IS
    'All running jobs, with the columns of pgq_running. A condition on id reads all batches, one on token does not.';


-- Fewer than nine jobs gain nothing. The rescue unpacks a batch as a whole, so a batch has a thousand jobs at most.
-- Unpacking writes all args again, and an array has less than 1 GB, so the args of a batch are small. A packed job has
-- no errors, is in a queue without groups and limits, and is no suspect, because a suspect is claimed alone.
CREATE FUNCTION _pgq_is_plain(jobs bigint, bytes bigint, failed bigint) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN jobs BETWEEN 9 AND 1000 AND bytes <= 262144 AND failed = 0;

COMMENT ON FUNCTION _pgq_is_plain(bigint, bigint, bigint) IS
    'Return whether a claim may pack its jobs into one row, given their number, the size of their args and contexts, '
    'and the number of those that have errors.';


CREATE FUNCTION _pgq_unpack(tokens bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_unpack$
BEGIN
    IF tokens = '{}' THEN
        RETURN;
    END IF;
    PERFORM _pgq_count_batch(b.token, b.queues, b.kinds, b.ripe_ats, b.claimed_at, NULL)
    FROM pgq_running_batch AS b
    WHERE b.token = ANY (tokens);
    WITH unpacked AS (
        DELETE FROM pgq_running_batch AS b WHERE b.token = ANY (tokens)
    )
    INSERT INTO pgq_running (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
    )
    SELECT p.id, p.queue, p.kind, p.args, p.priority, p.ripe_at, p.attempt, p.max_retries, p.backoff, p.backoff_cap,
           p.dedup, p.dedup_key, p.enqueued_at, p.context, p.token, p.lease_until, p.worker, p.claimed_at, p.losses,
           CASE WHEN _pgq_is_timed(p.token) THEN 0 END, p.group_key, p.group_id
    FROM _pgq_packed AS p
    WHERE p.token = ANY (tokens);
END
$_pgq_unpack$;

COMMENT ON FUNCTION _pgq_unpack(bigint[]) IS
    'Move the jobs of these batches, whose rows this transaction has locked in an earlier statement, to pgq_running. '
    'Returns nothing.';


-- This waits for transactions that have locked one of the batches. A job moves from its batch to pgq_running and never
-- back. So the caller looks for the row in its next statement, whether or not this function has unpacked a batch.
CREATE FUNCTION _pgq_unpack_jobs(ids bigint[], tokens bigint[], allowed text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_unpack_jobs$
BEGIN
    -- Most jobs that a worker takes one by one are rows already. What follows costs as much as taking such a job.
    IF NOT EXISTS (SELECT FROM pgq_running_batch AS b WHERE b.token = ANY (tokens)) THEN
        RETURN;
    END IF;
    PERFORM _pgq_unpack(ARRAY(
        SELECT found.token
        FROM (SELECT DISTINCT u.token FROM unnest(tokens) AS u (token) ORDER BY u.token) AS given
        CROSS JOIN LATERAL (
            SELECT b.token
            FROM pgq_running_batch AS b
            WHERE b.token = given.token
              AND EXISTS (
                  SELECT
                  FROM unnest(b.ids, b.queues) AS j (id, queue)
                  JOIN unnest(_pgq_unpack_jobs.ids, tokens) AS u (id, token) ON u.id = j.id AND u.token = b.token
                  WHERE j.id <> ALL (b.gone)
                    AND (allowed IS NULL OR j.queue = ANY (allowed))
              )
            FOR UPDATE
        ) AS found
    ));
END
$_pgq_unpack_jobs$;

COMMENT ON FUNCTION _pgq_unpack_jobs(bigint[], bigint[], text[]) IS
    'Unpack the batches in which these jobs run, each under its token, if they are in one of the allowed queues, or '
    'these are NULL. Returns nothing.';
