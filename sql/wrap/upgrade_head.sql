DO $upgrade_head$
DECLARE
    c_schema CONSTANT text := current_schema();
    v_owner text;
    v_version text;
BEGIN
    -- The same as at the installation, because functions record it.
    PERFORM set_config('search_path', format('%I, pg_temp', c_schema), true);
    -- A statement that waits for a table makes all later ones wait behind it: give up early, to be tried again.
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
    -- After an upgrade by a superuser, the objects must still belong to their owner and act with no more than its
    -- rights.
    IF v_owner <> current_user THEN
        PERFORM set_config('role', v_owner, true);
    END IF;

    -- One upgrade at a time. No worker has the number 0.
    PERFORM pg_advisory_xact_lock('pgq_worker_session'::regclass::oid::integer, 0);
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
