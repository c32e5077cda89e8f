-- Which jobs a claim takes. pgq_claim and pgq_claim_batch share it, and differ in how they store and return the jobs.
--
-- The lanes are scanned in one of three ways, which find the same jobs. The claim of most workers is bare and from one
-- queue, and the plan for this one has half of the nodes.

CREATE FUNCTION _pgq_lock_ripe(
    queues text[],
    max_jobs bigint,
    max_bytes bigint,
    at timestamptz,
    OUT rows tid[],
    OUT token bigint,
    OUT bytes bigint,
    OUT failed bigint
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
    v_digest text;
    v_is_bare boolean;
    v_next_due timestamptz;
    v_heads pgq_head[];
    v_filled pgq_head[];
    v_has_heads boolean;
    v_scans boolean;
    v_is_long boolean;
    v_begun_at timestamptz;
    v_read bigint;
    v_wasted bigint;
    v_found integer;
    v_suspects bigint;
BEGIN
    -- Lane by lane, lazily: nothing is locked but what is found. The sizes are those of the values as they are stored;
    -- what lies out of line is not read. For one queue the expression below is the value of _pgq_digest, without a
    -- query. v_digest stays NULL on this way.
    v_begun_at := clock_timestamp();
    IF cardinality(queues) = 1 AND max_jobs > 0
       AND _pgq_is_bare('1 ' || hashtextextended(queues[1] COLLATE "C", 0), _pgq_microseconds(at)) THEN
        v_read := _pgq_entries_read('pgq_waiting_claim');
        SELECT coalesce(array_agg(locked.ctid), '{}'), sum(locked.bytes), count(locked.losses),
               count(locked.newest_error)
        INTO rows, bytes, v_suspects, failed
        FROM (
            SELECT ripe.ctid, ripe.bytes, ripe.losses, ripe.newest_error
            FROM generate_series(0, 9) AS lane (priority)
            CROSS JOIN LATERAL (
                SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses,
                       w.newest_error
                FROM pgq_waiting AS w
                WHERE w.queue = queues[1] COLLATE "C"
                  AND w.group_id IS NULL
                  AND w.priority = lane.priority
                  AND w.ripe_at <= at
                ORDER BY w.ripe_at, w.id
                LIMIT max_jobs
                FOR UPDATE SKIP LOCKED
            ) AS ripe
            LIMIT max_jobs
        ) AS locked;
    ELSE
        rows := '{}';
        v_digest := _pgq_digest(queues);
        v_is_bare := coalesce(_pgq_is_bare(v_digest, _pgq_microseconds(at)), false);
        IF NOT v_is_bare THEN
            v_next_due := _pgq_maintain(at);
        END IF;
        IF max_jobs = 0 THEN
            RETURN;
        END IF;

        v_begun_at := clock_timestamp();
        IF v_is_bare THEN
            v_read := _pgq_entries_read('pgq_waiting_claim');
            SELECT l.rows, l.bytes, l.suspects, l.failed INTO rows, bytes, v_suspects, failed
            FROM _pgq_lock_in_many(queues, max_jobs, at) AS l;
        ELSE
            -- A queue that is named twice would give the same rows twice: SKIP LOCKED does not skip this transaction's
            -- own locks.
            IF cardinality(queues) > 1 THEN
                queues := _pgq_distinct(queues);
            END IF;
            v_heads := _pgq_load_heads(queues, v_begun_at);
            v_read := _pgq_entries_read('pgq_waiting_claim');
            v_filled := v_heads;
            IF cardinality(v_heads) > 16 THEN
                v_filled := _pgq_drop_empty(v_heads);
            END IF;
            SELECT coalesce(array_agg(locked.ctid), '{}'), sum(locked.bytes), count(locked.losses),
                   count(locked.newest_error)
            INTO rows, bytes, v_suspects, failed
            FROM (
                SELECT ripe.ctid, ripe.bytes, ripe.losses, ripe.newest_error
                FROM (
                    SELECT h.queue, l.priority, _pgq_lane_start(l.here_ripe_us) AS ripe_at, coalesce(l.here_id, 0) AS id
                    FROM unnest(v_filled) WITH ORDINALITY AS h (queue, due, rescan_delay, lanes, n)
                    CROSS JOIN LATERAL (
                        SELECT p.priority, known.here_ripe_us, known.here_id
                        FROM generate_series(0, 9) AS p (priority)
                        LEFT JOIN unnest(h.lanes) AS known USING (priority)
                    ) AS l
                    ORDER BY l.priority, h.n
                ) AS lane
                CROSS JOIN LATERAL (
                    SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses,
                           w.newest_error
                    FROM pgq_waiting AS w
                    WHERE w.queue = lane.queue COLLATE "C"
                      AND w.group_id IS NULL
                      AND w.priority = lane.priority
                      AND (w.ripe_at, w.id) > (lane.ripe_at, lane.id)
                      AND w.ripe_at <= at
                    ORDER BY w.ripe_at, w.id
                    LIMIT max_jobs
                    FOR UPDATE SKIP LOCKED
                ) AS ripe
                LIMIT max_jobs
            ) AS locked;
        END IF;
    END IF;
    IF bytes > max_bytes OR v_suspects > 0 THEN
        v_found := cardinality(rows);
        rows := _pgq_cut(rows, max_bytes);
    END IF;
    -- Jobs that a cut leaves do not count as dead entries.
    v_wasted := _pgq_entries_read('pgq_waiting_claim') - v_read - coalesce(v_found, cardinality(rows));
    IF v_digest IS NOT NULL OR _pgq_is_long_scan(v_wasted, 10) THEN
        v_found := coalesce(v_found, cardinality(rows));
        v_is_bare := v_heads IS NULL;
        v_is_long := _pgq_is_long_scan(v_wasted, 10 * cardinality(queues));
        IF NOT v_is_bare THEN
            SELECT bool_or(h.due <= v_begun_at), bool_or(h.lanes <> '{}')
            INTO v_scans, v_has_heads
            FROM unnest(v_heads) AS h;
        ELSIF v_is_long THEN
            -- Like heads that are not known: this claim has scanned each lane from its start.
            v_heads := ARRAY(SELECT ROW(q, v_begun_at, '0', '{}')::pgq_head FROM unnest(queues) AS q);
            PERFORM set_config(_pgq_bare_setting(), '', false);
        END IF;
        -- After a short walk from heads that are not due there is nothing to move. After a cut the lanes are not walked
        -- to their ends.
        IF v_is_long OR v_scans THEN
            PERFORM _pgq_move_heads(
                v_heads, rows, v_found = max_jobs OR cardinality(rows) < v_found, v_wasted, at, v_begun_at);
        END IF;
        -- Not for a list that names a queue twice, because a bare claim does not remove the second one.
        IF NOT (v_is_bare OR v_is_long OR v_has_heads) AND v_next_due > at
           AND starts_with(v_digest, cardinality(queues) || ' ') THEN
            PERFORM set_config(
                _pgq_bare_setting(),
                v_digest || ' ' || _pgq_microseconds(least(v_next_due, at + interval '10 seconds')),
                false);
        END IF;
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
    'Do the maintenance of a claim, and lock the rows of pgq_waiting that it takes: up to max_jobs that have no group '
    'and are ripe at a time, and no more once their args reach max_bytes; a suspect alone. Returns their ctids, in the '
    'order of the lanes, and the token of the claim; an empty array and NULL if there are none. bytes are the size of '
    'their args and contexts, and failed is how many of them have errors; jobs that max_bytes or a suspect keeps out '
    'count, too. The caller removes the rows in its next statement.';
