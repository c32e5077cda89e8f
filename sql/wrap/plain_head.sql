-- One transaction: all of pgq or none of it.
BEGIN;

-- Functions record this path (SET search_path FROM CURRENT): it must name the one schema and nothing that
-- another role could plant objects in.
DO $plain_head$
BEGIN
    IF current_schema() IS NULL THEN
        RAISE EXCEPTION 'no schema of the search path "%" exists', current_setting('search_path')
            USING ERRCODE = 'invalid_schema_name',
                  HINT = 'Create the schema that pgq shall live in, or set search_path to one that exists.';
    END IF;
    PERFORM set_config('search_path', format('%I, pg_temp', current_schema()), true);
END
$plain_head$;
