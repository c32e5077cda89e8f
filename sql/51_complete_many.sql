-- Complete many jobs.

CREATE FUNCTION _pgq_complete_packed(token bigint, ids bigint[], tokens bigint[], allowed text[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_complete_packed$
DECLARE
    v_batch record;
    v_done bigint[];
BEGIN
    SELECT b.ids, b.queues, b.kinds, b.ripe_ats, b.claimed_at, b.gone INTO v_batch
    FROM pgq_running_batch AS b
    WHERE b.token = _pgq_complete_packed.token
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN '{}';
    END IF;

    v_done := ARRAY(
        SELECT j.id
        FROM unnest(v_batch.ids, v_batch.queues) AS j (id, queue)
        WHERE j.id IN (SELECT u.id FROM unnest(ids, tokens) AS u (id, token)
                       WHERE u.token = _pgq_complete_packed.token)
          AND j.id NOT IN (SELECT g.id FROM unnest(v_batch.gone) AS g (id))
          AND (allowed IS NULL OR j.queue = ANY (allowed))
    );
    IF cardinality(v_batch.gone) + cardinality(v_done) = cardinality(v_batch.ids) THEN
        DELETE FROM pgq_running_batch AS b WHERE b.token = _pgq_complete_packed.token;
        PERFORM _pgq_count_batch(
            token, v_batch.queues, v_batch.kinds, v_batch.ripe_ats, v_batch.claimed_at, pgq_now());
    ELSIF v_done <> '{}' THEN
        UPDATE pgq_running_batch AS b SET gone = b.gone || v_done WHERE b.token = _pgq_complete_packed.token;
    END IF;
    RETURN v_done;
END
$_pgq_complete_packed$;

COMMENT ON FUNCTION _pgq_complete_packed(bigint, bigint[], bigint[], text[]) IS
    'End those of these jobs that run in the packed batch with a token, in queues that are allowed, or any if these '
    'are NULL. Returns their ids.';


-- Packed batches first, in the order of tokens, then rows in the order of ids: a job moves from its batch to
-- pgq_running and never back, so it is found in one of the two statements.
CREATE FUNCTION _pgq_complete_held(
    ids bigint[],
    tokens bigint[],
    allowed text[],
    OUT ended bigint[],
    OUT freed_queues text[],
    OUT freed_groups bigint[]
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_complete_held$
DECLARE
    v_tokens bigint[];
    v_token bigint;
    v_packed bigint[] := '{}';
    v_rows tid[];
    v_failed bigint;
    v_jobs pgq_running[];
    v_queues text[];
    v_kinds text[];
    v_ripe_ats timestamptz[];
    v_claimed_at timestamptz;
BEGIN
    IF (cardinality(ids) = cardinality(tokens)) IS NOT TRUE THEN
        PERFORM _pgq_check_pairs(ids, tokens);
    END IF;

    -- The usual case: all jobs of one batch, in the order in which they were claimed.
    IF tokens = array_fill(tokens[1], ARRAY[cardinality(tokens)]) THEN
        DELETE FROM pgq_running_batch AS b
        WHERE b.token = tokens[1]
          AND b.ids = _pgq_complete_held.ids
          AND b.gone = '{}'
          AND (allowed IS NULL OR b.queues <@ allowed)
        RETURNING b.queues, b.kinds, b.ripe_ats, b.claimed_at INTO v_queues, v_kinds, v_ripe_ats, v_claimed_at;
        IF FOUND THEN
            -- The usual case of _pgq_count_batch, without the call.
            IF v_kinds[1] = ALL (v_kinds COLLATE "C") AND v_queues[1] = ALL (v_queues COLLATE "C") THEN
                INSERT INTO pgq_count (queue, kind, event, jobs, waited, ran)
                VALUES (v_queues[1], v_kinds[1], 'packed', cardinality(ids),
                        (v_claimed_at - v_ripe_ats[1 + tokens[1] % cardinality(ids)]) * cardinality(ids),
                        (pgq_now() - v_claimed_at) * cardinality(ids));
            ELSE
                PERFORM _pgq_count_batch(tokens[1], v_queues, v_kinds, v_ripe_ats, v_claimed_at, pgq_now());
            END IF;
            ended := CASE WHEN _pgq_tell_ends(ids, 'done') IS NOT NULL THEN ids END;
            RETURN;
        END IF;
        v_tokens := tokens[1:1];
    ELSE
        v_tokens := ARRAY(SELECT DISTINCT t.token FROM unnest(tokens) AS t (token) ORDER BY t.token);
    END IF;
    FOREACH v_token IN ARRAY v_tokens LOOP
        v_packed := v_packed || _pgq_complete_packed(v_token, ids, tokens, allowed);
    END LOOP;
    IF cardinality(v_packed) = cardinality(ids) THEN
        ended := CASE WHEN _pgq_tell_ends(v_packed, 'done') IS NOT NULL THEN v_packed END;
        RETURN;
    END IF;

    -- One look-up in the primary key for each pair, in the order of ids: a subquery that locks is never turned into a
    -- join, whose order would depend on the statistics. The DELETE is a statement of its own, as in a claim. It returns
    -- nothing, because it would read each row again for that.
    SELECT coalesce(array_agg(held.ctid), '{}'), coalesce(array_agg(held.id), '{}'), count(held.newest_error),
           array_agg(held.queue) FILTER (WHERE held.group_id IS NOT NULL),
           array_agg(held.group_id) FILTER (WHERE held.group_id IS NOT NULL)
    INTO v_rows, ended, v_failed, freed_queues, freed_groups
    FROM (
        SELECT DISTINCT u.id, u.token
        FROM unnest(ids, tokens) AS u (id, token)
        ORDER BY u.id, u.token
    ) AS given
    CROSS JOIN LATERAL (
        SELECT r.ctid, r.id, r.queue, r.newest_error, r.group_id
        FROM pgq_running AS r
        WHERE r.id = given.id
          AND r.token = given.token
          AND (allowed IS NULL OR r.queue = ANY (allowed))
        FOR UPDATE
    ) AS held;
    IF v_failed > 0 THEN
        v_jobs := ARRAY(
            SELECT r
            FROM pgq_running AS r
            WHERE r.ctid = ANY (v_rows)
              AND r.newest_error IS NOT NULL
        );
    END IF;
    DELETE FROM pgq_running AS r WHERE r.ctid = ANY (v_rows);
    IF v_jobs IS NOT NULL THEN
        PERFORM _pgq_keep_done(v_jobs);
    END IF;
    ended := v_packed || ended;
    ended := CASE WHEN _pgq_tell_ends(ended, 'done') IS NOT NULL THEN ended END;
END
$_pgq_complete_held$;

COMMENT ON FUNCTION _pgq_complete_held(bigint[], bigint[], text[]) IS
    'End running jobs that are done, without a result, each under its token, in queues that are allowed, or any if '
    'these are NULL. Returns the ids of the jobs that were ended, and the queues and groups of those that the limits '
    'of their queues have counted, as _pgq_wake_places takes them; NULL if there are none. Raises what '
    '_pgq_check_pairs does.';


CREATE FUNCTION pgq_complete_many(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_complete_many$
DECLARE
    v_settled record := _pgq_complete_held(ids, tokens, _pgq_allowed_queues('worker'));
BEGIN
    IF v_settled.freed_queues IS NOT NULL THEN
        PERFORM _pgq_wake_places(v_settled.freed_queues, v_settled.freed_groups);
    END IF;
    RETURN QUERY SELECT e.id FROM unnest(v_settled.ended) AS e (id);
END
$pgq_complete_many$;

COMMENT ON FUNCTION pgq_complete_many(bigint[], bigint[]) IS
    'End running jobs that are done, without a result, each under its token, as pgq_complete does. Returns the ids of '
    'the jobs that were ended, in any order; a job whose id is missing was not held under its token, and what was done '
    'for it must be rolled back. A pair with a NULL ends no job; NULL for ids or tokens raises 22004, arrays of '
    'different lengths raise 2202E.';
