-- Lock the jobs that a claim takes from groups.
--
-- The lanes of groups fill with the entries of jobs that are gone, as other lanes do, so they have heads by the rules
-- of 41_claim_heads.sql. These are in pgq_head only, a row for each group.

CREATE FUNCTION _pgq_lock_in_groups(
    queue text,
    group_ids bigint[],
    priorities smallint[],
    wanted bigint[],
    max_jobs bigint,
    at timestamptz,
    has_heads boolean,
    polite boolean,
    now timestamptz,
    OUT rows tid[],
    OUT places bigint[],
    OUT last_place bigint,
    OUT bytes bigint,
    OUT suspects bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET enable_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_in_groups$
BEGIN
    SELECT coalesce(array_agg(locked.ctid ORDER BY locked.n, locked.place), '{}'),
           coalesce(array_agg(locked.place), '{}'), max(locked.place), coalesce(sum(locked.bytes), 0),
           count(locked.losses)
    INTO rows, places, last_place, bytes, suspects
    FROM (
        SELECT ripe.*, g.place
        FROM unnest(group_ids, priorities, wanted) WITH ORDINALITY AS g (group_id, priority, wanted, place)
        CROSS JOIN LATERAL (
            SELECT one.*, row_number() OVER () AS n
            FROM (
                SELECT locked.*
                FROM (
                    SELECT lane.ctid
                    FROM (
                        SELECT CASE WHEN has_heads THEN (
                            SELECT h.lanes
                            FROM pgq_head AS h
                            WHERE h.queue = _pgq_group_head(_pgq_lock_in_groups.queue, g.group_id)
                              AND h.due < _pgq_lock_in_groups.now + interval '6 minutes'
                              AND h.due BETWEEN _pgq_lock_in_groups.now
                                        AND _pgq_lock_in_groups.now + h.rescan_delay + interval '1 second'
                            ORDER BY h.due DESC
                            LIMIT 1
                        ) END AS heads
                        OFFSET 0
                    ) AS known
                    CROSS JOIN LATERAL (
                        -- The range of a group has jobs that are or have been ripe: one look-up for all of its lanes.
                        SELECT every.ctid
                        FROM (
                            SELECT w.ctid
                            FROM pgq_waiting AS w
                            WHERE w.queue = _pgq_lock_in_groups.queue COLLATE "C"
                              AND w.group_id IS NOT NULL
                              AND w.group_id = CASE WHEN known.heads IS NULL THEN nullif(g.group_id, 0) END
                              AND w.ripe_at <= at
                            ORDER BY w.priority, w.ripe_at, w.id
                        ) AS every
                        UNION ALL
                        -- No job was taken from the lanes before the first one with a head.
                        SELECT fresh.ctid
                        FROM (
                            SELECT w.ctid
                            FROM pgq_waiting AS w
                            WHERE w.queue = _pgq_lock_in_groups.queue COLLATE "C"
                              AND w.group_id IS NOT NULL
                              AND w.group_id = CASE WHEN known.heads IS NOT NULL THEN nullif(g.group_id, 0) END
                              AND w.priority < (known.heads[1]).priority
                              AND w.ripe_at <= at
                            ORDER BY w.priority, w.ripe_at, w.id
                        ) AS fresh
                        UNION ALL
                        SELECT grouped.ctid
                        FROM (
                            SELECT h.priority, h.here_ripe_us, h.here_id,
                                   coalesce(lead(h.priority) OVER (), 10) AS next_priority
                            FROM unnest(known.heads) AS h
                            WHERE g.group_id <> 0
                        ) AS head
                        CROSS JOIN LATERAL (
                            SELECT lane.ctid
                            FROM (
                                SELECT w.ctid
                                FROM pgq_waiting AS w
                                WHERE w.queue = _pgq_lock_in_groups.queue COLLATE "C"
                                  AND w.group_id IS NOT NULL
                                  AND w.group_id = g.group_id
                                  AND w.priority = head.priority
                                  AND (w.ripe_at, w.id) > (
                                      _pgq_lane_start(head.here_ripe_us), coalesce(head.here_id, 0))
                                  AND w.ripe_at <= at
                                ORDER BY w.ripe_at, w.id
                            ) AS lane
                            UNION ALL
                            SELECT later.ctid
                            FROM (
                                SELECT w.ctid
                                FROM pgq_waiting AS w
                                WHERE w.queue = _pgq_lock_in_groups.queue COLLATE "C"
                                  AND w.group_id IS NOT NULL
                                  AND w.group_id = g.group_id
                                  AND w.priority > head.priority
                                  AND w.priority < head.next_priority
                                  AND w.ripe_at <= at
                                ORDER BY w.priority, w.ripe_at, w.id
                            ) AS later
                        ) AS grouped
                        UNION ALL
                        SELECT others.ctid
                        FROM generate_series(g.priority, 9) AS p (priority)
                        LEFT JOIN LATERAL (
                            SELECT h.here_ripe_us, h.here_id
                            FROM unnest(known.heads) AS h
                            WHERE h.priority = p.priority
                        ) AS head ON true
                        CROSS JOIN LATERAL (
                            SELECT w.ctid
                            FROM pgq_waiting AS w
                            WHERE w.queue = _pgq_lock_in_groups.queue COLLATE "C"
                              AND w.group_id IS NULL
                              AND w.priority = p.priority
                              AND (w.ripe_at, w.id) > (
                                  _pgq_lane_start(head.here_ripe_us), coalesce(head.here_id, 0))
                              AND w.ripe_at <= at
                            ORDER BY w.ripe_at, w.id
                        ) AS others
                        WHERE g.group_id = 0
                    ) AS lane
                    LIMIT CASE WHEN polite THEN g.wanted END
                ) AS first
                CROSS JOIN LATERAL (
                    SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses
                    FROM pgq_waiting AS w
                    WHERE w.ctid = first.ctid
                      AND w.ripe_at <= at
                    FOR UPDATE SKIP LOCKED
                ) AS locked
                LIMIT g.wanted
            ) AS one
        ) AS ripe
        WHERE g.wanted > 0
        LIMIT max_jobs
    ) AS locked;
END
$_pgq_lock_in_groups$;

COMMENT ON FUNCTION _pgq_lock_in_groups(
    text, bigint[], smallint[], bigint[], bigint, timestamptz, boolean, boolean, timestamptz
) IS
    'Lock the rows of up to max_jobs jobs of these groups of a queue that are ripe at a time, and no more of each than '
    'are wanted. No lane below the given priority of a group is looked at; with has_heads, each from its head on, if '
    'one is known now. Jobs that another transaction has locked are skipped; a polite claim takes none in their place. '
    'Returns their ctids: the first of each group, then the second of each, and so on; for each row, in any order, the '
    'place of its group among the given ones, and the last of these places; the size of their args and contexts; and '
    'how many are suspects.';
