-- Which jobs a claim takes if one of its queues may be marked: some may be paused, have settings, or jobs with a group.

CREATE FUNCTION _pgq_lock_marked(
    queues text[],
    max_jobs bigint,
    max_bytes bigint,
    at timestamptz,
    OUT rows tid[],
    OUT token bigint,
    OUT bytes bigint,
    OUT failed bigint,
    OUT lease interval,
    OUT in_turn_at timestamptz
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_marked$
DECLARE
    v_looked record := _pgq_look_at_queues(queues, at);
BEGIN
    lease := v_looked.lease;
    IF v_looked.open = '{}' THEN
        PERFORM _pgq_maintain(at);
        rows := '{}';
        RETURN;
    END IF;

    IF v_looked.special <> '{}' THEN
        SELECT l.rows, l.token, l.at INTO rows, token, in_turn_at
        FROM _pgq_lock_in_turns(
            CASE WHEN cardinality(v_looked.open) > 1 THEN _pgq_distinct(v_looked.open) ELSE v_looked.open END,
            v_looked.special, max_jobs, max_bytes, at) AS l;
        RETURN;
    END IF;
    SELECT l.rows, l.token, l.bytes, l.failed INTO rows, token, bytes, failed
    FROM _pgq_lock_ripe(v_looked.open, max_jobs, max_bytes, at) AS l;
    IF v_looked.has_defaults AND rows <> '{}' THEN
        rows := _pgq_set_defaults(rows);
        IF v_looked.keeps THEN
            failed := failed + 1;
        END IF;
    END IF;
END
$_pgq_lock_marked$;

COMMENT ON FUNCTION _pgq_lock_marked(text[], bigint, bigint, timestamptz) IS
    'Do what _pgq_lock_ripe does, for the queues that are not paused, with the defaults of the queues filled in. '
    'Returns what that function returns, but the ctids in any order, and failed positive also if a queue keeps all '
    'that is done; and lease, the longest that the queues have among their settings. If one of the queues has groups '
    'or limits, the jobs are taken in turn, and in_turn_at is the time of the claim: the caller moves the rows with '
    '_pgq_move_in_turn, which keeps their order.';
