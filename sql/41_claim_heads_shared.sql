-- What sessions share about where the live jobs begin.

-- A row whose due is further ahead than its own rescan_delay was written before the clock of the server was set back.
-- It gets a second more: the row may have been written since this session has read the clock. No rescan_delay is
-- longer than 5 minutes, so the first condition on due limits the scan of the index.
CREATE FUNCTION _pgq_shared_head(queue text, at timestamptz) RETURNS pgq_head
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_shared_head$
DECLARE
    v_head pgq_head;
BEGIN
    SELECT h.* INTO v_head
    FROM pgq_head AS h
    WHERE h.queue = _pgq_shared_head.queue
      AND h.due < at + interval '6 minutes'
      AND h.due < at + h.rescan_delay + interval '1 second'
    ORDER BY h.due DESC
    LIMIT 1;
    RETURN v_head;
END
$_pgq_shared_head$;

COMMENT ON FUNCTION _pgq_shared_head(text, timestamptz) IS
    'Return the newest heads of a queue that a session has shared; NULLs where there are none.';


-- No session waits for another one's row. In a stricter isolation level, the removal of old rows could fail.
CREATE FUNCTION _pgq_replace_head(head pgq_head) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_replace_head$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    DELETE FROM pgq_head AS h
    WHERE h.ctid = ANY (ARRAY(SELECT o.ctid FROM pgq_head AS o WHERE o.queue = head.queue FOR UPDATE SKIP LOCKED));
    INSERT INTO pgq_head VALUES (head.*);
END
$_pgq_replace_head$;

COMMENT ON FUNCTION _pgq_replace_head(pgq_head) IS
    'Share what is known of a queue in place of what was shared before, without waiting for a lock. Returns nothing.';


-- A scan of up to 12,500 entries, which has the shortest delay, is not worth sharing; after one that is shared, the
-- next comes a second later at least.
CREATE FUNCTION _pgq_share_head(head pgq_head) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_share_head$
DECLARE
    v_scanned_at timestamptz := head.due - head.rescan_delay;
    v_old pgq_head;
BEGIN
    IF head.rescan_delay <= interval '50 milliseconds' THEN
        RETURN;
    END IF;
    v_old := _pgq_shared_head(head.queue, v_scanned_at);
    IF head.due < v_old.due THEN
        RETURN;
    END IF;
    head.rescan_delay := greatest(head.rescan_delay, interval '1 second');
    head.due := v_scanned_at + head.rescan_delay;
    head.lanes := head.lanes || ARRAY(
        SELECT ROW(o.priority, o.next_ripe_us, o.next_id, o.next_ripe_us, o.next_id)::_pgq_lane_head
        FROM unnest(v_old.lanes) AS o
        WHERE o.priority NOT IN (SELECT l.priority FROM unnest(head.lanes) AS l)
    );
    PERFORM _pgq_replace_head(head);
END
$_pgq_share_head$;

COMMENT ON FUNCTION _pgq_share_head(pgq_head) IS
    'Share what a scan of a queue has found, if it took a few milliseconds or more. No session makes the next one '
    'before due, which is a second later at least. Returns nothing.';


-- The lanes that the scan has not come to have no "here": they are scanned from their start. Where nothing was shared
-- before, no session knows a place that lies ahead, and all go on from their own.
CREATE FUNCTION _pgq_share_scan(queue text, reached _pgq_lane_head[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_share_scan$
DECLARE
    v_old pgq_head := _pgq_shared_head(queue, at);
BEGIN
    IF v_old.rescan_delay > interval '0' THEN
        PERFORM _pgq_replace_head(ROW(
            queue,
            at,
            v_old.rescan_delay,
            ARRAY(
                SELECT ROW(o.priority, r.here_ripe_us, r.here_id, o.next_ripe_us, o.next_id)::_pgq_lane_head
                FROM unnest(v_old.lanes) AS o
                LEFT JOIN unnest(reached) AS r ON r.priority = o.priority
            )
        )::pgq_head);
    END IF;
END
$_pgq_share_scan$;

COMMENT ON FUNCTION _pgq_share_scan(text, _pgq_lane_head[], timestamptz) IS
    'Share how far an unfinished scan of a queue has come; the next one goes on from there, and claims that do not '
    'scan begin where they did before. Returns nothing.';


-- Not for heads that a session has kept: any role can forge those.
CREATE FUNCTION _pgq_share_lanes(queue text, reached _pgq_lane_head[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_share_lanes$
DECLARE
    v_head pgq_head := _pgq_shared_head(queue, at);
BEGIN
    IF v_head.rescan_delay > interval '0' THEN
        v_head.lanes := ARRAY(
            SELECT CASE
                       WHEN (r.next_ripe_us, r.next_id) > (o.next_ripe_us, o.next_id) THEN
                           CASE
                               WHEN (o.here_ripe_us, o.here_id) = (o.next_ripe_us, o.next_id) THEN r
                               ELSE ROW(
                                   o.priority, o.here_ripe_us, o.here_id, r.next_ripe_us, r.next_id)::_pgq_lane_head
                           END
                       ELSE o
                   END
            FROM unnest(v_head.lanes) AS o
            LEFT JOIN unnest(reached) AS r ON r.priority = o.priority
        );
        PERFORM _pgq_replace_head(v_head);
    END IF;
END
$_pgq_share_lanes$;

COMMENT ON FUNCTION _pgq_share_lanes(text, _pgq_lane_head[], timestamptz) IS
    'Move the shared heads of a queue to where a claim has come that began at them and walked over many dead entries. '
    'Returns nothing.';
