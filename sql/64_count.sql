-- How the rows of pgq_count are folded.
--
-- A step reads up to 5,000 rows, deletes them, and appends the sums. It begins at the page at which the last one has
-- ended, so that it does not walk over the rows that were deleted before, however long a snapshot keeps them; one step
-- in twenty begins at the first page. The row of pgq_head with the queue of this file has the page (here), and how many
-- rows the last step has left (next).

-- sum() of intervals raises an error at 2^31 days. 100,000 jobs with a ripe_at in 1970 have waited for longer, and the
-- claims that are to fold their rows would all fail. So times are added up as seconds.
CREATE FUNCTION _pgq_total_time(seconds numeric) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN make_interval(
        days => least(div(seconds, 86400), 2147483647)::integer, secs => mod(seconds, 86400)::double precision);

COMMENT ON FUNCTION _pgq_total_time(numeric) IS
    'Return a number of seconds as an interval of days and seconds, 2147483647 days at most.';


CREATE FUNCTION _pgq_fold_counts(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_fold_counts$
DECLARE
    c_queue CONSTANT text := E'\x1f' || ' count';  -- no queue has this name
    c_step CONSTANT integer := 5000;
    v_shared pgq_head;
    v_lane _pgq_lane_head;
    v_start tid;
    v_rows tid[];
    v_pause interval;
BEGIN
    IF pg_relation_size('pgq_count') < 65536 OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    v_shared := _pgq_shared_head(c_queue, at);
    IF v_shared.due > at OR NOT _pgq_try_scan(c_queue) THEN
        RETURN;
    END IF;
    -- The session that had the lock may have made this step.
    v_shared := _pgq_shared_head(c_queue, at);
    IF v_shared.due > at THEN
        RETURN;
    END IF;
    v_lane := v_shared.lanes[1];
    v_start := format('(%s,0)', CASE WHEN random() >= 0.05 THEN coalesce(v_lane.here_ripe_us, 0) ELSE 0 END);
    v_rows := ARRAY(SELECT c.ctid FROM pgq_count AS c WHERE c.ctid >= v_start LIMIT c_step);
    v_pause := CASE WHEN cardinality(v_rows) < c_step THEN interval '10 seconds' ELSE interval '1 second' END;

    IF cardinality(v_rows) >= least(c_step, 1000 + 2 * coalesce(v_lane.next_ripe_us, 0)) THEN
        WITH deleted AS (
            DELETE FROM pgq_count AS c
            WHERE c.ctid = ANY (v_rows)
            RETURNING c.*
        ), folded AS (
            INSERT INTO pgq_count (queue, kind, event, jobs, waited, ran)
            SELECT d.queue, d.kind, d.event, sum(d.jobs),
                   _pgq_total_time(sum(extract(epoch FROM d.waited))), _pgq_total_time(sum(extract(epoch FROM d.ran)))
            FROM deleted AS d
            GROUP BY d.queue, d.kind, d.event
            RETURNING 1
        )
        SELECT count(*) INTO v_lane.next_ripe_us FROM folded;
        v_lane.here_ripe_us := split_part(trim('(' FROM v_rows[cardinality(v_rows)]::text), ',', 1);
    END IF;
    PERFORM _pgq_replace_head(ROW(c_queue, at + v_pause, v_pause, ARRAY[v_lane])::pgq_head);
END
$_pgq_fold_counts$;

COMMENT ON FUNCTION _pgq_fold_counts(timestamptz) IS
    'Fold up to 5,000 rows of pgq_count, if there are many and a step is due. Waits for no lock. Returns nothing.';
