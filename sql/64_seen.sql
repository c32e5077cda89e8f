-- Windows that are over (see dedup_for of pgq_enqueue): claims delete them on the side.
--
-- The row of pgq_head says up to which time windows are deleted. A window that was committed after its end lies before:
-- one step in fifty begins at the start.

CREATE FUNCTION _pgq_delete_seen(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_delete_seen$
DECLARE
    c_queue CONSTANT text := E'\x1f' || ' seen';
    c_step CONSTANT integer := 5000;
    v_shared pgq_head;
    v_lane _pgq_lane_head;
    v_from timestamptz;
    v_deleted record;
BEGIN
    -- Few databases have any window.
    IF pg_relation_size('pgq_seen') = 0 THEN
        RETURN;
    END IF;
    IF NOT _pgq_try_scan(c_queue) THEN
        RETURN;
    END IF;
    v_shared := _pgq_shared_head(c_queue, at);
    IF v_shared.due > at THEN
        RETURN;
    END IF;
    v_lane := v_shared.lanes[1];
    v_from := _pgq_lane_start(CASE WHEN random() >= 0.02 THEN v_lane.here_ripe_us END);
    WITH deleted AS (
        DELETE FROM pgq_seen AS s
        WHERE s.ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM pgq_seen AS o
            WHERE o.until > v_from
              AND o.until <= at
            ORDER BY o.until
            LIMIT c_step
            FOR UPDATE SKIP LOCKED))
        RETURNING s.until
    )
    SELECT count(*) AS windows, max(d.until) AS last INTO v_deleted FROM deleted AS d;
    IF v_deleted.windows > 0 THEN
        v_lane.here_ripe_us := _pgq_microseconds(
            CASE WHEN v_deleted.windows < c_step THEN at ELSE v_deleted.last - interval '1 microsecond' END);
        PERFORM _pgq_replace_head(ROW(c_queue, at + interval '1 second', '1 second', ARRAY[v_lane])::pgq_head);
    END IF;
END
$_pgq_delete_seen$;

COMMENT ON FUNCTION _pgq_delete_seen(timestamptz) IS
    'Delete up to 5000 windows that were over at a time (see pgq_enqueue). Waits for no lock. Returns nothing.';
