-- Who may do what. The roles are siblings: grant two of them to who needs both.

CREATE FUNCTION pgq_grant(role text, what text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $pgq_grant$
DECLARE
    c_schema CONSTANT text := current_schema();
    v_functions text[] := CASE what
        WHEN 'producer' THEN ARRAY['pgq_enqueue', 'pgq_enqueue_many']
        WHEN 'worker' THEN ARRAY['pgq_register', 'pgq_unregister', 'pgq_disown', 'pgq_claim', 'pgq_pending', 'pgq_idle', 'pgq_hold', 'pgq_complete', 'pgq_complete_many', 'pgq_fail',
                                 'pgq_discard', 'pgq_extend', 'pgq_snooze', 'pgq_release']
        WHEN 'admin' THEN ARRAY['pgq_cancel', 'pgq_retry', 'pgq_purge', 'pgq_now']
        WHEN 'reader' THEN ARRAY['pgq_now']
    END;
    v_function text;
BEGIN
    IF role IS NULL OR what IS NULL THEN
        RAISE EXCEPTION 'role or what is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Name a database role, and producer, worker, admin or reader.';
    END IF;
    IF v_functions IS NULL THEN
        RAISE EXCEPTION 'what "%" is unknown', left(what, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use producer, worker, admin or reader.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = role) THEN
        RAISE EXCEPTION 'there is no role "%"', left(role, 200)
            USING ERRCODE = 'undefined_object',
                  HINT = 'Create it first; names are case-sensitive here and take no quotes.';
    END IF;

    -- The only dynamic SQL of pgq, because GRANT takes no parameters; with the rights of the caller, so that it
    -- gives away nothing that the caller could not grant by hand.
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', c_schema, role);
    FOREACH v_function IN ARRAY v_functions || ARRAY['pgq_backoff', 'pgq_version'] LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %I.%I TO %I', c_schema, v_function, role);
    END LOOP;
    IF what = 'admin' THEN
        EXECUTE format('GRANT SELECT ON %I.pgq_job TO %I', c_schema, role);
    ELSIF what = 'reader' THEN
        EXECUTE format(
            'GRANT SELECT (id, state, queue, kind, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, '
            'enqueued_at, worker, claimed_at, lease_until, ended_at) ON %I.pgq_job TO %I', c_schema, role);
    END IF;
    IF what IN ('admin', 'reader') THEN
        EXECUTE format('GRANT SELECT ON %1$I.pgq_stats, %1$I.pgq_workers TO %2$I', c_schema, role);
    END IF;
END
$pgq_grant$;

COMMENT ON FUNCTION pgq_grant(text, text) IS
    'Let a role use pgq: as producer enqueue; as worker claim and what follows; as admin cancel, retry, purge and see '
    'everything; as reader see counts and states, but neither args nor errors nor results. Only the owner of pgq can '
    'call it. NULL is refused (22004), an unknown role too (42704), another what (22023).';
