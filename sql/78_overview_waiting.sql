-- Numbers of waiting jobs, bounded.

-- From the heads on, so that the dead entries before them are not read. A job before the head of its lane, which no
-- claim has found yet either, is missing: the numbers are estimates then. The jobs of groups have no common head.
CREATE FUNCTION _pgq_tally_queue(queue text, most bigint, at timestamptz) RETURNS SETOF _pgq_tally
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_tally_queue$
DECLARE
    v_lanes _pgq_lane_head[] := (_pgq_shared_head(queue, at)).lanes;
BEGIN
    RETURN QUERY
    SELECT _pgq_tally_queue.queue, j.kind, 'waiting', count(*), count(*) FILTER (WHERE j.ripe_at <= at),
           min(j.ripe_at) FILTER (WHERE j.ripe_at <= at), coalesce(v_lanes <> '{}', false)
    FROM (
        SELECT first.kind, first.ripe_at
        FROM generate_series(0, 9) AS p (priority)
        LEFT JOIN LATERAL unnest(v_lanes) AS known USING (priority)
        CROSS JOIN LATERAL (
            SELECT w.kind, w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_tally_queue.queue COLLATE "C"
              AND w.group_id IS NULL
              AND w.priority = p.priority
              AND (w.ripe_at, w.id) > (_pgq_lane_start(known.next_ripe_us), coalesce(known.next_id, 0))
            ORDER BY w.ripe_at, w.id
            LIMIT most
        ) AS first
        UNION ALL
        (
            SELECT w.kind, w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_tally_queue.queue COLLATE "C" AND w.group_id IS NOT NULL
            ORDER BY w.group_id, w.priority, w.ripe_at, w.id
            LIMIT most
        )
    ) AS j
    GROUP BY j.kind;
END
$_pgq_tally_queue$;

COMMENT ON FUNCTION _pgq_tally_queue(text, bigint, timestamptz) IS
    'Return the numbers of the waiting jobs of a queue, by kind; of each lane, and of all groups, up to so many of the '
    'first jobs.';


-- Queues of which the sample has nothing come first: these are small, and their numbers are exact.
CREATE FUNCTION _pgq_tally_waiting(seen text[], at timestamptz) RETURNS SETOF _pgq_tally
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET jit = off
AS $_pgq_tally_waiting$
DECLARE
    c_most CONSTANT bigint := 10001;
    c_few CONSTANT bigint := 100;
    v_left bigint := 100000;
    v_percent real := _pgq_sample_percent('pgq_waiting');
    v_sample _pgq_tally[];
    v_queue record;
    v_most bigint;
    v_counted _pgq_tally[];
    v_jobs bigint;
    v_done text[] := '{}';
BEGIN
    v_sample := ARRAY(
        SELECT ROW(w.queue, w.kind, 'waiting', count(*) * 100 / coalesce(v_percent, 100),
                   count(*) FILTER (WHERE w.ripe_at <= at) * 100 / coalesce(v_percent, 100),
                   min(w.ripe_at) FILTER (WHERE w.ripe_at <= at), v_percent IS NOT NULL)::_pgq_tally
        FROM pgq_waiting AS w TABLESAMPLE SYSTEM (coalesce(v_percent, 100)) REPEATABLE (1)
        WHERE seen IS NULL OR w.queue = ANY (seen)
        GROUP BY w.queue, w.kind
    );
    IF v_percent IS NULL THEN
        RETURN QUERY SELECT s.* FROM unnest(v_sample) AS s;
        RETURN;
    END IF;

    FOR v_queue IN
        SELECT q.name, coalesce(s.jobs, 0) AS jobs
        FROM _pgq_queues_to_count(seen) AS q (name)
        LEFT JOIN (
            SELECT u.queue, sum(u.jobs) AS jobs FROM unnest(v_sample) AS u GROUP BY u.queue
        ) AS s ON s.queue = q.name
        ORDER BY s.jobs NULLS FIRST
    LOOP
        v_most := CASE WHEN v_left > 0 AND v_queue.jobs <= 2 * c_most THEN c_most ELSE c_few END;
        v_counted := ARRAY(SELECT t FROM _pgq_tally_queue(v_queue.name, v_most, at) AS t);
        v_jobs := (SELECT coalesce(sum(t.jobs), 0) FROM unnest(v_counted) AS t);
        v_left := v_left - v_jobs;
        IF v_jobs < v_most THEN
            RETURN QUERY SELECT t.* FROM unnest(v_counted) AS t;
            v_done := v_done || v_queue.name;
        ELSE
            v_sample := v_sample || v_counted;
        END IF;
    END LOOP;

    RETURN QUERY
    SELECT s.queue, s.kind, 'waiting', max(s.jobs), max(s.ripe), min(s.oldest), true
    FROM unnest(v_sample) AS s
    WHERE s.queue <> ALL (v_done)
    GROUP BY s.queue, s.kind;
END
$_pgq_tally_waiting$;

COMMENT ON FUNCTION _pgq_tally_waiting(text[], timestamptz) IS
    'Return the numbers of the waiting jobs of these queues, of all if the argument is NULL, by queue and kind.';
