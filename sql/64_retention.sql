-- How long jobs that have ended are kept, and windows: claims delete old ones on the side.
--
-- A pass reads pgq_ended in the order of time, up to the time before which a job may be old enough, and deletes what
-- has been kept for as long as its queue says. It takes many short steps, one a second, of any session. Between two
-- steps the row of pgq_head with the queue of this file says how far the pass has come (next), and where the next pass
-- begins (here): at the first job that is left. So no step walks over the index entries of jobs that steps before have
-- deleted, however long a snapshot keeps them. A pass of one step that deletes nothing writes nothing; a session makes
-- one a minute.
--
-- A job that ends in a transaction which commits late may be to the left of "here". So one pass in fifty begins at the
-- start.

CREATE FUNCTION _pgq_kept_setting() RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.kept_' || 'pgq_head'::regclass::oid;

COMMENT ON FUNCTION _pgq_kept_setting() IS
    'Return the name of the setting in which a session keeps until when it looks for no old jobs.';


CREATE FUNCTION _pgq_delete_old(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_delete_old$
DECLARE
    c_queue CONSTANT text := E'\x1f' || ' ended';  -- no queue has this name
    c_step CONSTANT integer := 1000;
    c_pause CONSTANT interval := '1 minute';
    v_at_us bigint := _pgq_microseconds(at);
    v_lane _pgq_lane_head;
    v_shared pgq_head;
    v_general pgq_queue_setting;
    v_until timestamptz;
    v_found record;
    v_deleted record;
    v_is_first boolean;
BEGIN
    -- Kept as text in which the order of bytes is that of times, so that no damaged value can raise an error. A forged
    -- one keeps this session from deleting, for a minute, and no other.
    IF (current_setting(_pgq_kept_setting(), true) COLLATE "C")
       BETWEEN (v_at_us + 1)::text AND (v_at_us + 60000000)::text
       OR pg_relation_size('pgq_ended') = 0 THEN
        RETURN;
    END IF;
    v_shared := _pgq_shared_head(c_queue, at);
    IF v_shared.due > at THEN
        RETURN;
    END IF;
    v_lane := v_shared.lanes[1];
    v_is_first := v_lane.next_ripe_us IS NULL;
    IF v_is_first THEN
        v_lane.next_ripe_us := CASE WHEN random() >= 0.02 THEN v_lane.here_ripe_us END;
        v_lane.here_ripe_us := NULL;
    END IF;

    SELECT s.* INTO v_general FROM pgq_queue_setting AS s WHERE s.queue = '';
    v_general.keep_done := coalesce(v_general.keep_done, '7 days');
    v_general.keep_dead := coalesce(v_general.keep_dead, '30 days');
    v_general.keep_cancelled := coalesce(v_general.keep_cancelled, '30 days');
    SELECT greatest(
               at - v_general.keep_done, at - v_general.keep_dead, at - v_general.keep_cancelled,
               max(at - s.keep_done), max(at - s.keep_dead), max(at - s.keep_cancelled))
    INTO v_until
    FROM pgq_queue_setting AS s;

    -- The limit comes before the join, which must not decide the order. All jobs that ended at the same moment are in
    -- one step: those of one call.
    SELECT count(*) AS jobs, max(j.ended_at) AS last, array_agg(j.ctid) FILTER (WHERE j.is_old) AS old,
           min(j.ended_at) AS first, min(j.ended_at) FILTER (WHERE NOT j.is_old) AS first_left
    INTO v_found
    FROM (
        SELECT e.ctid, e.ended_at,
               e.ended_at <= at - CASE e.outcome
                                      WHEN 'done' THEN coalesce(s.keep_done, v_general.keep_done)
                                      WHEN 'dead' THEN coalesce(s.keep_dead, v_general.keep_dead)
                                      ELSE coalesce(s.keep_cancelled, v_general.keep_cancelled)
                                  END AS is_old
        FROM (
            SELECT o.ctid, o.ended_at, o.outcome, o.queue
            FROM pgq_ended AS o
            WHERE o.ended_at > _pgq_lane_start(v_lane.next_ripe_us)
              AND o.ended_at <= v_until
            ORDER BY o.ended_at
            FETCH FIRST c_step ROWS WITH TIES
        ) AS e
        LEFT JOIN pgq_queue_setting AS s ON s.queue = e.queue COLLATE "C"
    ) AS j;

    IF v_found.old IS NULL AND v_found.jobs < c_step AND v_is_first THEN
        PERFORM set_config(_pgq_kept_setting(), (v_at_us + 60000000)::text, false);
        RETURN;
    END IF;
    -- The session that had the lock may have made this step.
    IF NOT _pgq_try_scan(c_queue) OR v_shared IS DISTINCT FROM _pgq_shared_head(c_queue, at) THEN
        RETURN;
    END IF;

    -- The snapshot of the caller's statement keeps these ctids from being used again, although the rows are not locked.
    WITH deleted AS (
        DELETE FROM pgq_ended AS e
        WHERE e.ctid = ANY (ARRAY(
            SELECT o.ctid FROM pgq_ended AS o WHERE o.ctid = ANY (v_found.old) FOR UPDATE SKIP LOCKED))
        RETURNING e.id, e.newest_error, e.outcome
    )
    SELECT count(*) AS jobs, array_agg(d.id) FILTER (WHERE d.newest_error IS NOT NULL) AS failed,
           array_agg(d.id) FILTER (WHERE d.outcome <> 'done') AS not_done
    INTO v_deleted
    FROM deleted AS d;
    IF v_deleted.failed IS NOT NULL THEN
        PERFORM _pgq_delete_beside(v_deleted.failed);
    END IF;
    IF v_deleted.not_done IS NOT NULL AND _pgq_has_needs() THEN
        PERFORM _pgq_settle_ends(v_deleted.not_done, 'purged');
    END IF;
    -- A job that another transaction has locked is left, too.
    IF v_deleted.jobs < cardinality(v_found.old) THEN
        v_found.first_left := v_found.first;
    END IF;
    v_lane.here_ripe_us := coalesce(v_lane.here_ripe_us, _pgq_microseconds(v_found.first_left) - 1);

    IF v_found.jobs >= c_step THEN
        v_lane.next_ripe_us := _pgq_microseconds(v_found.last);
        PERFORM _pgq_replace_head(ROW(c_queue, at + interval '1 second', '1 second', ARRAY[v_lane])::pgq_head);
        RETURN;
    END IF;
    v_lane.here_ripe_us := coalesce(v_lane.here_ripe_us, _pgq_microseconds(v_until) - 1);
    v_lane.next_ripe_us := NULL;
    PERFORM _pgq_replace_head(ROW(c_queue, at + c_pause, c_pause, ARRAY[v_lane])::pgq_head);
END
$_pgq_delete_old$;

COMMENT ON FUNCTION _pgq_delete_old(timestamptz) IS
    'Make the next step of a pass, if one is due: read up to 1000 jobs that have ended, and delete those that have '
    'been kept for as long as their queues, or else all queues, have among their settings, or else 30 days if they are '
    'dead or cancelled, and 7 days if they are done. Waits for no lock. Returns nothing.';


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
