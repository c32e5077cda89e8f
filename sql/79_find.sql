-- Find jobs among millions, in a bounded time.
--
-- No index has the jobs by state, kind or argument, and one that had would cost each of their moves. So a search walks
-- the numbers of the jobs downwards, window by window, and stops when it has found enough or has taken long enough. It
-- says how far it has come, and another call goes on there. The dead rows of a held snapshot cost it time as well, and
-- so only shorten the way of one call.

-- The size of a window follows the time that the last one took: gaps are crossed in large steps.
CREATE FUNCTION _pgq_next_window(size bigint, took interval) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE
        WHEN took < interval '1 ms' THEN least(2 * size, 100000)
        WHEN took > interval '5 ms' THEN greatest(size / 2, 500)
        ELSE size
    END;

COMMENT ON FUNCTION _pgq_next_window(bigint, interval) IS
    'Return how many numbers of jobs the next window of a search has, after one of this size that took so long.';


-- An expression, so that PostgreSQL inlines it.
CREATE FUNCTION _pgq_has_text(contains text, args jsonb, dedup_key text, group_key text) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN strpos(args::text, contains) > 0 OR strpos(coalesce(dedup_key, ''), contains) > 0
           OR strpos(coalesce(group_key, ''), contains) > 0;

COMMENT ON FUNCTION _pgq_has_text(text, jsonb, text, text) IS
    'Return whether the private columns of a job contain a text.';


-- Packed batches have no index by job, so all of them are read: as many as workers have claimed.
CREATE FUNCTION pgq_find_jobs(
    state text DEFAULT NULL,
    queue text DEFAULT NULL,
    kind text DEFAULT NULL,
    contains text DEFAULT NULL,
    before bigint DEFAULT NULL,
    max_jobs bigint DEFAULT 50,
    OUT ids bigint[],
    OUT next_before bigint
)
    LANGUAGE plpgsql
    STABLE
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_find_jobs$
DECLARE
    v_reads text[] := _pgq_allowed_queues('admin');
    v_sees text[] := _pgq_seen_queues();
    v_sensitive text[] := ARRAY(SELECT s.queue FROM pgq_queue_setting AS s WHERE s.sensitive);
    v_begun_at timestamptz := clock_timestamp();
    v_window_at timestamptz := v_begun_at;
    v_until bigint := least(before, coalesce(pg_sequence_last_value('pgq_job_id'), 0) + 1);
    v_from bigint;
    v_size bigint := 1000;
    v_packed bigint[] := '{}';
    v_found bigint[];
BEGIN
    IF max_jobs IS NULL THEN
        RAISE EXCEPTION 'max_jobs is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Leave the argument out for the default.';
    END IF;
    IF max_jobs NOT BETWEEN 0 AND 1000
       OR state NOT IN ('waiting', 'blocked', 'running', 'done', 'dead', 'cancelled') THEN
        RAISE EXCEPTION 'cannot find % jobs with state "%"', max_jobs, left(state, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a max_jobs from 0 to 1000, and as state waiting, blocked, running, done, dead, cancelled '
                         'or NULL.';
    END IF;

    IF state = 'running' OR state IS NULL THEN
        v_packed := ARRAY(
            SELECT j.id
            FROM _pgq_packed AS j
            WHERE (before IS NULL OR j.id < before)
              AND (pgq_find_jobs.queue IS NULL OR j.queue = pgq_find_jobs.queue)
              AND (pgq_find_jobs.kind IS NULL OR j.kind = pgq_find_jobs.kind)
              AND (v_sees IS NULL OR j.queue = ANY (v_sees))
              AND (contains IS NULL OR strpos(j.kind, contains) > 0
                   OR (v_reads IS NULL OR j.queue = ANY (v_reads)) AND j.queue <> ALL (v_sensitive)
                      AND _pgq_has_text(contains, j.args, j.dedup_key, j.group_key))
            ORDER BY j.id DESC
            LIMIT max_jobs);
    END IF;
    ids := '{}';
    LOOP
        v_from := greatest(v_until - v_size, 0);
        v_found := ARRAY(
            SELECT j.id
            FROM (
                SELECT id, pgq_waiting.queue, pgq_waiting.kind, args, dedup_key, group_key
                FROM pgq_waiting
                WHERE (pgq_find_jobs.state = 'waiting' OR pgq_find_jobs.state IS NULL) AND id >= v_from AND id < v_until
                UNION ALL
                SELECT id, pgq_blocked.queue, pgq_blocked.kind, args, dedup_key, group_key
                FROM pgq_blocked
                WHERE (pgq_find_jobs.state = 'blocked' OR pgq_find_jobs.state IS NULL) AND id >= v_from AND id < v_until
                UNION ALL
                SELECT id, pgq_running.queue, pgq_running.kind, args, dedup_key, group_key
                FROM pgq_running
                WHERE (pgq_find_jobs.state = 'running' OR pgq_find_jobs.state IS NULL) AND id >= v_from AND id < v_until
                UNION ALL
                SELECT id, pgq_ended.queue, pgq_ended.kind, args, dedup_key, group_key
                FROM pgq_ended
                WHERE (outcome = pgq_find_jobs.state OR pgq_find_jobs.state IS NULL) AND id >= v_from AND id < v_until
            ) AS j
            WHERE (pgq_find_jobs.queue IS NULL OR j.queue = pgq_find_jobs.queue)
              AND (pgq_find_jobs.kind IS NULL OR j.kind = pgq_find_jobs.kind)
              AND (v_sees IS NULL OR j.queue = ANY (v_sees))
              AND (contains IS NULL OR strpos(j.kind, contains) > 0
                   OR (v_reads IS NULL OR j.queue = ANY (v_reads)) AND j.queue <> ALL (v_sensitive)
                      AND _pgq_has_text(contains, j.args, j.dedup_key, j.group_key))
            ORDER BY j.id DESC
            LIMIT max_jobs - cardinality(ids));
        ids := ids || v_found;
        EXIT WHEN v_from = 0 OR cardinality(ids) >= max_jobs;
        v_until := v_from;
        IF clock_timestamp() > v_begun_at + interval '40 ms' THEN
            next_before := v_until;
            EXIT;
        END IF;
        v_size := _pgq_next_window(v_size, clock_timestamp() - v_window_at);
        v_window_at := clock_timestamp();
    END LOOP;

    ids := ARRAY(
        SELECT f.id
        FROM unnest(ids || v_packed) AS f (id)
        WHERE next_before IS NULL OR f.id >= next_before
        ORDER BY f.id DESC
        LIMIT max_jobs);
    IF cardinality(ids) = max_jobs THEN
        next_before := ids[max_jobs::integer];
    END IF;
END
$pgq_find_jobs$;

COMMENT ON FUNCTION pgq_find_jobs(text, text, text, text, bigint, bigint) IS
    'Find the newest jobs that match, within about 50 milliseconds, however many jobs there are. Returns their '
    'numbers, at most max_jobs, the newest first, and next_before: not NULL if there may be more, which a call with '
    'this value as before finds; jobs from that number on have been searched. contains is text that is in the kind '
    'or, in a queue of which the role is an admin and that is not sensitive, in the JSON text of args, in dedup_key '
    'or in group_key, with capital letters as given. NULL for any argument but max_jobs means any, and NULL for '
    'before the newest job. A role finds jobs in the queues that it may use as admin or reader. Raises 22004 for a '
    'NULL max_jobs, 22023 for a bad max_jobs or state.';
