-- How long jobs that have ended are kept: claims delete old ones on the side.
--
-- The index on ended_at is read in short steps: one a minute in each session, or one a second, of any session, while
-- there is more to delete. The row of pgq_head with the queue of this file has a lane for each of the different times
-- for which jobs are kept (here_id, in microseconds): all that have ended up to a place (here_ripe_us), and are kept
-- for that time or a shorter one, are deleted. A step goes on from the place, so each entry is read once for each lane,
-- however many jobs are kept for longer, and however long a snapshot keeps the entries of those that are deleted.
-- next_id is a digest of the settings: when one has changed, all lanes begin at the place that is farthest back.
--
-- A job that was locked, or that was committed late, may be to the left of a place. So the last step of a minute also
-- reads a hundred pages of the table, from a random one on.

CREATE FUNCTION _pgq_kept_setting() RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.kept_' || 'pgq_head'::regclass::oid;

COMMENT ON FUNCTION _pgq_kept_setting() IS
    'Return the name of the setting in which a session keeps until when it looks for no old jobs.';


-- Different spellings of a time, such as 1 month and 30 days, share a lane, which waits for the longest of them.
CREATE FUNCTION _pgq_keep_lanes(at timestamptz) RETURNS TABLE (keep_us bigint, until timestamptz)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_keep_lanes$
BEGIN
    RETURN QUERY
    SELECT (extract(epoch FROM k.keep) * 1000000)::bigint, min(at - k.keep)
    FROM (
        VALUES (interval '7 days'), (interval '30 days')
        UNION ALL
        SELECT unnest(ARRAY[s.keep_done, s.keep_dead, s.keep_cancelled]) FROM pgq_queue_setting AS s
    ) AS k (keep)
    WHERE k.keep IS NOT NULL
    GROUP BY 1
    ORDER BY 2;
END
$_pgq_keep_lanes$;

COMMENT ON FUNCTION _pgq_keep_lanes(timestamptz) IS
    'Return each of the times for which jobs are kept, in microseconds, and up to when a job must have ended that has '
    'been kept for so long; the longest first.';


CREATE FUNCTION _pgq_is_old(
    outcome text,
    ended_at timestamptz,
    at timestamptz,
    own pgq_queue_setting,
    general pgq_queue_setting
) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN ended_at <= at - CASE outcome
                                WHEN 'done' THEN coalesce((own).keep_done, (general).keep_done, '7 days')
                                WHEN 'dead' THEN coalesce((own).keep_dead, (general).keep_dead, '30 days')
                                ELSE coalesce((own).keep_cancelled, (general).keep_cancelled, '30 days')
                            END;

