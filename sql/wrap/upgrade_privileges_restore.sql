-- Give back the privileges that were noted before the drops.
--
-- What a script of an extension grants, PostgreSQL takes for a part of the extension, and pg_dump leaves it out. There a
-- deferred trigger grants, at the end of the transaction, when the script is over. Its table goes with the transaction,
-- its function with the session; neither becomes a part of the extension.
DO $upgrade_privileges_restore$
DECLARE
    c_grants CONSTANT text := current_setting('pgq.upgrade_grants');
    c_name CONSTANT text := 'pgq_upgrade_to_@TO@';
BEGIN
    IF c_grants = '' THEN
        RETURN;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = 'pgq_waiting'::regclass AND d.deptype = 'e'
    ) THEN
        EXECUTE format('DO %L', 'BEGIN ' || c_grants || ' END');
        RETURN;
    END IF;

    IF NOT has_database_privilege(current_database(), 'TEMPORARY') THEN
        RAISE EXCEPTION 'role "%" may not create temporary tables in the database "%"', current_user, current_database()
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Call GRANT TEMPORARY ON DATABASE %I TO %I first; the upgrade of an extension needs it.',
                                current_database(), current_user);
    END IF;
    EXECUTE format('CREATE TEMPORARY TABLE %I () ON COMMIT DROP', c_name);
    EXECUTE format(
        'CREATE FUNCTION pg_temp.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS %L',
        c_name, 'BEGIN ' || c_grants || ' RETURN NULL; END');
    EXECUTE format('CREATE CONSTRAINT TRIGGER grants AFTER INSERT ON pg_temp.%1$I DEFERRABLE INITIALLY DEFERRED '
                   'FOR EACH ROW EXECUTE FUNCTION pg_temp.%1$I()', c_name);
    EXECUTE format('ALTER EXTENSION pgq DROP FUNCTION pg_temp.%I()', c_name);
    EXECUTE format('ALTER EXTENSION pgq DROP TABLE pg_temp.%I', c_name);
    EXECUTE format('INSERT INTO pg_temp.%I DEFAULT VALUES', c_name);
END
$upgrade_privileges_restore$;
