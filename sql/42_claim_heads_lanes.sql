-- How far a claim has come.

-- The end of a lane counts as a tenth of a second ago, because a job may have been enqueued there and not be committed
-- yet. A lane that was walked to its end has its head no further left than before, whatever late jobs were taken from
-- it.
CREATE FUNCTION _pgq_lanes_reached(head pgq_head, rows tid[], ended integer, at timestamptz) RETURNS _pgq_lane_head[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lanes_reached$
DECLARE
    v_end bigint[] := ARRAY[_pgq_microseconds(at) - 100000, 0];
BEGIN
    RETURN ARRAY(
        SELECT ROW(p.priority, reached.place[1], reached.place[2], reached.place[1], reached.place[2])::_pgq_lane_head
        FROM generate_series(0, 9) AS p (priority)
        LEFT JOIN (
            -- OFFSET 0 is a fence: with a condition on queue beside ctid, the planner may prefer an index on queue.
            SELECT w.priority, max(ARRAY[_pgq_microseconds(w.ripe_at), w.id]) AS place
            FROM (SELECT * FROM pgq_waiting WHERE ctid = ANY (rows) OFFSET 0) AS w
            WHERE w.queue = head.queue
            GROUP BY w.priority
        ) AS taken USING (priority)
        CROSS JOIN LATERAL (
            SELECT CASE
                       WHEN p.priority >= ended THEN taken.place
                       WHEN taken.place IS NULL THEN v_end
                       ELSE greatest(taken.place, (
                           SELECT max(least(ARRAY[l.next_ripe_us, l.next_id], v_end))
                           FROM unnest(head.lanes) AS l
                           WHERE l.priority = p.priority))
                   END AS place
            -- A fence, too: the expression would be evaluated for each of its uses.
            OFFSET 0
        ) AS reached
        WHERE reached.place IS NOT NULL
    );
END
$_pgq_lanes_reached$;

COMMENT ON FUNCTION _pgq_lanes_reached(pgq_head, tid[], integer, timestamptz) IS
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
