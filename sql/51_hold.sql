-- Hold running jobs until the end of the transaction.

CREATE FUNCTION pgq_hold(id bigint, token bigint) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_hold$
DECLARE
    v_allowed text[];
BEGIN
    UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call
    IF NOT _pgq_acts_as_owner() THEN
        v_allowed := _pgq_allowed_queues('worker');
    END IF;
    PERFORM
    FROM pgq_running AS r
    WHERE r.id = pgq_hold.id
      AND r.token = pgq_hold.token
      AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
    FOR UPDATE;
    IF NOT FOUND THEN
        -- It may run in a packed batch.
        PERFORM pgq_hold_many(ARRAY[id], ARRAY[token]);
        IF NOT FOUND THEN
            PERFORM _pgq_raise_lease_lost(id, token);
        END IF;
    END IF;
END
$pgq_hold$;

COMMENT ON FUNCTION pgq_hold(bigint, bigint) IS
    'Lock a running job until the end of the transaction, so that no other worker takes it, even if its lease ends '
    'meanwhile. Returns nothing. Where pgq_claim_batch has packed the job, calls for the other jobs of its batch wait '
    'for the transaction, too. Raises PGQ02 if the job is not held under this token, or for a NULL id or token.';


CREATE FUNCTION pgq_hold_many(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_hold_many$
DECLARE
    v_allowed text[];
BEGIN
    UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call
    IF NOT _pgq_acts_as_owner() THEN
        v_allowed := _pgq_allowed_queues('worker');
    END IF;
    PERFORM _pgq_check_pairs(ids, tokens);
    PERFORM _pgq_unpack_jobs(ids, tokens, v_allowed);

    -- One look-up for each pair, in the order of ids, as in pgq_complete_many.
    RETURN QUERY
    SELECT held.id
    FROM (
        SELECT u.id, u.token
        FROM unnest(ids, tokens) AS u (id, token)
        ORDER BY u.id
    ) AS given
    CROSS JOIN LATERAL (
        SELECT r.id
        FROM pgq_running AS r
        WHERE r.id = given.id
          AND r.token = given.token
          AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
        FOR UPDATE
    ) AS held;
END
$pgq_hold_many$;

COMMENT ON FUNCTION pgq_hold_many(bigint[], bigint[]) IS
    'Lock running jobs until the end of the transaction, as pgq_hold does, each under its token. Returns the ids of '
    'the jobs that are locked; a job whose id is missing is not held under its token, and no work must begin for it. '
    'NULL for ids or tokens raises 22004, arrays of different lengths raise 2202E.';
