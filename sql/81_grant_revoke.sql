-- Grant and revoke privileges. None includes another: a role that needs two is granted both.

CREATE FUNCTION pgq_grant(role text, privilege text, queues text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $pgq_grant$
DECLARE
    v_role regrole := _pgq_check_grant(role, privilege, queues);
BEGIN
    -- Where every role may create functions in this schema, a planted one can be a better match for a call in pgq's
    -- functions than the one that is meant.
    IF has_schema_privilege('public', current_schema(), 'CREATE') THEN
        RAISE EXCEPTION 'every role may create objects in the schema "%"', current_schema()
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Run REVOKE CREATE ON SCHEMA %I FROM PUBLIC first: objects planted there could act '
                                'with the rights of the owner of pgq.', current_schema());
    END IF;

    -- Forget roles that were dropped, and what this role was granted before it lost its privileges by hand or by DROP
    -- OWNED: it must not come back.
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
    'Grant a role a privilege: producer (enqueue, and read results), worker (claim, and all calls for claimed jobs), '
    'admin (cancel, retry, update, purge, configure, pause, and read all of the views) or reader (read the views, but '
    'no args, dedup_key, errors, result, context or group_key). Returns nothing. The role may use these queues, beside '
    'those it was granted before; for it, jobs in other queues do not exist. What counts in a call is the role of SET '
    'ROLE or else of the session, with the roles it inherits from; the owner of a function that calls pgq does not '
    'count. Only the owner of pgq may call it. NULL for queues means all; NULL for role, privilege or one of the '
    'queues raises 22004. Raises 42704 for an unknown role, 22023 for an unknown privilege or a bad queue, 55000 where '
    'every role may create objects in the schema.';


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
                      HINT = 'In one transaction, call pgq_revoke without queues, then pgq_grant with the others.';
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
    -- Privileges that the role still has may share functions and views with this one: grant those again.
    PERFORM _pgq_grant_privileges(v_role, p.privilege) FROM pgq_permission AS p WHERE p.role = v_role;
END
$pgq_revoke$;

COMMENT ON FUNCTION pgq_revoke(text, text, text[]) IS
    'Take a privilege back from a role, in these queues. Returns nothing, and does nothing if there is nothing to '
    'take. USAGE of the schema stays, and so does what the role inherits from others. Only the owner of pgq may call '
    'it. NULL for queues means all; NULL for role, privilege or one of the queues raises 22004. Raises PGQ03 if queues '
    'are given but the role may use all, 42704 and 22023 as pgq_grant.';
