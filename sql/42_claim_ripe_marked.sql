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
    OUT lease interval
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_marked$
DECLARE
    v_has_defaults boolean;
    v_grouped boolean;
BEGIN
    SELECT max(s.lease), bool_or(num_nonnulls(s.max_retries, s.backoff, s.backoff_cap) > 0)
    INTO lease, v_has_defaults
    FROM pgq_queue_setting AS s
    WHERE s.queue = ANY (queues);
    queues := _pgq_open_queues(queues, at);
    IF queues = '{}' THEN
        PERFORM _pgq_maintain(at);
        rows := '{}';
        RETURN;
    END IF;

    SELECT l.rows, l.token, coalesce(l.bytes, 0), coalesce(l.failed, 0) INTO rows, token, bytes, failed
    FROM _pgq_lock_ripe(queues, max_jobs, max_bytes, at) AS l;
    -- After those without a group, and not after a suspect.
    IF cardinality(rows) < max_jobs AND bytes < max_bytes
       AND NOT EXISTS (SELECT FROM pgq_waiting AS w WHERE w.ctid = ANY (rows) AND w.losses IS NOT NULL) THEN
        SELECT _pgq_lock_marked.rows || g.rows, _pgq_lock_marked.bytes + g.bytes,
               _pgq_lock_marked.failed + cardinality(g.rows), g.rows <> '{}'
        INTO rows, bytes, failed, v_grouped
        FROM _pgq_lock_grouped(
            queues, max_jobs - cardinality(_pgq_lock_marked.rows), max_bytes - _pgq_lock_marked.bytes, at,
            _pgq_lock_marked.rows = '{}') AS g;
        -- Once more, while all rows are locked.
        IF v_grouped THEN
            token := _pgq_move_token(_pgq_microseconds(at));
        END IF;
    END IF;

    IF v_has_defaults AND rows <> '{}' THEN
        rows := _pgq_set_defaults(rows);
    END IF;
END
$_pgq_lock_marked$;

COMMENT ON FUNCTION _pgq_lock_marked(text[], bigint, bigint, timestamptz) IS
    'Do what _pgq_lock_ripe does, for the queues that are not paused: lock also rows of jobs that have a group, and '
    'fill in the defaults of the queues. Returns what that function returns, but the ctids in any order. failed counts '
    'jobs with a group, too, which are not packed either. lease is the longest that the queues have among their '
    'settings.';
