-- What a claim learns about where the live jobs begin.

-- A claim walks the lanes by priority, then in the order of the queues. It has come to the end of each lane before that
-- of its last row; if it could have taken more rows, it has come to the end of all.
--
-- A claim that scans may be filled by late jobs before it comes to where the heads are. That scan is unfinished: the
-- next one goes on from there, as soon as any session claims, and no head moves back. Otherwise all sessions would walk
-- again over the dead entries between the late jobs and the others.
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
    -- Without the counters of the server, the clock must do.
    v_cost bigint := coalesce(wasted, 5 * (_pgq_microseconds(v_done_at) - _pgq_microseconds(begun_at)));
    v_head pgq_head;
    v_scanned boolean;
    v_goes_on boolean;
    v_reached _pgq_lane_head[];
    v_taken record;
    v_ended integer := 10;
BEGIN
    IF v_long OR EXISTS (SELECT FROM unnest(heads) AS h WHERE h.due <= begun_at AND h.lanes <> '{}') THEN
        v_taken := _pgq_taken_from(rows);
        IF filled THEN
            v_ended := v_taken.last_priority + 1;
        END IF;
    END IF;
    FOR v_n IN 1..cardinality(heads) LOOP
        v_head := heads[v_n];
        v_scanned := v_head.due <= begun_at OR v_head.lanes = '{}';
        IF v_long OR (v_scanned AND v_head.lanes <> '{}') THEN
            IF filled AND v_head.queue = v_taken.last_queue THEN
                v_ended := v_taken.last_priority;
            END IF;
            v_reached := _pgq_lanes_reached(
                v_head, CASE WHEN v_head.queue = ANY (v_taken.queues) THEN rows ELSE '{}' END, v_ended, at);
        END IF;

        IF v_scanned AND filled AND EXISTS (
            -- A head that lies ahead was kept before the clock was set back.
            SELECT FROM unnest(v_reached) AS r
            JOIN unnest(v_head.lanes) AS l USING (priority)
            WHERE l.next_ripe_us < _pgq_microseconds(at) + 1000000
              AND ARRAY[r.next_ripe_us, r.next_id]
                < least(ARRAY[l.next_ripe_us, l.next_id], ARRAY[_pgq_microseconds(at) - 100000, 0])
        ) THEN
            IF v_cost > 2000 THEN
                PERFORM _pgq_share_scan(v_head.queue, v_reached, v_done_at);
            END IF;
        ELSIF v_long THEN
            v_goes_on := EXISTS (SELECT FROM unnest(v_head.lanes) AS l WHERE l.here_ripe_us IS NOT NULL);
            v_head.lanes := ARRAY(
                SELECT ROW(priority, moved.here[1], moved.here[2], moved.next[1], moved.next[2])::_pgq_lane_head
                FROM (SELECT l.priority, ARRAY[l.here_ripe_us, l.here_id] AS here,
                             ARRAY[l.next_ripe_us, l.next_id] AS next
                      FROM unnest(v_head.lanes) AS l) AS known
                FULL JOIN (SELECT l.priority, ARRAY[l.next_ripe_us, l.next_id] AS place
                           FROM unnest(v_reached) AS l) AS reached USING (priority)
                CROSS JOIN LATERAL (
                    SELECT CASE
                               WHEN reached.place IS NULL AND NOT v_scanned THEN known.here
                               -- Far behind, because other sessions have claimed meanwhile: move in one step.
                               WHEN wasted > 2000 AND NOT v_scanned THEN reached.place
                               ELSE least(reached.place, known.next)
                           END AS here,
                           coalesce(reached.place, known.next) AS next
                ) AS moved
            );
            IF v_scanned THEN
                -- A scan that goes on where another one has ended costs as much as both.
                v_head.rescan_delay := greatest(
                    _pgq_rescan_delay(v_cost), CASE WHEN v_goes_on THEN v_head.rescan_delay END);
                v_head.due := v_done_at + v_head.rescan_delay;
                PERFORM _pgq_share_head(ROW(v_head.queue, v_head.due, v_head.rescan_delay, v_reached));
            ELSIF v_head.rescan_delay IS NULL THEN
                v_head.rescan_delay := v_head.due - begun_at;
                IF v_cost > 2000 THEN
                    PERFORM _pgq_share_lanes(v_head.queue, v_reached, begun_at);
                END IF;
            END IF;
            PERFORM _pgq_save_head(v_head);
        ELSIF v_head.due <= begun_at THEN
            IF v_head.rescan_delay > interval '0' AND (NOT filled OR v_head.lanes = '{}') THEN
                PERFORM _pgq_replace_head(ROW(v_head.queue, '-infinity', '0', '{}')::pgq_head);
            END IF;
            -- The walk is short: do not look at the shared heads again for ten seconds. Not with very many queues,
            -- because PostgreSQL sorts all settings of a session when one is added, up to version 15.
            IF cardinality(heads) <= 100 THEN
                PERFORM _pgq_save_head(
                    ROW(v_head.queue, begun_at + interval '10 seconds', interval '10 seconds', '{}'));
            END IF;
        END IF;
    END LOOP;
END
$_pgq_move_heads$;

COMMENT ON FUNCTION _pgq_move_heads(pgq_head[], tid[], boolean, bigint, timestamptz, timestamptz) IS
    'Keep in this session where the next claims of these queues begin, given the rows that a claim has taken and the '
    'number of entries that it has read in vain. Returns nothing.';
