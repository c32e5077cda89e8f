-- Which jobs a claim takes. pgq_claim and pgq_claim_batch share it, and differ in how they store and return the jobs.

CREATE FUNCTION _pgq_lock_ripe(
    queues text[],
    max_jobs bigint,
    max_bytes bigint,
    at timestamptz,
    OUT rows tid[],
    OUT token bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    -- Leave the planner one plan, whatever the statistics say: the claim index in its own order, then TID scans. A
    -- disabled plan type has a huge cost, which would trigger JIT, and compiling takes longer than the query.
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_ripe$
#variable_conflict use_column
DECLARE
    v_queue text;
    v_head pgq_head;
    v_heads pgq_head[];
    v_scans boolean := false;
    v_begun_at timestamptz;
    v_read bigint;
    v_wasted bigint;
    v_found integer;
    v_bytes bigint;
    v_suspects integer;
BEGIN
    rows := '{}';
    PERFORM _pgq_maintain(at);
    IF max_jobs = 0 THEN
        RETURN;
    END IF;

    -- A queue that is named twice would give the same rows twice: SKIP LOCKED does not skip this transaction's own
    -- locks.
    v_begun_at := clock_timestamp();
    IF cardinality(queues) > 1 THEN
        queues := _pgq_distinct(queues);
    END IF;
    FOREACH v_queue IN ARRAY queues LOOP
        v_head := _pgq_load_head(v_queue, v_begun_at);
        v_heads := v_heads || v_head;
        v_scans := v_scans OR v_head.due <= v_begun_at;
    END LOOP;
    v_read := _pgq_entries_read('pgq_waiting_claim');

    -- Lane by lane, lazily: nothing is locked but what is found. The sum is that of the args as they are stored; what
    -- lies out of line is not read.
    SELECT coalesce(array_agg(locked.ctid), '{}'), count(*), sum(locked.bytes), count(locked.losses)
    INTO rows, v_found, v_bytes, v_suspects
    FROM (
        SELECT ripe.ctid, ripe.bytes, ripe.losses
        FROM (
            SELECT h.queue, l.priority, _pgq_lane_start(l.here_ripe_us) AS ripe_at, coalesce(l.here_id, 0) AS id
            FROM unnest(v_heads) WITH ORDINALITY AS h (queue, due, rescan_delay, lanes, n)
            CROSS JOIN LATERAL (
                SELECT p.priority, known.here_ripe_us, known.here_id
                FROM generate_series(0, 9) AS p (priority)
                LEFT JOIN unnest(h.lanes) AS known USING (priority)
            ) AS l
            ORDER BY l.priority, h.n
        ) AS lane
        CROSS JOIN LATERAL (
            SELECT w.ctid, pg_column_size(w.args) AS bytes, w.losses
            FROM pgq_waiting AS w
            WHERE w.queue = lane.queue COLLATE "C"
              AND w.priority = lane.priority
              AND (w.ripe_at, w.id) > (lane.ripe_at, lane.id)
              AND w.ripe_at <= at
            ORDER BY w.ripe_at, w.id
            LIMIT max_jobs
            FOR UPDATE SKIP LOCKED
        ) AS ripe
        LIMIT max_jobs
    ) AS locked;
    -- Jobs beyond max_bytes stay where they are, locked until the end of this transaction. So do all jobs after a
    -- suspect that is the first job, or else all from the first suspect on. A snapshot of its own: a row that was
    -- updated just before it was locked has a new ctid, which the snapshot of the statement above does not see.
    IF v_bytes > max_bytes OR v_suspects > 0 THEN
        rows := ARRAY(
            SELECT sized.ctid
            FROM (
                SELECT w.ctid, r.n, sum(pg_column_size(w.args)) OVER (ORDER BY r.n) - pg_column_size(w.args) AS before,
                       count(w.losses) OVER (ORDER BY r.n) AS suspects
                FROM unnest(rows) WITH ORDINALITY AS r (ctid, n)
                JOIN pgq_waiting AS w ON w.ctid = r.ctid
            ) AS sized
            WHERE sized.n = 1 OR (sized.before < max_bytes AND sized.suspects = 0)
            ORDER BY sized.n
        );
    END IF;
    -- After a short walk from heads that are not due there is nothing to move. After a cut the lanes are not walked to
    -- their ends, and the jobs that are left do not count as dead entries.
    v_wasted := _pgq_entries_read('pgq_waiting_claim') - v_read - v_found;
    IF v_scans OR _pgq_is_long_scan(v_wasted, 10 * cardinality(v_heads)) THEN
        PERFORM _pgq_move_heads(
            v_heads, rows, v_found = max_jobs OR cardinality(rows) < v_found, v_wasted, at, v_begun_at);
    END IF;
    IF rows = '{}' THEN
        RETURN;
    END IF;

    -- Drawn while the rows are locked: a later claim of one of these jobs draws later.
    token := nextval('pgq_token');
    IF token < _pgq_microseconds(at) - 1000000 THEN
        token := _pgq_move_token(_pgq_microseconds(at));
    END IF;
END
$_pgq_lock_ripe$;

COMMENT ON FUNCTION _pgq_lock_ripe(text[], bigint, bigint, timestamptz) IS
    'Do the maintenance of a claim, and lock the rows of pgq_waiting that it takes: up to max_jobs that are ripe at a '
    'time, and no more once their args reach max_bytes; a suspect alone. Returns their ctids, in the order of the lanes, '
    'and the token of the claim; an empty array and NULL if there are none. The caller removes the rows in its next '
    'statement.';
