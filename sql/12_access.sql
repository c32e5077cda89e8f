-- Who may use which queues.
--
-- EXECUTE is the first gate: PostgreSQL itself keeps out who was granted nothing. The second is the row that pgq_grant
-- writes beside it, and it is for the functions to ask, because they act with the rights of the owner and see all queues.
--
-- Whom a function acts for is what the session says: the role of SET ROLE, or else the one it was opened for. A role
-- between the two, the owner of a SECURITY DEFINER function that calls pgq, cannot be told from inside, so it lends
-- nobody its queues. Membership counts as PostgreSQL counts it: that of a role that inherits.

-- By oid, because a role that is renamed keeps its rights and one that is dropped and made again does not get them back.
CREATE TABLE pgq_permission (
    privilege text    NOT NULL,
    role      regrole NOT NULL,
    queues    text[],

    CONSTRAINT pgq_permission_pkey PRIMARY KEY (privilege, role),

    CONSTRAINT pgq_permission_privilege_check CHECK (privilege IN ('producer', 'worker', 'admin', 'reader'))
);

COMMENT ON TABLE pgq_permission IS 'Which queues a role may use, beside its privileges; written by pgq_grant and pgq_revoke.';
COMMENT ON COLUMN pgq_permission.privilege IS 'producer, worker, admin or reader.';
COMMENT ON COLUMN pgq_permission.role IS 'The role; its members, too, if they inherit.';
COMMENT ON COLUMN pgq_permission.queues IS 'The queues; NULL: all.';


CREATE FUNCTION _pgq_calling_role() RETURNS name
    LANGUAGE sql
    STABLE
    RETURN CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;

COMMENT ON FUNCTION _pgq_calling_role() IS
    'The role that a function which acts with the rights of the owner is acting for.';


-- A security barrier. PostgreSQL evaluates an index expression or a materialized view with the rights of the table's
-- owner in the session of the role that analyzes, reindexes or refreshes the table, autovacuum included: without the
-- barrier, a call of pgq planted there would run with the queues of that session's role. UNLISTEN of a channel that has
-- no listener changes nothing, but PostgreSQL refuses it (42501) in these places and in no others.
CREATE FUNCTION _pgq_refuse_in_maintenance() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_refuse_in_maintenance$
BEGIN
    UNLISTEN pgq_nothing;
END
$_pgq_refuse_in_maintenance$;

COMMENT ON FUNCTION _pgq_refuse_in_maintenance() IS
    'Raise 42501 inside an index expression or a materialized view, where PostgreSQL runs code of a table''s owner in the '
    'session of another role.';


-- Looked up once per call, so that the filter by queue costs the same for one job or a thousand.
CREATE FUNCTION _pgq_allowed_queues(privilege text) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_allowed_queues$
DECLARE
    v_queues text[];
    v_allowed text[] := '{}';
BEGIN
    PERFORM _pgq_refuse_in_maintenance();

    IF pg_has_role(_pgq_calling_role(), current_user, 'USAGE') THEN
        RETURN NULL;
    END IF;
    FOR v_queues IN
        SELECT p.queues
        FROM pgq_permission AS p
        WHERE p.privilege = _pgq_allowed_queues.privilege
          AND pg_has_role(_pgq_calling_role(), p.role::oid, 'USAGE')
    LOOP
        IF v_queues IS NULL THEN
            RETURN NULL;
        END IF;
        v_allowed := v_allowed || v_queues;
    END LOOP;
    RETURN v_allowed;
END
$_pgq_allowed_queues$;

COMMENT ON FUNCTION _pgq_allowed_queues(text) IS
    'The queues that the caller is limited to as a producer, worker, admin or reader; NULL: he may use all.';


-- To be called before anything is looked up or locked: the answer must not depend on what there is.
CREATE FUNCTION _pgq_raise_denied(queue text, privilege text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_raise_denied$
BEGIN
    RAISE EXCEPTION 'role "%" may not use queue "%" as %', _pgq_calling_role(), left(queue, 200), privilege
        USING ERRCODE = 'insufficient_privilege',
              HINT = format('The owner of pgq can change that: SELECT pgq_grant(%L, %L, ARRAY[%L]).',
                            _pgq_calling_role(), privilege, left(queue, 200));
END
$_pgq_raise_denied$;

COMMENT ON FUNCTION _pgq_raise_denied(text, text) IS
    'Raise 42501: the caller may not use the queue as a producer, worker or admin.';
