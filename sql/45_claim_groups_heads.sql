-- Where the live jobs of groups begin.

-- No queue has a name with U+001F.
CREATE FUNCTION _pgq_group_head(queue text, group_id bigint) RETURNS text
    LANGUAGE sql
    IMMUTABLE
    RETURN queue || E'\x1f' || group_id::text;

COMMENT ON FUNCTION _pgq_group_head(text, bigint) IS
    'Return what stands for the queue in the row of pgq_head that has the heads of a group: those that are known, by '
    'priority.';


CREATE FUNCTION _pgq_tuples_read() RETURNS bigint
    LANGUAGE sql
    VOLATILE
    RETURN CASE
        WHEN current_setting('track_counts')::boolean THEN
            pg_stat_get_xact_tuples_returned('pgq_waiting_group'::regclass)
            + pg_stat_get_xact_tuples_returned('pgq_waiting_claim'::regclass)
    END;

COMMENT ON FUNCTION _pgq_tuples_read() IS
    'Return a counter of the entries of waiting jobs that this transaction has read; NULL if the server does not '
    'count.';


-- As in _pgq_lanes_reached, the end of a lane counts as a tenth of a second ago. A head moves in two steps, or in one
-- where jobs are older than a second, and "next" never moves back. When its time has come, a group is visited from the
-- start of its lanes, and its heads stay until they have come past. That takes 1.3 % of the time if each visit to each
-- listed group costs as much. Measured: an entry takes as long as five of another queue, because neighbours of one group
-- are in pages of the table that are far apart.
CREATE FUNCTION _pgq_move_group_heads(
    queue text,
    group_ids bigint[],
    wanted bigint[],
    rows tid[],
    last_place bigint,
    entries bigint,
    listed bigint,
    at timestamptz,
    now timestamptz
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_nestloop = off
    SET enable_mergejoin = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_move_group_heads$
DECLARE
    v_end bigint[] := ARRAY[_pgq_microseconds(at) - 100000, 0];
    -- A transaction that commits later than a second after its enqueue is found by the next visit from the start.
    v_settled bigint[] := ARRAY[_pgq_microseconds(at) - 1000000, 0];
BEGIN
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        RETURN;
    END IF;
    WITH taken AS MATERIALIZED (
        SELECT w.group_id, w.priority, count(*) AS jobs, max(ARRAY[_pgq_microseconds(w.ripe_at), w.id]) AS place
        FROM (
            -- OFFSET 0 is a fence, as in _pgq_lanes_reached.
            SELECT coalesce(o.group_id, 0) AS group_id, o.priority, o.ripe_at, o.id
            FROM pgq_waiting AS o
            WHERE o.ctid = ANY (rows)
            OFFSET 0
        ) AS w
        GROUP BY w.group_id, w.priority
    ), visited AS MATERIALIZED (
        SELECT g.group_id, _pgq_group_head(queue, g.group_id) AS head, max(t.priority) AS last,
               coalesce(sum(t.jobs), 0) < g.wanted AND (g.n = last_place) IS NOT TRUE AS ended
        FROM unnest(_pgq_move_group_heads.group_ids, wanted) WITH ORDINALITY AS g (group_id, wanted, n)
        LEFT JOIN taken AS t ON t.group_id = g.group_id
        WHERE (g.n > last_place) IS NOT TRUE
        GROUP BY g.group_id, g.wanted, g.n
    ), known AS MATERIALIZED (
        SELECT v.*, old.ctid AS place, old.due > _pgq_move_group_heads.now AS is_current, old.due, old.rescan_delay,
               old.lanes
        FROM visited AS v
        LEFT JOIN LATERAL (
            SELECT h.ctid, h.*
            FROM pgq_head AS h
            WHERE h.queue = v.head
              AND h.due < _pgq_move_group_heads.now + interval '6 minutes'
              AND h.due < _pgq_move_group_heads.now + h.rescan_delay + interval '1 second'
            ORDER BY h.due DESC
            LIMIT 1
        ) AS old ON true
    ), visit AS MATERIALIZED (
        -- What was read in vain was read in the groups that were visited from the start. To write a row takes as long
        -- as 40 of these entries.
        SELECT _pgq_rescan_delay(20 * (entries * v.visited / greatest(v.from_start, 1) + 40) * listed) AS delay
        FROM (
            SELECT count(*) AS visited, count(*) FILTER (WHERE k.is_current IS NOT TRUE) AS from_start
            FROM known AS k
        ) AS v
    ), replaced AS (
        DELETE FROM pgq_head AS h
        WHERE h.ctid = ANY (ARRAY(
            SELECT o.ctid FROM pgq_head AS o WHERE o.ctid = ANY (ARRAY(SELECT k.place FROM known AS k))
            FOR UPDATE SKIP LOCKED))
    ), lane AS (
        SELECT l.group_id, l.priority, max(l.place) AS place, max(l.here) AS here, max(l.next) AS next
        FROM (
            SELECT t.group_id, t.priority, t.place, NULL::bigint[] AS here, NULL::bigint[] AS next
            FROM taken AS t
            UNION ALL
            SELECT k.group_id, old.priority, NULL,
                   CASE WHEN old.here_ripe_us IS NOT NULL THEN ARRAY[old.here_ripe_us, old.here_id] END,
                   ARRAY[old.next_ripe_us, old.next_id]
            FROM known AS k
            CROSS JOIN LATERAL unnest(k.lanes) AS old
            UNION ALL
            -- A lane that no head is known of, and that was walked to its end, must be long.
            SELECT k.group_id, p.priority, NULL, NULL, NULL
            FROM known AS k
            CROSS JOIN LATERAL generate_series(0, k.last - 1) AS p (priority)
            WHERE k.is_current AND entries > 50
        ) AS l
        GROUP BY l.group_id, l.priority
    )
    INSERT INTO pgq_head (queue, due, rescan_delay, lanes)
    -- A microsecond later, so that the newest row is the first in the index.
    SELECT k.head,
           CASE
               WHEN k.is_current THEN k.due + interval '1 microsecond'
               ELSE _pgq_move_group_heads.now + visit.delay
           END,
           CASE WHEN k.is_current THEN k.rescan_delay ELSE visit.delay END,
           array_agg(
               ROW(lane.priority, moved.here[1], moved.here[2], moved.next[1], moved.next[2])::_pgq_lane_head
               ORDER BY lane.priority)
    FROM known AS k
    CROSS JOIN visit
    JOIN lane ON lane.group_id = k.group_id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN k.ended OR lane.priority < k.last THEN greatest(lane.place, v_end) ELSE lane.place END AS place
        OFFSET 0
    ) AS reached
    CROSS JOIN LATERAL (
        SELECT CASE
                   WHEN reached.place IS NULL THEN lane.here
                   -- Far behind: move in one step.
                   WHEN entries > 2000 AND k.is_current THEN reached.place
                   ELSE greatest(least(reached.place, lane.next), least(reached.place, v_settled))
               END AS here,
               greatest(reached.place, lane.next) AS next
        OFFSET 0
    ) AS moved
    GROUP BY k.head, k.is_current, k.due, k.rescan_delay, visit.delay;
END
$_pgq_move_group_heads$;

COMMENT ON FUNCTION _pgq_move_group_heads(
    text, bigint[], bigint[], tid[], bigint, bigint, bigint, timestamptz, timestamptz
) IS
    'Keep where the lanes of groups of a queue begin, given how many jobs of each a claim has wanted, and the rows '
    'that it has taken. Groups after last_place were not visited; NULL: all were. entries is how many it has read in '
    'vain for each group, and listed how many groups there are. Returns nothing.';
