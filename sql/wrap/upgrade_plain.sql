DO $upgrade_plain$
BEGIN
    IF EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = 'pgq_waiting'::regclass AND d.deptype = 'e'
    ) THEN
        RAISE EXCEPTION 'the pgq in the schema "%" is an extension', current_schema()
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'Use ALTER EXTENSION pgq UPDATE, or "pgq upgrade".';
    END IF;
END
$upgrade_plain$;
