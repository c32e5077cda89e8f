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
    v_has_defaults boolean;
    v_special text[];
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

    v_special := _pgq_special(queues);
    IF v_special <> '{}' THEN
        SELECT l.rows, l.token, l.at INTO rows, token, in_turn_at
        FROM _pgq_lock_in_turns(_pgq_distinct(queues), v_special, max_jobs, max_bytes, at) AS l;
        RETURN;
    END IF;
    SELECT l.rows, l.token, l.bytes, l.failed INTO rows, token, bytes, failed
    FROM _pgq_lock_ripe(queues, max_jobs, max_bytes, at) AS l;
    IF v_has_defaults AND rows <> '{}' THEN
        rows := _pgq_set_defaults(rows);
    END IF;
END
$_pgq_lock_marked$;

COMMENT ON FUNCTION _pgq_lock_marked(text[], bigint, bigint, timestamptz) IS
    'Do what _pgq_lock_ripe does, for the queues that are not paused, with the defaults of the queues filled in. '
    'Returns what that function returns, but the ctids in any order, and lease, the longest that the queues have among '
    'their settings. If one of the queues has groups or limits, the jobs are taken in turn, and in_turn_at is the time '
    'of the claim: the caller moves the rows with _pgq_move_in_turn, which keeps their order.';
