-- What happens to a job that succeeds.

CREATE FUNCTION pgq_hold(id bigint, token bigint) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_hold$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('worker');
BEGIN
    PERFORM
    FROM pgq_running AS r
    WHERE r.id = pgq_hold.id
      AND r.token = pgq_hold.token
      AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
    FOR UPDATE;

    IF NOT FOUND THEN
        PERFORM _pgq_raise_lease_lost(id, token);
    END IF;
END
$pgq_hold$;

COMMENT ON FUNCTION pgq_hold(bigint, bigint) IS
    'Lock a running job until the end of this transaction, so that nobody else takes it meanwhile, even if the lease '
    'runs out. Raises PGQ02 when the lease is already lost, and for NULL.';


CREATE FUNCTION pgq_complete(id bigint, token bigint, result jsonb DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_complete$
DECLARE
    v_job pgq_running;
BEGIN
    IF octet_length(result::text) > 1048576 THEN
        RAISE EXCEPTION 'result takes % bytes as text, more than 1048576', octet_length(result::text)
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Store large data in a table of your own and return a reference to it.';
    END IF;

    v_job := _pgq_take(id, token);
    IF result IS NOT NULL THEN
        PERFORM _pgq_end(v_job, 'done', pgq_now(), v_job.errors, result);
    END IF;
END
$pgq_complete$;

COMMENT ON FUNCTION pgq_complete(bigint, bigint, jsonb) IS
    'End a running job. Without a result (NULL) nothing of it remains; with one it is kept in pgq_ended as done. In '
    'one transaction with the writes of the handler the effect is exactly once: it raises PGQ02 when the lease is '
    'lost, and for a NULL id or token, and the writes roll back. A result of more than 1 MiB is refused (54000).';


CREATE FUNCTION pgq_complete_many(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_complete_many$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('worker');
    v_rows tid[];
BEGIN
    PERFORM _pgq_check_pairs(ids, tokens);

    -- A subquery that locks is never turned into a join, which statistics that are wrong would turn around: one look-up
    -- in the primary key for each pair, in the order of ids. Then a statement of its own, as in pgq_claim.
    v_rows := ARRAY(
        SELECT held.ctid
        FROM (
            SELECT u.id, u.token
            FROM unnest(ids, tokens) AS u (id, token)
            ORDER BY u.id
        ) AS given
        CROSS JOIN LATERAL (
            SELECT r.ctid
            FROM pgq_running AS r
            WHERE r.id = given.id
              AND r.token = given.token
              AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
            FOR UPDATE
        ) AS held
    );
    RETURN QUERY
    DELETE FROM pgq_running AS r WHERE r.ctid = ANY (v_rows) RETURNING r.id;
END
$pgq_complete_many$;

COMMENT ON FUNCTION pgq_complete_many(bigint[], bigint[]) IS
    'End running jobs, each under its token, and answer the ids that were ended. An id that is left out, or NULL, was '
    'not held any more and is not done. NULL arrays are refused (22004), and arrays of different lengths (2202E).';
