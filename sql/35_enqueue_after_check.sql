-- What a job is enqueued after: whether these jobs exist, and which of them are over.

CREATE FUNCTION _pgq_check_after(after bigint[], after_failed text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_after$
DECLARE
    v_last bigint := coalesce(pg_sequence_last_value('pgq_job_id'), 0);
    v_id bigint;
BEGIN
    IF after_failed NOT IN ('cancel', 'run', 'wait') THEN
        RAISE EXCEPTION 'after_failed "%" is unknown', left(after_failed, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use cancel, run or wait.';
    END IF;
    SELECT a.id INTO v_id FROM unnest(after) AS a (id) WHERE (a.id BETWEEN 1 AND v_last) IS NOT TRUE LIMIT 1;
    IF FOUND AND v_id IS NULL THEN
        RAISE EXCEPTION 'one of the ids in after is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give the id of each job, or leave the argument out for a job that waits for none.';
    ELSIF FOUND THEN
        RAISE EXCEPTION 'there has been no job %', v_id
            USING ERRCODE = 'PGQ01',
                  HINT = 'Give ids that an enqueue has returned.';
    END IF;
END
$_pgq_check_after$;

COMMENT ON FUNCTION _pgq_check_after(bigint[], text) IS
    'Check the arguments after and after_failed of pgq_enqueue. Returns nothing. Raises what pgq_enqueue does for '
    'them.';


-- Two statements, because the search in packed batches reads all of them, and few jobs are in one. A job in neither is
-- over: it was completed without a result, has merged, or was purged.
CREATE FUNCTION _pgq_prerequisites(ids bigint[], allowed text[], OUT living bigint[], OUT failed bigint[])
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_prerequisites$
DECLARE
    v_found integer;
BEGIN
    FOR v_try IN 1..2 LOOP
        SELECT count(*), coalesce(array_agg(j.id) FILTER (WHERE j.lives), '{}'),
               coalesce(array_agg(j.id) FILTER (WHERE NOT j.lives), '{}')
        INTO v_found, living, failed
        FROM (
            SELECT w.id, w.queue, true AS lives FROM pgq_waiting AS w WHERE w.id = ANY (ids)
            UNION ALL
            SELECT b.id, b.queue, true FROM pgq_blocked AS b WHERE b.id = ANY (ids)
            UNION ALL
            SELECT e.id, e.queue, false
            FROM pgq_ended AS e
            WHERE e.id = ANY (ids) AND e.outcome IN ('dead', 'cancelled')
            UNION ALL
            SELECT r.id, r.queue, true FROM _pgq_running AS r WHERE v_try = 2 AND r.id = ANY (ids)
        ) AS j
        WHERE allowed IS NULL OR j.queue = ANY (allowed);
        EXIT WHEN v_found = cardinality(ids);
    END LOOP;
END
$_pgq_prerequisites$;

COMMENT ON FUNCTION _pgq_prerequisites(bigint[], text[]) IS
    'Return which of these jobs have not ended, and which are dead or cancelled, as far as they are in one of the '
    'allowed queues, or any if these are NULL.';


CREATE FUNCTION _pgq_named_queues() RETURNS text[]
    LANGUAGE plpgsql
    STABLE
    SET search_path FROM CURRENT
AS $_pgq_named_queues$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('producer');
    v_as_admin text[];
BEGIN
    IF v_allowed IS NOT NULL THEN
        v_as_admin := _pgq_allowed_queues('admin');
    END IF;
    RETURN CASE WHEN v_as_admin IS NOT NULL THEN v_allowed || v_as_admin END;
END
$_pgq_named_queues$;

COMMENT ON FUNCTION _pgq_named_queues() IS
    'Return the queues whose jobs the calling role may name in after, or send signals to, as producer or as admin; '
    'NULL: all.';


-- An expression, so that PostgreSQL inlines it.
CREATE FUNCTION _pgq_blocked_signature(signature uuid, after bigint[], after_failed text) RETURNS uuid
    LANGUAGE sql
    STABLE
    RETURN md5(signature || after_failed || after::text)::uuid;

COMMENT ON FUNCTION _pgq_blocked_signature(uuid, bigint[], text) IS
    'Return what makes two blocked jobs twins: the MD5 over the signature of each as a waiting job, the different ids '
    'after which it was enqueued, in order, and after_failed.';