COMMENT ON FUNCTION _pgq_is_old(text, timestamptz, timestamptz, pgq_queue_setting, pgq_queue_setting) IS
    'Return whether a job has been kept for as long as the settings of its queue say, or else those for all queues.';


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
    c_pages CONSTANT integer := 100;
    v_at_us bigint := _pgq_microseconds(at);
    v_shared pgq_head;
    v_general pgq_queue_setting;
    v_settings bigint;
    v_entries bigint := _pgq_entries_read('pgq_ended_ended_at');
    v_keep record;
    v_from timestamptz;
    v_lanes _pgq_lane_head[];
    v_found record;
    v_jobs integer := 0;
    v_old tid[] := '{}';
    v_pause interval := '1 second';
    v_page bigint;
    v_start tid;
    v_end tid;
    v_deleted record;
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
    SELECT s.* INTO v_general FROM pgq_queue_setting AS s WHERE s.queue = '';
    SELECT hashtextextended(
               coalesce(string_agg(
                   ROW(s.queue, extract(epoch FROM s.keep_done), extract(epoch FROM s.keep_dead),
                       extract(epoch FROM s.keep_cancelled))::text, ',' ORDER BY s.queue), ''), 0)
    INTO v_settings
    FROM pgq_queue_setting AS s
    WHERE num_nonnulls(s.keep_done, s.keep_dead, s.keep_cancelled) > 0;

    -- What a lane has passed, those of shorter times need not read. All jobs that ended at the same moment are in one
    -- step: those of one call. The limit comes before the join, which must not decide the order.
    v_from := _pgq_lane_start((SELECT min(l.here_ripe_us) FROM unnest(v_shared.lanes) AS l));
    FOR v_keep IN SELECT k.keep_us, k.until FROM _pgq_keep_lanes(at) AS k LOOP
        v_from := greatest(v_from, _pgq_lane_start((
            SELECT l.here_ripe_us
            FROM unnest(v_shared.lanes) AS l
            WHERE l.here_id = v_keep.keep_us AND l.next_id = v_settings)));
        IF v_jobs < c_step THEN
            SELECT count(*) AS jobs, max(j.ended_at) AS last, array_agg(j.ctid) FILTER (WHERE j.is_old) AS old
            INTO v_found
            FROM (
                SELECT e.ctid, e.ended_at, _pgq_is_old(e.outcome, e.ended_at, at, s, v_general) AS is_old
                FROM (
                    SELECT o.ctid, o.ended_at, o.outcome, o.queue
                    FROM pgq_ended AS o
                    WHERE o.ended_at > v_from
                      AND o.ended_at <= v_keep.until
                    ORDER BY o.ended_at
                    FETCH FIRST (c_step - v_jobs) ROWS WITH TIES
                ) AS e
                LEFT JOIN pgq_queue_setting AS s ON s.queue = e.queue COLLATE "C"
            ) AS j;
            v_jobs := v_jobs + v_found.jobs;
            v_old := v_old || v_found.old;
            -- Most transactions that have ended a job commit within some seconds.
            v_from := CASE WHEN v_jobs < c_step THEN v_keep.until - interval '5 seconds' ELSE v_found.last END;
        END IF;
        v_lanes := v_lanes || ROW(0, _pgq_microseconds(v_from), v_keep.keep_us, NULL, v_settings)::_pgq_lane_head;
    END LOOP;

    IF v_jobs < c_step THEN
        v_pause := '1 minute';
        v_page := pg_relation_size('pgq_ended') / current_setting('block_size')::integer;
        v_page := floor(random() * greatest(v_page - c_pages + 1, 1));
        v_start := format('(%s,0)', v_page);
        v_end := format('(%s,0)', v_page + c_pages);
        v_old := v_old || ARRAY(
            SELECT e.ctid
            FROM pgq_ended AS e
            LEFT JOIN pgq_queue_setting AS s ON s.queue = e.queue COLLATE "C"
            WHERE e.ctid >= v_start
              AND e.ctid < v_end
              AND e.ended_at <= v_keep.until
              AND _pgq_is_old(e.outcome, e.ended_at, at, s, v_general)
            LIMIT c_step);
        v_entries := _pgq_entries_read('pgq_ended_ended_at') - v_entries - v_jobs;
        IF v_old = '{}' AND NOT _pgq_is_long_scan(v_entries, cardinality(v_lanes)) THEN
            PERFORM set_config(_pgq_kept_setting(), (v_at_us + 60000000)::text, false);
            RETURN;
        END IF;
    END IF;
    -- The session that had the lock may have made this step.
    IF NOT _pgq_try_scan(c_queue) OR v_shared IS DISTINCT FROM _pgq_shared_head(c_queue, at) THEN
        RETURN;
    END IF;

    -- The snapshot of the caller's statement keeps these ctids from being used again, although the rows are not locked.
    WITH deleted AS (
        DELETE FROM pgq_ended AS e
        WHERE e.ctid = ANY (ARRAY(
            SELECT o.ctid FROM pgq_ended AS o WHERE o.ctid = ANY (v_old) FOR UPDATE SKIP LOCKED))
        RETURNING e.id, e.newest_error, e.outcome
    )
    SELECT array_agg(d.id) FILTER (WHERE d.newest_error IS NOT NULL) AS failed,
           array_agg(d.id) FILTER (WHERE d.outcome <> 'done') AS not_done
    INTO v_deleted
    FROM deleted AS d;
    PERFORM _pgq_settle_purged(v_deleted.failed, v_deleted.not_done);
    PERFORM _pgq_replace_head(ROW(c_queue, at + v_pause, v_pause, v_lanes)::pgq_head);
END
$_pgq_delete_old$;

COMMENT ON FUNCTION _pgq_delete_old(timestamptz) IS
    'Make a step, if one is due: read about 1000 jobs that have ended, and delete those that have been kept for as '
    'long as their queues, or else all queues, have among their settings, or else 30 days if they are dead or '
    'cancelled, and 7 days if they are done. Waits for no lock. Returns nothing.';
