DO $upgrade_head$
DECLARE
    c_schema CONSTANT text := current_schema();
    v_owner text;
    v_version text;
BEGIN
    -- The same as at the installation, for functions record it.
    PERFORM set_config('search_path', format('%I, pg_temp', c_schema), true);
    -- Whatever waits for a table makes everybody else wait behind it: rather give up, to be tried again.
    PERFORM set_config('lock_timeout', '500ms', true);

    SELECT r.rolname INTO v_owner
    FROM pg_class AS c
    JOIN pg_roles AS r ON r.oid = c.relowner
    WHERE c.oid = to_regclass(format('%I.pgq_waiting', c_schema));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no pgq in the schema "%"', c_schema
            USING ERRCODE = 'undefined_object',
                  HINT = 'Put the schema that it lives in first on the search_path.';
    END IF;
    -- What a superuser upgrades must go on belonging to its owner, and act with no more than his rights.
    IF v_owner <> current_user THEN
        PERFORM set_config('role', v_owner, true);
    END IF;

    -- Two upgrades at a time. No worker has the number 0.
    PERFORM pg_advisory_xact_lock('pgq_worker_session'::regclass::oid::integer, 0);
    SELECT substring(pg_get_function_sqlbody(p.oid) FROM '''(.*)''') INTO v_version
    FROM pg_proc AS p
    WHERE p.oid = to_regprocedure(format('%I.pgq_version()', c_schema));
    IF v_version IS DISTINCT FROM '@FROM@' THEN
        RAISE EXCEPTION 'this script upgrades pgq from @FROM@ to @TO@, and in the schema "%" there is %', c_schema, v_version
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = CASE
                      WHEN v_version = '@TO@' THEN 'There is nothing to do.'
                      ELSE 'Let "pgq upgrade" find the scripts that are needed.'
                  END;
    END IF;
END
$upgrade_head$;
