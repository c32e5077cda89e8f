-- Claim ripe jobs: out of pgq_waiting, into pgq_running, under a fresh token and a lease.

CREATE FUNCTION pgq_claim(
    queues text[] DEFAULT '{default}',
    max_jobs bigint DEFAULT 1,
    lease interval DEFAULT '5 minutes',
    worker text DEFAULT NULL,
    max_bytes bigint DEFAULT 16777216
) RETURNS TABLE (
    id bigint,
    token bigint,
    queue text,
    kind text,
    args jsonb,
    attempt integer,
    max_retries integer,
    priority integer,
    ripe_at timestamptz,
    enqueued_at timestamptz,
    lease_until timestamptz,
    context jsonb,
    suspect boolean
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    -- Leave the planner one plan, whatever the statistics say: the claim index in its own order, then TID scans. A
    -- disabled plan type has a huge cost, which would trigger JIT, and compiling takes longer than the query.
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_claim$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_lease_until timestamptz := _pgq_lease_end(v_now, lease);
    v_token bigint;
    v_queue text;
    v_heads pgq_head[];
    v_begun_at timestamptz;
    v_read bigint;
    v_rows tid[];
    v_found integer;
    v_bytes bigint;
    v_suspects integer;
BEGIN
    PERFORM _pgq_check_claim(queues, max_jobs, worker, max_bytes);

    PERFORM _pgq_maintain(v_now);
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
        v_heads := v_heads || _pgq_load_head(v_queue, v_begun_at);
    END LOOP;
    v_read := _pgq_entries_read('pgq_waiting_claim');

    -- Lane by lane, lazily: nothing is locked but what is found. The sum is that of the args as they are stored; what
    -- lies out of line is not read.
    SELECT coalesce(array_agg(locked.ctid), '{}'), count(*), sum(locked.bytes), count(locked.losses)
    INTO v_rows, v_found, v_bytes, v_suspects
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
              AND w.ripe_at <= v_now
            ORDER BY w.ripe_at, w.id
            LIMIT max_jobs
            FOR UPDATE SKIP LOCKED
        ) AS ripe
        LIMIT max_jobs
    ) AS locked;
    -- Jobs beyond max_bytes stay where they are, locked until the end of this transaction. So do all jobs after a
    -- suspect that is the first job, or else all from the first suspect on. A statement of its own, for the same reason
    -- as the last one.
    IF v_bytes > max_bytes OR v_suspects > 0 THEN
        v_rows := ARRAY(
            SELECT sized.ctid
            FROM (
                SELECT w.ctid, r.n, sum(pg_column_size(w.args)) OVER (ORDER BY r.n) - pg_column_size(w.args) AS before,
                       count(w.losses) OVER (ORDER BY r.n) AS suspects
                FROM unnest(v_rows) WITH ORDINALITY AS r (ctid, n)
                JOIN pgq_waiting AS w ON w.ctid = r.ctid
            ) AS sized
            WHERE sized.n = 1 OR (sized.before < max_bytes AND sized.suspects = 0)
            ORDER BY sized.n
        );
    END IF;
    -- After a cut the lanes are not walked to their ends, and the jobs that are left do not count as dead entries.
    PERFORM _pgq_move_heads(
        v_heads, v_rows, v_found = max_jobs OR cardinality(v_rows) < v_found,
        _pgq_entries_read('pgq_waiting_claim') - v_read - v_found, v_now, v_begun_at);
    IF v_rows = '{}' THEN
        RETURN;
    END IF;

    -- Drawn while the rows are locked: a later claim of one of these jobs draws later.
    v_token := nextval('pgq_token');
    IF v_token < _pgq_microseconds(v_now) - 1000000 THEN
        v_token := _pgq_move_token(_pgq_microseconds(v_now));
    END IF;

    -- A statement of its own, for a snapshot of its own: a row that was updated just before it was locked has a new
    -- ctid, which the snapshot of the statement above does not see.
    RETURN QUERY
    WITH taken AS (
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = ANY (v_rows)
        RETURNING w.*
    )
    INSERT INTO pgq_running AS r (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, errors, context, token, lease_until, worker, claimed_at, losses
    )
    SELECT t.id, t.queue, t.kind, t.args, t.priority, t.ripe_at, t.attempt + 1, t.max_retries, t.backoff, t.backoff_cap,
           t.dedup, t.dedup_key, t.enqueued_at, t.errors, t.context, v_token, v_lease_until, pgq_claim.worker, v_now,
           t.losses
    FROM taken AS t
    ORDER BY t.priority, t.ripe_at, t.id
    RETURNING r.id, r.token, r.queue, r.kind, r.args, r.attempt, r.max_retries, r.priority::integer, r.ripe_at,
              r.enqueued_at, r.lease_until, r.context, r.losses IS NOT NULL;
END
$pgq_claim$;

COMMENT ON FUNCTION pgq_claim(text[], bigint, interval, text, bigint) IS
    'Take up to max_jobs ripe jobs of these queues: by priority, 0 first, then by queue in the order given, then by '
    'ripe_at. So ripe jobs of one priority and queue keep back those after them; a worker that names its queues in '
    'another order each time lets each come first in turn. Each row has the token that every further call about the '
    'job must present; the attempt is counted. Fewer rows than max_jobs do not mean that no other job is ripe: once '
    'the args of the jobs taken reach max_bytes, as they are stored, no further job is taken; and a suspect, which is '
    'a job that was lost together with others, is returned alone. Ripe jobs that are not taken may stay locked until '
    'the end of the transaction. If the lease ends before the job is completed, put back or extended, a later claim '
    'rescues it. About once a second in each session, a claim first rescues up to 50 jobs, of any queue, whose lease '
    'has ended or whose worker is gone. Returns no row if no job is ripe. A ripe job is not returned while another '
    'transaction has it locked, and may be missed for some minutes while it lies among the index entries of many '
    'claimed jobs. worker is the name under which the jobs are held (see pgq_register); NULL means none. Any other '
    'NULL, also among the queues, raises 22004. Raises 22023 for a bad value, 42501 for a queue that the calling role '
    'may not use.';
