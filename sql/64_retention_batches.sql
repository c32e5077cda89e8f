-- Forget batches.

-- Passes over the ids, a step a second of any session. The row of pgq_head says where the next step begins, so that no
-- step walks again over the index entries of those that are deleted.
CREATE FUNCTION _pgq_delete_batches(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_delete_batches$
DECLARE
    c_queue CONSTANT text := E'\x1f' || ' batches';
    c_step CONSTANT integer := 1000;
    c_pause CONSTANT interval := '5 minutes';
    v_shared pgq_head;
    v_lane _pgq_lane_head;
    v_rows integer;
    v_last bigint;
    v_old bigint[];
    v_delay interval;
BEGIN
    -- Few databases have any batch.
    IF pg_relation_size('pgq_batch') = 0 THEN
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
    SELECT count(*), max(b.id),
           array_agg(DISTINCT b.id) FILTER (WHERE b.at < _pgq_delete_batches.at - interval '7 days')
    INTO v_rows, v_last, v_old
    FROM (
        SELECT o.id, o.at
        FROM pgq_batch AS o
        WHERE o.id > coalesce(v_lane.here_ripe_us, 0)
        ORDER BY o.id
        LIMIT c_step
    ) AS b;
    IF v_old IS NOT NULL THEN
        DELETE FROM pgq_batch AS b
        WHERE b.ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM unnest(v_old) AS old (id)
            JOIN pgq_batch AS o ON o.id = old.id
            WHERE (SELECT true FROM pgq_blocked AS j WHERE j.id = old.id) IS NULL
              AND (SELECT true FROM pgq_waiting AS j WHERE j.id = old.id) IS NULL
              AND (SELECT true FROM pgq_ended AS j WHERE j.id = old.id) IS NULL
              AND old.id NOT IN (SELECT r.id FROM _pgq_running AS r)
            FOR UPDATE OF o SKIP LOCKED));
    END IF;
    v_lane.here_ripe_us := CASE WHEN v_rows = c_step THEN v_last END;
    v_delay := CASE WHEN v_rows = c_step THEN interval '1 second' ELSE c_pause END;
    PERFORM _pgq_replace_head(ROW(c_queue, at + v_delay, v_delay, ARRAY[v_lane])::pgq_head);
END
$_pgq_delete_batches$;

COMMENT ON FUNCTION _pgq_delete_batches(timestamptz) IS
    'Make the next step of a pass, if one is due: read up to 1000 rows of pgq_batch, and delete those of batches that '
    'are more than 7 days old, and no job any more. Waits for no lock. Returns nothing.';
