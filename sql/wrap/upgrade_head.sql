DO $upgrade_head$
DECLARE
    c_schema CONSTANT text := current_schema();
    v_owner text;
    v_version text;
BEGIN
    -- The same path as at the installation: functions record it.
    PERFORM set_config('search_path', format('%I, pg_temp', c_schema), true);
    -- All callers queue up behind a lock that this waits for: give up soon, to be tried again.
    PERFORM set_config('lock_timeout', '500ms', true);

    SELECT r.rolname INTO v_owner
    FROM pg_class AS c
    JOIN pg_roles AS r ON r.oid = c.relowner
    WHERE c.oid = to_regclass(format('%I.pgq_waiting', c_schema));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no pgq in the schema "%"', c_schema
            USING ERRCODE = 'undefined_object',
                  HINT = 'Put the schema of pgq first in the search_path.';
    END IF;
    -- After an upgrade by a superuser everything still belongs to the owner, and acts with no more than its rights.
    IF v_owner <> current_user THEN
        PERFORM set_config('role', v_owner, true);
    END IF;

    -- One upgrade at a time. No worker has the number 0. The table was called pgq_worker before 0.3.0; a rename keeps the
    -- oid, so a session that looked before the rename waits for the same lock.
    PERFORM pg_advisory_xact_lock(
        coalesce(to_regclass('pgq_worker_session'), to_regclass('pgq_worker'))::oid::integer, 0);
    SELECT substring(pg_get_function_sqlbody(p.oid) FROM '''(.*)''') INTO v_version
    FROM pg_proc AS p
    WHERE p.oid = to_regprocedure(format('%I.pgq_version()', c_schema));
    IF v_version IS DISTINCT FROM '@FROM@' THEN
        RAISE EXCEPTION 'this script upgrades pgq from @FROM@ to @TO@, but the schema "%" holds %', c_schema, v_version
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = CASE
                      WHEN v_version = '@TO@' THEN 'There is nothing to do.'
                      ELSE 'Use "pgq upgrade", which finds the scripts that are needed.'
                  END;
    END IF;
END
$upgrade_head$;
