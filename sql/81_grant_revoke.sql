-- Who may do what. The roles are siblings: grant two of them to who needs both.

CREATE FUNCTION pgq_grant(role text, privilege text, queues text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $pgq_grant$
DECLARE
    v_role regrole := _pgq_check_grant(role, privilege, queues);
BEGIN
    -- A function that anybody may create beside those of pgq can be a better match for a call in them than the one meant.
    IF has_schema_privilege('public', current_schema(), 'CREATE') THEN
        RAISE EXCEPTION 'everybody may create objects in the schema "%"', current_schema()
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('They could act with the rights of the owner of pgq: REVOKE CREATE ON SCHEMA %I FROM PUBLIC first.',
                                current_schema());
    END IF;

    -- What roles leave behind that were dropped, or lost their privileges by hand or by DROP OWNED, must not come back.
    DELETE FROM pgq_permission AS p
    WHERE p.role NOT IN (SELECT r.oid FROM pg_roles AS r)
       OR p.role = v_role
          AND p.privilege = pgq_grant.privilege
          AND NOT EXISTS (
              SELECT
              FROM pg_proc AS f
              CROSS JOIN LATERAL aclexplode(f.proacl) AS a
              WHERE f.oid = (_pgq_granted_functions(p.privilege))[1]::regproc
                AND a.grantee = p.role
          );

    INSERT INTO pgq_permission AS p (privilege, role, queues)
    VALUES (privilege, v_role, queues)
    ON CONFLICT ON CONSTRAINT pgq_permission_pkey DO UPDATE
    SET queues = CASE WHEN p.queues IS NOT NULL AND excluded.queues IS NOT NULL THEN
                     p.queues || ARRAY(SELECT q FROM unnest(excluded.queues) AS q WHERE q <> ALL (p.queues))
                 END;
    PERFORM _pgq_grant_privileges(v_role, privilege);
END
$pgq_grant$;

COMMENT ON FUNCTION pgq_grant(text, text, text[]) IS
    'Let a role use pgq: as producer enqueue; as worker claim and what follows; as admin cancel, retry, purge and see '
    'everything; as reader see counts and states, but neither args nor errors nor results. With queues only those, '
    'beside what it was granted before; without (NULL) all. What lies in other queues then is, for that role, not there. '
    'It is the role of the session or of SET ROLE that counts, and membership as in PostgreSQL; not the owner of a '
    'function that calls pgq. Only the owner of pgq can call it. NULL for role or what is refused (22004), an unknown '
    'role too (42704), another privilege or a bad queue (22023), and a schema in which everybody may create objects (55000).';


CREATE FUNCTION pgq_revoke(role text, privilege text, queues text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $pgq_revoke$
DECLARE
    v_role regrole := _pgq_check_grant(role, privilege, queues);
    v_permission pgq_permission;
    v_left text[];
BEGIN
    IF queues IS NOT NULL THEN
        SELECT p.* INTO v_permission
        FROM pgq_permission AS p
        WHERE p.privilege = pgq_revoke.privilege
          AND p.role = v_role
        FOR UPDATE;

        IF NOT FOUND THEN
            RETURN;
        END IF;
        IF v_permission.queues IS NULL THEN
            RAISE EXCEPTION 'role "%" may use all queues as %', role, privilege
                USING ERRCODE = 'PGQ03',
                      HINT = 'Call pgq_revoke without queues, then pgq_grant with those that are left, in one transaction.';
        END IF;
        v_left := ARRAY(SELECT q FROM unnest(v_permission.queues) AS q WHERE q <> ALL (pgq_revoke.queues));
        IF v_left <> '{}' THEN
            UPDATE pgq_permission AS p
            SET queues = v_left
            WHERE p.privilege = pgq_revoke.privilege
              AND p.role = v_role;
            RETURN;
        END IF;
    END IF;

    DELETE FROM pgq_permission AS p WHERE p.privilege = pgq_revoke.privilege AND p.role = v_role;
    PERFORM _pgq_revoke_privileges(v_role, privilege);
    -- Some privileges belong to several.
    PERFORM _pgq_grant_privileges(v_role, p.privilege) FROM pgq_permission AS p WHERE p.role = v_role;
END
$pgq_revoke$;

COMMENT ON FUNCTION pgq_revoke(text, text, text[]) IS
    'Take back what pgq_grant gave a role: these queues, or (NULL) all of it. Usage of the schema remains, and what the '
    'role is granted as a member of others. Nothing happens when there is nothing to take; PGQ03 is raised when queues '
    'are to be taken from a role that may use all. Only the owner of pgq can call it. Bad arguments as in pgq_grant.';
