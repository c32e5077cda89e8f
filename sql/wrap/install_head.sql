DO $install_head$
DECLARE
    c_schema CONSTANT text := current_schema();
    v_version text;
    v_extension boolean;
BEGIN
    IF c_schema IS NULL THEN
        RAISE EXCEPTION 'no schema of the search path "%" exists', current_setting('search_path')
            USING ERRCODE = 'invalid_schema_name',
                  HINT = 'Create a schema for pgq, or set search_path to one that exists.';
    END IF;
    -- Functions record this path (SET search_path FROM CURRENT): it must name this schema, and none in which another
    -- role could plant objects.
    PERFORM set_config('search_path', format('%I, pg_temp', c_schema), true);

    IF EXISTS (
        SELECT FROM pg_proc AS p
        JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'pgq'
          AND p.proname IN ('create_queue', 'insert_event', 'next_batch')
    ) THEN
        RAISE EXCEPTION 'this database holds another pgq: PgQ of Skytools, in the schema "pgq"'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Use another database, because the two extensions have the same name.';
    END IF;

    -- Read, not called: another role that may create functions here could have planted it.
    SELECT substring(pg_get_function_sqlbody(p.oid) FROM '''(.*)'''),
           EXISTS (
               SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    INTO v_version, v_extension
    FROM pg_proc AS p
    WHERE p.oid = to_regprocedure(format('%I.pgq_version()', c_schema));
    IF v_version IS NOT NULL THEN
        RAISE EXCEPTION 'pgq % is already installed in the schema "%", %',
              v_version, c_schema, CASE WHEN v_extension THEN 'as an extension' ELSE 'from the plain script' END
            USING ERRCODE = 'duplicate_object',
                  HINT = CASE
                      WHEN v_version = '@VERSION@' THEN
                          'Use it as it is, remove it with "pgq uninstall", or install pgq in another schema, too.'
                      WHEN v_extension THEN 'Bring it up to date with ALTER EXTENSION pgq UPDATE.'
                      ELSE 'Bring it up to date with "pgq upgrade".'
                  END;
    END IF;
END
$install_head$;
