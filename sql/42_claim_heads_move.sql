-- What a claim learns about where the live jobs begin.

-- The end of a lane counts as a tenth of a second ago, because a job may have been enqueued there and not be committed
-- yet.
CREATE FUNCTION _pgq_lanes_reached(queue text, rows tid[], ended integer, at timestamptz) RETURNS _pgq_lane_head[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lanes_reached$
DECLARE
    v_end_us bigint := _pgq_microseconds(at) - 100000;
BEGIN
    RETURN ARRAY(
        SELECT ROW(p.priority, place.us, place.id, place.us, place.id)::_pgq_lane_head
        FROM generate_series(0, 9) AS p (priority)
        LEFT JOIN (
            -- OFFSET 0 is a fence: with a condition on queue beside ctid, the planner may prefer an index on queue.
            SELECT w.priority, max(ARRAY[_pgq_microseconds(w.ripe_at), w.id]) AS place
            FROM (SELECT * FROM pgq_waiting WHERE ctid = ANY (rows) OFFSET 0) AS w
            WHERE w.queue = _pgq_lanes_reached.queue
            GROUP BY w.priority
        ) AS taken USING (priority)
        CROSS JOIN LATERAL (
            SELECT coalesce(taken.place[1], v_end_us) AS us, coalesce(taken.place[2], 0) AS id
        ) AS place
        WHERE taken.place IS NOT NULL
           OR p.priority < ended
    );
END
$_pgq_lanes_reached$;

COMMENT ON FUNCTION _pgq_lanes_reached(text, tid[], integer, timestamptz) IS
    'Return the heads of the lanes of a queue that a claim has walked, where "here" and "next" are both the place that '
    'it has reached; ended is the priority below which it has come to the end of each lane. The lanes that it has not '
    'come to are left out.';


CREATE FUNCTION _pgq_taken_from(rows tid[], OUT queues text[], OUT last_queue text, OUT last_priority integer)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_taken_from$
BEGIN
    -- OFFSET 0 is a fence: for the sake of DISTINCT the planner may prefer an index on queue.
    SELECT array_agg(DISTINCT w.queue COLLATE "C"),
           max(w.queue) FILTER (WHERE w.ctid = rows[cardinality(rows)]),
           max(w.priority) FILTER (WHERE w.ctid = rows[cardinality(rows)])
    INTO queues, last_queue, last_priority
    FROM (SELECT ctid, queue, priority FROM pgq_waiting WHERE ctid = ANY (rows) OFFSET 0) AS w;
END
$_pgq_taken_from$;

COMMENT ON FUNCTION _pgq_taken_from(tid[]) IS
    'Return the queues of the rows that a claim has taken, and the queue and the priority of the last row; NULLs for '
    'no rows.';


-- A scan of less than a millisecond (a delay of 20) is not worth sharing. In a stricter isolation level, the removal of
-- old rows could fail.
CREATE FUNCTION _pgq_share_head(head pgq_head) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_share_head$
DECLARE
    v_old pgq_head;
BEGIN
    IF head.rescan_delay < interval '20 milliseconds'
       OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    v_old := _pgq_shared_head(head.queue, head.due - head.rescan_delay);
    IF head.due - head.rescan_delay < v_old.due - v_old.rescan_delay + interval '1 second' THEN
        RETURN;
    END IF;

    head.lanes := head.lanes || ARRAY(
        SELECT o
        FROM unnest(v_old.lanes) AS o
        WHERE o.priority NOT IN (SELECT l.priority FROM unnest(head.lanes) AS l)
    );
    DELETE FROM pgq_head AS h
    WHERE h.ctid = ANY (ARRAY(SELECT o.ctid FROM pgq_head AS o WHERE o.queue = head.queue FOR UPDATE SKIP LOCKED));
    INSERT INTO pgq_head VALUES (head.*);
END
$_pgq_share_head$;

COMMENT ON FUNCTION _pgq_share_head(pgq_head) IS
    'Share the heads of a queue with other sessions, if the scan took a millisecond or more; at most once a second, '
    'and without waiting for a lock. Returns nothing.';


-- A claim walks the lanes by priority, then in the order of the queues. It has come to the end of each lane before that
-- of its last row; if it could have taken more rows, it has come to the end of all.
CREATE FUNCTION _pgq_move_heads(
    heads pgq_head[],
    rows tid[],
    filled boolean,
    wasted bigint,
    at timestamptz,
    begun_at timestamptz
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_move_heads$
DECLARE
    v_long boolean := _pgq_is_long_scan(wasted, 10 * cardinality(heads));
    v_done_at timestamptz := clock_timestamp();
    v_rescan_delay interval := _pgq_rescan_delay(v_done_at - begun_at);
    v_head pgq_head;
    v_from_start boolean;
    v_reached _pgq_lane_head[];
    v_taken record;
    v_ended integer := 10;
BEGIN
    IF v_long THEN
        v_taken := _pgq_taken_from(rows);
        IF filled THEN
            v_ended := v_taken.last_priority + 1;
        END IF;
    END IF;
    FOR v_n IN 1..cardinality(heads) LOOP
        v_head := heads[v_n];
        v_from_start := v_head.due <= begun_at OR v_head.lanes = '{}';
        IF v_long THEN
            IF filled AND v_head.queue = v_taken.last_queue THEN
                v_ended := v_taken.last_priority;
            END IF;
            v_reached := _pgq_lanes_reached(
                v_head.queue, CASE WHEN v_head.queue = ANY (v_taken.queues) THEN rows ELSE '{}' END, v_ended, at);
            v_head.lanes := ARRAY(
                SELECT ROW(priority, moved.here[1], moved.here[2], moved.next[1], moved.next[2])::_pgq_lane_head
                FROM (SELECT l.priority, ARRAY[l.here_ripe_us, l.here_id] AS here,
                             ARRAY[l.next_ripe_us, l.next_id] AS next
                      FROM unnest(v_head.lanes) AS l) AS known
                FULL JOIN (SELECT l.priority, ARRAY[l.next_ripe_us, l.next_id] AS place
                           FROM unnest(v_reached) AS l) AS reached USING (priority)
                CROSS JOIN LATERAL (
                    SELECT CASE
                               WHEN reached.place IS NULL THEN known.here
                               WHEN v_from_start THEN least(reached.place, known.here)
                               -- Far behind, because other sessions have claimed meanwhile: move in one step.
                               WHEN wasted > 2000 THEN reached.place
                               ELSE least(reached.place, known.next)
                           END AS here,
                           coalesce(reached.place, known.next) AS next
                ) AS moved
            );
            IF v_from_start THEN
                v_head.due := v_done_at + v_rescan_delay;
                v_head.rescan_delay := v_rescan_delay;
                PERFORM _pgq_share_head(ROW(v_head.queue, v_head.due, v_rescan_delay, v_reached));
            END IF;
            PERFORM _pgq_save_head(v_head);
        ELSIF v_head.due <= begun_at AND cardinality(heads) <= 100 THEN
            -- The walk is short: do not look at the shared heads again for ten seconds. Not with very many queues,
            -- because PostgreSQL sorts all settings of a session when one is added, up to version 15.
            PERFORM _pgq_save_head(ROW(v_head.queue, begun_at + interval '10 seconds', interval '10 seconds', '{}'));
        END IF;
    END LOOP;
END
$_pgq_move_heads$;

COMMENT ON FUNCTION _pgq_move_heads(pgq_head[], tid[], boolean, bigint, timestamptz, timestamptz) IS
    'Keep in this session where the next claims of these queues begin, given the rows that a claim has taken and the '
    'number of entries that it has read in vain. Returns nothing.';
