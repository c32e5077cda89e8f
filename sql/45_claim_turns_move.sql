-- Claims from several queues of which some have groups or limits, and how the jobs move.

-- What is left of a mixed list: runs of queues without groups or limits are claimed together, as always.
CREATE FUNCTION _pgq_lock_in_turns(
    queues text[],
    special text[],
    max_jobs bigint,
    max_bytes bigint,
    INOUT at timestamptz,
    OUT rows tid[],
    OUT token bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_in_turns$
DECLARE
    -- For one queue, the value of _pgq_digest, without a query.
    v_digest text := CASE cardinality(queues)
        WHEN 1 THEN '1 ' || hashtextextended(queues[1] COLLATE "C", 0)
        ELSE _pgq_digest(queues)
    END;
    v_next_due timestamptz;
    v_run text[] := '{}';
    v_queue text;
    v_part record;
    v_waits boolean := true;
    v_bytes bigint := 0;
    v_suspects bigint := 0;
    v_turns pgq_turn[] := '{}';
    v_places tid[] := '{}';
BEGIN
    IF _pgq_is_bare(v_digest, _pgq_microseconds(at)) IS NOT TRUE THEN
        v_next_due := _pgq_maintain(at);
        PERFORM set_config(
            _pgq_bare_setting(),
            v_digest || ' ' || _pgq_microseconds(greatest(at, least(v_next_due, at + interval '10 seconds'))),
            false);
    END IF;
    rows := '{}';
    FOREACH v_queue IN ARRAY queues || ARRAY[NULL] LOOP
        IF NOT v_queue = ANY (special) THEN
            v_run := v_run || v_queue;
            CONTINUE;
        END IF;
        IF v_run <> '{}' THEN
            SELECT r.rows, coalesce(r.bytes, 0) AS bytes INTO v_part
            FROM _pgq_lock_ripe(v_run, max_jobs - cardinality(_pgq_lock_in_turns.rows), max_bytes - v_bytes, at) AS r;
            rows := rows || v_part.rows;
            v_bytes := v_bytes + v_part.bytes;
            v_suspects := v_suspects + (
                SELECT count(w.losses)
                FROM (SELECT o.losses FROM pgq_waiting AS o WHERE o.ctid = ANY (v_part.rows) OFFSET 0) AS w);
            EXIT WHEN cardinality(rows) >= max_jobs OR v_bytes >= max_bytes OR v_suspects > 0;
            v_run := '{}';
        END IF;
        EXIT WHEN v_queue IS NULL;
        v_part := _pgq_lock_next(v_queue, max_jobs - cardinality(rows), at);
        IF v_part.rows IS NULL THEN
            v_part := _pgq_lock_in_turn(v_queue, max_jobs - cardinality(rows), at, v_waits);
        END IF;
        rows := rows || v_part.rows;
        v_bytes := v_bytes + v_part.bytes;
        v_suspects := v_suspects + v_part.suspects;
        IF v_part.locked_at IS NOT NULL THEN
            -- With the lock of a queue, a claim waits for no other.
            v_waits := false;
            at := greatest(at, v_part.locked_at);
        END IF;
        IF NOT v_part.is_noted
           AND (v_part.rows <> '{}' OR v_part.last_group IS NULL AND v_part.place IS NOT NULL) THEN
            v_turns := v_turns || ROW(v_queue, NULL, v_part.last_group, v_part.oldest)::pgq_turn;
            v_places := v_places || coalesce(v_part.place, '(0,0)');
        END IF;
        EXIT WHEN cardinality(rows) >= max_jobs OR v_bytes >= max_bytes OR v_suspects > 0;
    END LOOP;
    IF v_bytes > max_bytes OR v_suspects > 0 THEN
        rows := _pgq_cut(rows, max_bytes);
    END IF;
    IF rows <> '{}' THEN
        -- Drawn while the rows, and the queues with limits, are locked.
        token := nextval('pgq_token');
        IF token < _pgq_microseconds(at) - 1000000 THEN
            token := _pgq_move_token(_pgq_microseconds(at));
        END IF;
    END IF;
    IF v_turns <> '{}' THEN
        PERFORM _pgq_end_turn(
            t.queue, t.place, CASE WHEN t.group_id IS NOT NULL THEN _pgq_lock_in_turns.token END, t.group_id,
            CASE WHEN t.oldest IS NOT NULL THEN least(t.oldest, _pgq_lock_in_turns.token) END)
        FROM unnest(v_turns, v_places) AS t (queue, token, group_id, oldest, place)
        WHERE t.group_id IS NULL OR rows <> '{}';
        PERFORM _pgq_spend(s, rows, at)
        FROM unnest(v_turns) AS t
        JOIN pgq_queue_setting AS s ON s.queue = t.queue
        WHERE num_nonnulls(s.rate, s.rate_per_group) > 0;
    END IF;
END
$_pgq_lock_in_turns$;

COMMENT ON FUNCTION _pgq_lock_in_turns(text[], text[], bigint, bigint, timestamptz) IS
    'Do the maintenance of a claim, and lock the rows of up to max_jobs jobs of these queues, each named once, that '
    'are ripe at a time, and no more once their args and contexts reach max_bytes; a suspect alone: from the special '
    'queues in turn, and from the others between them as always. Returns their ctids, in the order in which the jobs '
    'are to be returned, and the token and the time of the claim, which is later than the given one if it has waited '
    'for a queue with limits.';


-- The plain statements of the claims sort by the columns of a job. Here the order is that in which the rows were taken.
CREATE FUNCTION _pgq_move_in_turn(rows tid[], token bigint, at timestamptz, lease interval, worker text)
    RETURNS SETOF pgq_running
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_nestloop = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_move_in_turn$
BEGIN
    IF cardinality(rows) = 1 THEN
        RETURN QUERY
        WITH taken AS (
            DELETE FROM pgq_waiting AS w
            WHERE w.ctid = ANY (rows)
            RETURNING w.*
        ), counted AS (
            INSERT INTO pgq_count (queue, kind, event, jobs, waited)
            SELECT t.queue, t.kind, 'claimed', 1, _pgq_move_in_turn.at - t.ripe_at FROM taken AS t
        )
        INSERT INTO pgq_running AS r (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
        )
        SELECT t.id, t.queue, t.kind, t.args, t.priority, t.ripe_at, t.attempt + 1,
               coalesce(t.max_retries, (t.setting).max_retries, 10), coalesce(t.backoff, (t.setting).backoff),
               coalesce(t.backoff_cap, (t.setting).backoff_cap), t.dedup, t.dedup_key, t.enqueued_at, t.context,
               _pgq_move_in_turn.token, at + _pgq_move_in_turn.lease, _pgq_move_in_turn.worker, at, t.losses,
               coalesce(
                   t.newest_error,
                   CASE WHEN (t.setting).keep_done IS NOT NULL OR _pgq_is_timed(_pgq_move_in_turn.token) THEN 0 END),
               t.group_key, CASE WHEN _pgq_has_limits(t.setting) THEN coalesce(t.group_id, 0) END
        FROM (
            -- Without nested loops, a join would be one by hashing. OFFSET 0 is a fence: one look-up.
            SELECT o.*, (SELECT s FROM pgq_queue_setting AS s WHERE s.queue = o.queue COLLATE "C") AS setting
            FROM taken AS o
            OFFSET 0
        ) AS t
        RETURNING r.*;
        RETURN;
    END IF;
    RETURN QUERY
    WITH taken AS (
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = ANY (rows)
        RETURNING w.ctid AS place, w.*
    ), counted AS (
        INSERT INTO pgq_count (queue, kind, event, jobs, waited)
        SELECT t.queue, t.kind, 'claimed', count(*), sum(_pgq_move_in_turn.at - t.ripe_at)
        FROM taken AS t
        GROUP BY t.queue, t.kind
    )
    INSERT INTO pgq_running AS r (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
    )
    SELECT t.id, t.queue, t.kind, t.args, t.priority, t.ripe_at, t.attempt + 1,
           coalesce(t.max_retries, s.max_retries, 10), coalesce(t.backoff, s.backoff),
           coalesce(t.backoff_cap, s.backoff_cap), t.dedup, t.dedup_key, t.enqueued_at, t.context,
           _pgq_move_in_turn.token, at + _pgq_move_in_turn.lease, _pgq_move_in_turn.worker, at, t.losses,
           coalesce(
               t.newest_error,
               CASE WHEN s.keep_done IS NOT NULL OR _pgq_is_timed(_pgq_move_in_turn.token) THEN 0 END),
           t.group_key,
           CASE WHEN _pgq_has_limits(s) THEN coalesce(t.group_id, 0) END
    FROM taken AS t
    JOIN unnest(rows) WITH ORDINALITY AS o (place, n) USING (place)
    LEFT JOIN pgq_queue_setting AS s ON s.queue = t.queue COLLATE "C"
    ORDER BY o.n
    RETURNING r.*;
END
$_pgq_move_in_turn$;

COMMENT ON FUNCTION _pgq_move_in_turn(tid[], bigint, timestamptz, interval, text) IS
    'Move jobs whose rows were locked in an earlier statement from pgq_waiting to pgq_running; the limits of their '
    'queues count them from then on. Returns the rows, in the given order.';
