-- DROP takes the privileges on an object with it, and a release may give a kind of role more functions. The statements
-- that give both back are noted here, while it can still be seen which roles have what, and run at the end.
DO $upgrade_privileges_save$
DECLARE
    c_schema CONSTANT text := current_schema();
    -- The views and functions that are dropped below, each with what takes its place.
    c_dropped CONSTANT jsonb := '@DROPPED@';
    v_users text;
BEGIN
    -- CASCADE would take what is not ours.
    WITH dropped AS (
        SELECT 'pg_class'::regclass AS class, c.oid
        FROM pg_class AS c
        WHERE c.relnamespace = quote_ident(c_schema)::regnamespace AND c.relkind = 'v' AND c_dropped ? c.relname
        UNION ALL
        SELECT 'pg_proc'::regclass, p.oid
        FROM pg_proc AS p
        WHERE p.pronamespace = quote_ident(c_schema)::regnamespace AND c_dropped ? p.proname
    ), dependent AS (
        SELECT CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END AS class,
               coalesce(r.ev_class, d.objid) AS oid,
               CASE WHEN r.oid IS NULL THEN d.objsubid ELSE 0 END AS part
        FROM pg_depend AS d
        JOIN dropped AS o ON d.refclassid = o.class AND d.refobjid = o.oid
        LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        WHERE d.deptype = 'n'
    )
    SELECT string_agg(DISTINCT pg_describe_object(d.class, d.oid, d.part), ', ') INTO v_users
    FROM dependent AS d
    WHERE NOT EXISTS (SELECT FROM dropped AS o WHERE o.class = d.class AND o.oid = d.oid);

    IF v_users IS NOT NULL THEN
        RAISE EXCEPTION 'other objects depend on views or functions that pgq @TO@ replaces: %', v_users
            USING ERRCODE = 'dependent_objects_still_exist',
                  HINT = 'Drop these objects, upgrade, and create them again on the new views and functions.';
    END IF;

    PERFORM set_config('pgq.upgrade_grants', coalesce((
        SELECT string_agg(g.statement || ';', E'\n' ORDER BY g.part, g.statement)
        FROM (
            SELECT 1 AS part, format('GRANT EXECUTE ON FUNCTION %I.%I TO %s%s', c_schema, c_dropped ->> p.proname::text,
                   CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                   CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) AS statement
            FROM pg_proc AS p
            CROSS JOIN LATERAL aclexplode(p.proacl) AS a
            WHERE p.pronamespace = quote_ident(c_schema)::regnamespace
              AND c_dropped ->> p.proname::text IS NOT NULL
              AND a.grantee <> p.proowner
            UNION ALL
            SELECT 1, format('GRANT %s%s ON TABLE %I.%I TO %s%s', a.privilege_type, ' (' || quote_ident(a.attname) || ')',
                   c_schema, c_dropped ->> c.relname::text,
                   CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                   CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
            FROM pg_class AS c
            CROSS JOIN LATERAL (
                SELECT NULL::name AS attname, e.* FROM aclexplode(c.relacl) AS e
                UNION ALL
                SELECT t.attname, e.*
                FROM pg_attribute AS t
                CROSS JOIN LATERAL aclexplode(t.attacl) AS e
                WHERE t.attrelid = c.oid
            ) AS a
            WHERE c.relnamespace = quote_ident(c_schema)::regnamespace
              AND c.relkind = 'v'
              AND c_dropped ->> c.relname::text IS NOT NULL
              AND a.grantee <> c.relowner
            UNION ALL
            -- What pgq_grant gave, in terms of the new release; as there, a row counts if its role has the privileges.
            SELECT 2, format('PERFORM _pgq_grant_privileges(%L::regrole, %L)', p.role::oid, p.privilege)
            FROM pgq_permission AS p
            JOIN pg_roles AS r ON r.oid = p.role
            WHERE EXISTS (
                SELECT
                FROM pg_proc AS f
                CROSS JOIN LATERAL aclexplode(f.proacl) AS a
                WHERE f.pronamespace = quote_ident(c_schema)::regnamespace
                  AND f.proname = CASE p.privilege
                          WHEN 'producer' THEN 'pgq_enqueue'
                          WHEN 'worker' THEN 'pgq_claim'
                          WHEN 'admin' THEN 'pgq_cancel'
                          ELSE 'pgq_now'
                      END
                  AND a.grantee = p.role
            )
        ) AS g
    ), ''), true);
END
$upgrade_privileges_save$;
