-- Handle a job that pgq_enqueue cannot insert, because its twin is waiting.

CREATE FUNCTION _pgq_resolve_duplicate(
    signature uuid,
    args jsonb,
    ripe_at timestamptz,
    priority bigint,
    on_duplicate text
) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_resolve_duplicate$
DECLARE
    v_id bigint;
BEGIN
    IF on_duplicate = 'replace' THEN
        UPDATE pgq_waiting AS w
        SET args = _pgq_resolve_duplicate.args, ripe_at = _pgq_resolve_duplicate.ripe_at,
            priority = _pgq_resolve_duplicate.priority
        WHERE w.signature = _pgq_resolve_duplicate.signature;
    ELSIF on_duplicate = 'soonest' THEN
        UPDATE pgq_waiting AS w
        SET ripe_at = _pgq_resolve_duplicate.ripe_at
        WHERE w.signature = _pgq_resolve_duplicate.signature
          AND w.ripe_at > _pgq_resolve_duplicate.ripe_at;
    END IF;

    -- A claim skips locked rows: the twin starts after this transaction has committed, so that its handler sees what
    -- this transaction has written.
    SELECT w.id INTO v_id
    FROM pgq_waiting AS w
    WHERE w.signature = _pgq_resolve_duplicate.signature
    FOR KEY SHARE;
    RETURN v_id;
END
$_pgq_resolve_duplicate$;

COMMENT ON FUNCTION _pgq_resolve_duplicate(uuid, jsonb, timestamptz, bigint, text) IS
    'Do to a waiting job what on_duplicate asks for, and lock it until the end of the transaction. Returns its id, or '
    'NULL if no job is waiting any more with this signature.';
