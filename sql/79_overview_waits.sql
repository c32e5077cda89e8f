-- What has waited longest, and what died.

-- The first entry of each lane, from its head on. Of the jobs of groups, 10,000 are read; the last range of the index is
-- the waiting room, whose jobs are not ripe.
CREATE FUNCTION _pgq_longest_ripe(queue text, at timestamptz) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_longest_ripe$
DECLARE
    c_most CONSTANT bigint := 10000;
    v_lanes _pgq_lane_head[];
BEGIN
    IF _pgq_sample_percent('pgq_waiting') IS NOT NULL THEN
        v_lanes := (_pgq_shared_head(queue, at)).lanes;
    END IF;
    RETURN (
        SELECT j.id
        FROM (
            SELECT first.id, first.ripe_at
            FROM generate_series(0, 9) AS p (priority)
            LEFT JOIN LATERAL unnest(v_lanes) AS known USING (priority)
            CROSS JOIN LATERAL (
                SELECT w.id, w.ripe_at
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_longest_ripe.queue COLLATE "C"
                  AND w.group_id IS NULL
                  AND w.priority = p.priority
                  AND (w.ripe_at, w.id) > (_pgq_lane_start(known.next_ripe_us), coalesce(known.next_id, 0))
                ORDER BY w.ripe_at, w.id
                LIMIT 1
            ) AS first
            UNION ALL
            (
                SELECT w.id, w.ripe_at
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_longest_ripe.queue COLLATE "C" AND w.group_id IS NOT NULL
                ORDER BY w.group_id, w.priority, w.ripe_at, w.id
                LIMIT c_most
            )
        ) AS j
        WHERE j.ripe_at <= at
        ORDER BY j.ripe_at, j.id
        LIMIT 1
    );
END
$_pgq_longest_ripe$;

COMMENT ON FUNCTION _pgq_longest_ripe(text, timestamptz) IS
    'Return the number of the job of a queue that has been ripe for longest, as far as the heads of its lanes and its '
    'first 10,000 jobs with groups tell; NULL: none is ripe.';


-- The queues are looked up before the query: a scan of an empty table would not call _pgq_seen_queues, which refuses. And
-- a session keeps a plan that was made for an empty table.
CREATE FUNCTION pgq_overview_waits() RETURNS TABLE (
    id bigint,
    queue text,
    kind text,
    priority integer,
    attempt integer,
    ripe_at timestamptz,
    age interval
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
AS $pgq_overview_waits$
DECLARE
    v_now timestamptz := pgq_now();
    v_seen text[] := _pgq_seen_queues();
BEGIN
    RETURN QUERY
    SELECT w.id, w.queue, w.kind, w.priority::integer, w.attempt, w.ripe_at, v_now - w.ripe_at
    FROM pgq_waiting AS w
    WHERE w.id = ANY (ARRAY(
        SELECT _pgq_longest_ripe(q.name, v_now)
        FROM _pgq_queues_to_count(v_seen) AS q (name)
    ))
    ORDER BY w.ripe_at, w.id
    LIMIT 100;
END
$pgq_overview_waits$;

COMMENT ON FUNCTION pgq_overview_waits() IS
    'Return for each queue the job that has been ripe for longest, and for how long (age), the longest first; of up to '
    '100 queues. It waits because no worker is free, none handles it, or its queue is paused or full. Of the jobs with '
    'groups, the first 10,000 of each queue are read; a job that claims have not found yet is missing. Returns the '
    'queues that the calling role may use as admin or reader.';


CREATE FUNCTION pgq_overview_deaths(since interval DEFAULT NULL) RETURNS TABLE (
    queue text,
    kind text,
    error text,
    jobs bigint,
    newest_job bigint,
    newest_at timestamptz,
    oldest_at timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET jit = off
AS $pgq_overview_deaths$
DECLARE
    c_read CONSTANT integer := 10000;
    c_most CONSTANT integer := 1000;
    v_since timestamptz := coalesce(pgq_now() - since, '-infinity');
    v_seen text[] := _pgq_seen_queues();
    v_reads text[] := _pgq_allowed_queues('admin');
BEGIN
    RETURN QUERY
    SELECT j.queue, j.kind, j.error, count(*), (array_agg(j.id ORDER BY j.ended_at DESC, j.id DESC))[1],
           max(j.ended_at), min(j.ended_at)
    FROM (
        SELECT d.id, d.queue, d.kind, d.ended_at,
               -- The newest error; a client may have begun it with an empty line.
               (
                   SELECT left(split_part(
                              translate(ltrim(f.error, E' \t\r\n'), E'\r', E'\n'), E'\n', 1), 200)
                   FROM pgq_error AS f
                   WHERE f.id = d.id
                     AND (v_reads IS NULL OR d.queue = ANY (v_reads))
                     AND (SELECT q.sensitive FROM pgq_queue_setting AS q WHERE q.queue = d.queue COLLATE "C") IS NOT TRUE
                   ORDER BY f.number DESC
                   LIMIT 1
               ) AS error
        FROM (
            SELECT e.id, e.queue, e.kind, e.ended_at
            FROM pgq_ended AS e
            WHERE e.outcome = 'dead' AND e.ended_at > v_since
            ORDER BY e.ended_at DESC
            LIMIT c_read
        ) AS d
        WHERE v_seen IS NULL OR d.queue = ANY (v_seen)
        ORDER BY d.ended_at DESC
        LIMIT c_most
    ) AS j
    GROUP BY j.queue, j.kind, j.error
    ORDER BY count(*) DESC, max(j.ended_at) DESC, j.queue, j.kind, j.error;
END
$pgq_overview_deaths$;

COMMENT ON FUNCTION pgq_overview_deaths(interval) IS
    'Return why jobs died: the number of the newest 1,000 dead jobs by queue, kind and error, the most frequent first, '
    'with the number of the newest of them, and the times at which the newest and the oldest ended. With since, only '
    'jobs that ended within this time; NULL: whenever. error is the first line of the newest error of a job, at most '
    '200 characters; NULL: the job has none, its queue is sensitive, or the calling role is not an admin of the queue. '
    'For a role with allowed queues, the newest 1,000 of its queues among the newest 10,000 of all. Returns the queues '
    'that the calling role may use as admin or reader.';
