-- Access by queue.
--
-- EXECUTE is the first gate: PostgreSQL refuses a role that was granted nothing. The row that pgq_grant writes in
-- pgq_permission is the second. The functions must check that row themselves: as SECURITY DEFINER they can see every
-- queue.
--
-- The role that counts is that of SET ROLE, or else the role of the session. The owner of a SECURITY DEFINER function
-- that calls pgq cannot be seen from inside, so its queues do not count. Membership counts as it does in PostgreSQL:
-- only where the member inherits.

-- Roles are stored by oid: a renamed role keeps its queues, and a role that is dropped and created again does not get
-- them back.
CREATE TABLE pgq_permission (
    privilege text COLLATE "C" NOT NULL,
    role      regrole          NOT NULL,
    queues    text[],

    CONSTRAINT pgq_permission_pkey PRIMARY KEY (privilege, role),

    CONSTRAINT pgq_permission_privilege_check CHECK (privilege IN ('producer', 'worker', 'admin', 'reader'))
);

COMMENT ON TABLE pgq_permission IS
    'The queues that a role may use with each of its privileges; written by pgq_grant and pgq_revoke.';
COMMENT ON COLUMN pgq_permission.privilege IS 'The privilege: producer, worker, admin or reader.';
COMMENT ON COLUMN pgq_permission.role IS
    'The role that was granted the privilege; roles that inherit from it have it, too.';
COMMENT ON COLUMN pgq_permission.queues IS 'The queues in which the role has the privilege; NULL: all.';


CREATE FUNCTION _pgq_calling_role() RETURNS name
    LANGUAGE sql
    STABLE
    RETURN CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;

COMMENT ON FUNCTION _pgq_calling_role() IS
    'Return the role on whose behalf a SECURITY DEFINER function runs: that of SET ROLE, or else that of the session.';


-- A security barrier. PostgreSQL evaluates an index expression or a materialized view with the rights of the table's
-- owner, but in the session of the role that analyzes, reindexes or refreshes it: without the barrier, a call of pgq
-- that the owner has planted there could use the queues of that role. In such a security-restricted operation
-- PostgreSQL refuses UNLISTEN (42501). Elsewhere the UNLISTEN of a channel without a listener changes nothing.
--
-- Without a search path of its own: it names no object, and a path would double what it costs each call.
CREATE FUNCTION _pgq_refuse_in_maintenance() RETURNS boolean
    LANGUAGE plpgsql
AS $_pgq_refuse_in_maintenance$
BEGIN
    UNLISTEN pgq_nothing;
    RETURN true;
END
$_pgq_refuse_in_maintenance$;

COMMENT ON FUNCTION _pgq_refuse_in_maintenance() IS
    'Raise 42501 inside an index expression or a materialized view, where PostgreSQL runs code of a table''s owner in '
    'the session of another role. Returns true elsewhere.';


-- An expression, so that PostgreSQL inlines it.
CREATE FUNCTION _pgq_acts_as_owner() RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN pg_has_role(_pgq_calling_role(), current_user, 'USAGE');

COMMENT ON FUNCTION _pgq_acts_as_owner() IS
    'Return whether the calling role has the rights of the owner of pgq, and so may use all queues. Call it only where '
    'current_user is that owner.';


-- Looked up once per call, so that the filter by queue costs the same for one job or a thousand.
CREATE FUNCTION _pgq_allowed_queues(privilege text) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_allowed_queues$
DECLARE
    -- Assigned, because PERFORM would cost a statement.
    v_elsewhere boolean := _pgq_refuse_in_maintenance();
    v_queues text[];
    v_allowed text[] := '{}';
BEGIN
    IF _pgq_acts_as_owner() THEN
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
    'Return the queues that the calling role may use with a privilege (producer, worker, admin or reader); NULL means '
    'all. Raises 42501 where _pgq_refuse_in_maintenance does.';


-- Call it before anything is looked up or locked: the error must not depend on which jobs there are.
CREATE FUNCTION _pgq_raise_denied(queue text, privilege text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_raise_denied$
BEGIN
    RAISE EXCEPTION 'role "%" may not use queue "%" as %', _pgq_calling_role(), left(queue, 200), privilege
        USING ERRCODE = 'insufficient_privilege',
              HINT = format('Ask the owner of pgq to run SELECT pgq_grant(%L, %L, ARRAY[%L]).',
                            _pgq_calling_role(), privilege, left(queue, 200));
END
$_pgq_raise_denied$;

COMMENT ON FUNCTION _pgq_raise_denied(text, text) IS
    'Raise 42501: the calling role may not use a queue with a privilege (producer, worker or admin).';
